"""Read the fields of a conversation record strictly, and say where in it something is wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NoReturn

from sra_fast.tools.argument_error import ArgumentError
from sra_fast.tools.strict_json import clean_text
from sra_fast.tools.suggestions import did_you_mean

RECORD_FIELDS = (
    "id",
    "dialogue",
    "language",
    "situation",
    "messages",
    "strategy",
    "response",
    "meta",
)
"""The fields that a conversation has in a file."""

MESSAGE_FIELDS = ("role", "content", "strategy")
"""The fields that a message of a conversation has in a file."""

LARGEST = 2**63
"""The first whole number that is none to the tables that results are kept in."""


class ConversationError(ArgumentError):
    """Raised when a conversation cannot be used.

    The message names the file, the line, the conversation, the field and the way out.
    """


def label_of(identity: str, where: str) -> str:
    """Return what errors call a conversation, e.g. ``conversation 'c7' (a.jsonl line 3)``."""
    return f"conversation {identity!r} ({where})" if where else f"conversation {identity!r}"


def fail(label: str, field: str, problem: str) -> NoReturn:
    """Raise the error that says what is wrong with a field.

    Raises:
        ConversationError: always.
    """
    raise ConversationError(f"{label}: field {field!r} {problem}")


def text_field(
    record: Mapping[str, object], field: str, label: str, prefix: str = ""
) -> str | None:
    """Return a text without white space around it, or None if it is missing or null.

    Raises:
        ConversationError: there is something else than a text, or an empty one.
    """
    if record.get(field) is None:
        return None
    return clean_text(record[field], f"{label}: field {prefix + field!r}", raises=ConversationError)


def identity_field(record: Mapping[str, object], field: str, label: str) -> str | None:
    """Return an identity, which may also be a whole number, as a text; None if missing or null.

    Raises:
        ConversationError: there is neither a text nor a whole number.
    """
    value = record.get(field)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return text_field(record, field, label)


def meta_field(record: Mapping[str, object], label: str) -> dict[str, object]:
    """Return the metadata of a record: names and values that JSON can say; empty if there is none.

    Raises:
        ConversationError: it is no object, or holds what no table of results could keep.
    """
    meta = record.get("meta")
    if meta is None:
        return {}
    if not isinstance(meta, Mapping):
        fail(label, "meta", f"must be an object of names and values, found {type(meta).__name__}")
    for name, value in meta.items():
        place = f"meta.{name}"
        if not isinstance(name, str) or not name.strip():
            fail(label, "meta", f"has the name {name!r}; give every value a name")
        clean_text(name, f"{label}: a name in field 'meta'", raises=ConversationError)
        _check_value(value, place, label)
    return dict(meta)


def refuse_unknown(
    record: Mapping[str, object], fields: tuple[str, ...], label: str, prefix: str = ""
) -> None:
    """Refuse a record with a field that is not known, and suggest the nearest.

    Raises:
        ConversationError: there is such a field.
    """
    for key in record:
        if key not in fields:
            known = ", ".join(repr(field) for field in fields)
            way = "" if prefix else "; what is to be kept beside the conversation goes into 'meta'"
            raise ConversationError(
                f"{label}: unknown field {prefix + str(key)!r}{did_you_mean(key, fields)} "
                f"(known: {known}){way}"
            )


def _check_value(value: object, place: str, label: str) -> None:
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, str):
        if value.strip():
            clean_text(value, f"{label}: field {place!r}", raises=ConversationError)
    elif isinstance(value, int):
        if not -LARGEST <= value < LARGEST:
            fail(label, place, "has more than 64 bits; write it as a text")
    elif isinstance(value, float):
        if not math.isfinite(value):
            fail(label, place, f"is {value}, which JSON does not know; leave it out")
    elif isinstance(value, (list, tuple)):
        for index, one in enumerate(value):
            _check_value(one, f"{place}[{index}]", label)
    elif isinstance(value, Mapping):
        for name, one in value.items():
            clean_text(name, f"{label}: a name in field {place!r}", raises=ConversationError)
            _check_value(one, f"{place}.{name}", label)
    else:
        fail(label, place, f"is {type(value).__name__}, which JSON does not know; write a text")
