"""Name the format of a file: what contains its entries, and what an entry is the form of.

This looks at the beginning of a file and never refuses one; whoever reads it does that.
"""

from __future__ import annotations

import csv
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from sra_fast.chat.record_fields import MESSAGE_FIELDS, RECORD_FIELDS
from sra_fast.tools.strict_json import is_json_whole
from sra_fast.tools.text_lines import GZIP, opened_bytes

Container = Literal["lines", "whole", "table", "parquet", "folder"]
"""The kinds of file: JSON by lines, one JSON value, CSV, Parquet, or a ``datasets`` folder."""

Form = Literal["own", "esconv", "annomi", "sharegpt", "openai", "table"]
"""The forms of an entry: a conversation in one of the known forms, or a line of any other table."""

_CONTAINERS: dict[Container, str] = {
    "lines": "JSON, one object a line",
    "whole": "JSON",
    "table": "CSV",
    "parquet": "Parquet",
    "folder": "a folder that the datasets library saved",
}
FORMS: dict[Form, str] = {
    "own": "conversations in this library's own form",
    "esconv": "dialogues as ESConv keeps them",
    "annomi": "a table of utterances as AnnoMI keeps them",
    "sharegpt": "conversations as ShareGPT keeps them",
    "openai": "messages as OpenAI's interface takes them",
    "table": "a table",
}
"""The name of each form in messages."""

_ZIP, _PARQUET = b"PK\x03\x04", b"PAR1"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_HEAD = 1 << 20  # bytes; the first entry of most files is far shorter
_DELIMITERS = ",;\t|"
_SAVED = ("dataset_info.json", "dataset_dict.json")
ANNOMI_COLUMNS = ("transcript_id", "utterance_id", "interlocutor", "utterance_text")
"""The columns that tell AnnoMI's table."""


def container_of(path: Path) -> Container | None:
    """Return what holds the entries of a file or folder; None if it is nothing that is known.

    Raises:
        OSError: the file cannot be read.
    """
    if path.is_dir():
        return "folder" if any((path / name).is_file() for name in _SAVED) else None
    with path.open("rb") as stream:
        start = stream.read(4)
    if start == _PARQUET:
        return "parquet"
    if start == _ZIP:
        return None
    line = _first_line(path)
    if line is None:
        return None
    if line.strip()[:1] in ("[", "{"):
        return "whole" if is_json_whole(line.encode("utf-8", "replace")) else "lines"
    named = {suffix.lower() for suffix in path.suffixes} & {".csv", ".tsv", ".tab"}
    header = header_of(line)
    if named or set(ANNOMI_COLUMNS) & set(header):
        return "table"
    return None


def form_of(entry: object) -> Form | None:
    """Return the form of an entry: a conversation, or a line of a table; None if it is neither."""
    if isinstance(entry, list):
        return _form_of_messages(entry)
    if not isinstance(entry, Mapping):
        return None
    if isinstance(entry.get("dialog"), list):
        return "esconv"
    for name in ("conversations", "conversation"):
        if isinstance(entry.get(name), list):
            return _form_of_messages(entry[name]) or "sharegpt"
    if isinstance(entry.get("messages"), list):
        found = _form_of_messages(entry["messages"])
        return "own" if found == "openai" and _is_own(entry) else found or "openai"
    if {"interlocutor", "utterance_text"} <= set(entry):
        return "annomi"
    if entry and not any(isinstance(value, (list, Mapping)) for value in entry.values()):
        return "table"
    return None


def foreign_format(path: Path) -> str | None:
    """Return the name of a file's format if it is one that can be converted, and not our own.

    Raises:
        OSError: the file cannot be read.
    """
    container = container_of(path)
    gzipped = _starts_with(path, GZIP)
    if container is None:
        other = "a ZIP or Excel file" if _starts_with(path, _ZIP) else None
        return "a file packed by gzip" if gzipped else other
    if container in ("parquet", "folder"):
        return _CONTAINERS[container]
    line = _first_line(path) or ""
    how = _CONTAINERS[container]
    how += " in UTF-16" if _starts_with(path, *_UTF16) else ""
    how += ", packed by gzip" if gzipped else ""
    if container == "table":
        form: Form | None = "annomi" if set(ANNOMI_COLUMNS) <= set(header_of(line)) else "table"
    else:
        entry = _first_entry(path, container, line)
        form = form_of(entry)
        if form == "openai" and isinstance(entry, Mapping) and _is_meant_as_own(entry):
            form = "own"
        if form in ("own", "table", None) and how in _CONTAINERS.values():
            return None
    return how if form is None else f"{FORMS[form]} ({how})"


def lacks_strategies(path: Path) -> bool:
    """Tell whether a file begins with messages in our own form, but for a strategy.

    Raises:
        OSError: the file cannot be read.
    """
    container = container_of(path)
    if container not in ("lines", "whole"):
        return False
    entry = _first_entry(path, container, _first_line(path) or "")
    return isinstance(entry, Mapping) and form_of(entry) == "openai" and _has_own_fields(entry)


def is_plain_json(path: Path) -> bool:
    """Tell whether a file begins like JSON that is neither packed nor in UTF-16.

    Raises:
        OSError: the file cannot be read.
    """
    return container_of(path) in ("lines", "whole") and not _starts_with(path, GZIP, *_UTF16)


def header_of(line: str) -> list[str]:
    """Return the names of the columns in the first line of a table."""
    return [name.strip() for name in _cells(line, delimiter_of(line))]


def delimiter_of(line: str) -> str:
    """Return the character that separates the columns: the one that makes most of them."""
    return max(_DELIMITERS, key=lambda one: len(_cells(line, one)))


def _cells(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:  # too long for a cell, or no text at all
        return [line]


def _is_own(entry: Mapping[str, object]) -> bool:
    """Tell whether messages are a conversation of our own form: nothing in it is foreign to it."""
    return _has_own_fields(entry) and _names_strategies(entry)


def _has_own_fields(entry: Mapping[str, object]) -> bool:
    """Tell whether nothing in a conversation is foreign to our own form, strategies aside."""
    messages = entry["messages"]
    if not isinstance(messages, list) or not set(entry) <= set(RECORD_FIELDS):
        return False
    for message in messages:
        if not isinstance(message, Mapping) or not set(message) <= set(MESSAGE_FIELDS):
            return False
        if message.get("role") not in ("user", "assistant"):
            return False
        if not isinstance(message.get("content"), str):
            return False
    return True


def _form_of_messages(messages: list[object]) -> Form | None:
    first = messages[0] if messages else None
    if not isinstance(first, Mapping):
        return None
    if "from" in first and "value" in first:
        return "sharegpt"
    return "openai" if "role" in first else None


def _is_meant_as_own(entry: Mapping[str, object]) -> bool:
    """Tell whether messages are meant as our own form, whatever may be wrong with them."""
    ours = any(entry.get(name) is not None for name in ("situation", "response"))
    return _names_strategies(entry) or (ours and _has_own_fields(entry))


def _names_strategies(entry: Mapping[str, object]) -> bool:
    """Tell whether a strategy stands in messages of a user and an assistant, or beside them."""
    messages = entry["messages"]
    if not isinstance(messages, list) or any(
        not isinstance(m, Mapping) or m.get("role") in ("system", "developer", "tool", "function")
        for m in messages
    ):
        return False
    holders = [entry, *messages]
    return any(holder.get("strategy") is not None for holder in holders)


def _first_entry(path: Path, container: Container, line: str) -> object:
    try:
        if container == "lines":
            return json.loads(line)
        with opened_bytes(path) as stream:
            data = stream.read()
        value = json.loads(data.decode("utf-16" if data[:2] in _UTF16 else "utf-8-sig"))
    except (ValueError, RecursionError, EOFError, zlib.error, OSError):
        return None
    if isinstance(value, list) and form_of(value) is None:
        return value[0] if value else None
    return value


def _first_line(path: Path) -> str | None:
    """Return the first line that is not blank, or None if the file is no text."""
    try:
        with opened_bytes(path) as stream:
            head = stream.read(_HEAD)
    except (EOFError, zlib.error, OSError):
        return None
    encoding = "utf-16" if head[:2] in _UTF16 else "utf-8-sig"
    text = head.decode(encoding, "replace").lstrip()
    return text.partition("\n")[0].partition("\r")[0]


def _starts_with(path: Path, *starts: bytes) -> bool:
    if path.is_dir():
        return False
    with path.open("rb") as stream:
        return stream.read(4).startswith(starts)
