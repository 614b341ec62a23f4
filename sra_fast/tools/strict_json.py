"""Read JSON and texts from outside strictly: nothing is skipped or repaired.

Each file format has an error class of its own, and its user should see that one, so every
function here takes the class to raise. The message names the place and the way out.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

_SURROGATE = re.compile("[\ud800-\udfff]")


def read_json_lines(
    path: str | os.PathLike[str],
    *,
    raises: type[ValueError],
    instead_of_a_list: str = "write each entry on a line of its own",
) -> list[tuple[str, object]]:
    """Read a JSONL file as ``(where, value)`` pairs, and leave blank lines out.

    Args:
        path: the file.
        raises: class of the error to raise.
        instead_of_a_list: what to do with a file that is one JSON list, for the error message.

    Raises:
        raises: the file is one JSON list, or a line is not UTF-8 or not JSON; the message names
            file, line and column.
        OSError: the file cannot be read.
    """
    file = Path(path)
    if file.read_bytes()[:64].lstrip().startswith(b"["):
        raise raises(
            f"{file.name}: this is one JSON list, not an object a line; {instead_of_a_list}"
        )
    values: list[tuple[str, object]] = []
    # Only "\n" ends a line of JSONL: str.splitlines would also cut at U+2028, which may stand
    # inside a JSON string.
    for number, line in enumerate(file.read_bytes().split(b"\n"), start=1):
        text = decode_utf8(line, f"{file.name} line {number}", raises=raises)
        if text.strip():
            where = f"{file.name} line {number}"
            value = parse_json(text, file.name, first_line=number, raises=raises)
            values.append((where, value))
    return values


def json_values(
    path: str | os.PathLike[str], *, raises: type[ValueError]
) -> Iterator[tuple[str, object]]:
    """Yield the values of a JSON file as ``(where, value)`` pairs.

    The file may hold one value a line (JSONL), one list, whose entries are the values, or one
    object over several lines.

    Args:
        path: the file.
        raises: class of the error to raise.

    Raises:
        raises: a line or the whole is not UTF-8 or not JSON; the message names file, line and
            column.
        OSError: the file cannot be read.
    """
    file = Path(path)
    with file.open("rb") as stream:
        head = b""
        while not head.strip() and (line := stream.readline()):
            head = line.removeprefix(b"\xef\xbb\xbf")
    if not is_json_whole(head):
        yield from read_json_lines(path, raises=raises)
        return
    text = decode_utf8(file.read_bytes(), file.name, raises=raises)
    value = parse_json(text, file.name, raises=raises)
    if isinstance(value, list):
        yield from ((f"{file.name}[{index}]", one) for index, one in enumerate(value))
    else:
        yield file.name, value


def is_json_whole(line: bytes) -> bool:
    """Tell by its first line whether a file is one JSON list or object, and not JSON by lines."""
    start = line.strip()[:1]
    if start == b"[":
        return True
    if start != b"{":
        return False
    try:
        json.loads(line)
    except ValueError as error:
        # A line that breaks off before its object ends is the first of several.
        return isinstance(error, json.JSONDecodeError) and error.pos >= len(line.rstrip())
    except RecursionError:
        return False
    return False


def decode_utf8(data: bytes, where: str, *, raises: type[ValueError]) -> str:
    """Decode bytes as UTF-8, with or without a byte order mark.

    Args:
        data: the bytes.
        where: their place, for the error message.
        raises: class of the error to raise.

    Raises:
        raises: the bytes are not UTF-8; the message names ``where`` and the first wrong byte.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise raises(
            f"{where}: byte {error.start + 1} is not UTF-8; save the file as UTF-8"
        ) from error


def parse_json(text: str, where: str, *, raises: type[ValueError], first_line: int = 1) -> object:
    """Parse one JSON value, and refuse NaN, infinities and an object with the same key twice.

    Args:
        text: the JSON.
        where: its place, for the error message.
        raises: class of the error to raise.
        first_line: number of the text's first line in its file, from 1.

    Raises:
        raises: the text is not such JSON; the message names ``where``, line and column.
    """

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise raises(
                f"{where} line {first_line}: key {twice!r} stands twice in one object; keep one"
            )
        return found

    def refuse(constant: str) -> object:
        raise raises(
            f"{where} line {first_line}: {constant} is no number of JSON; write null where there "
            "is no value"
        )

    try:
        value: object = json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
    except json.JSONDecodeError as error:
        raise raises(
            f"{where} line {first_line + error.lineno - 1}, column {error.colno}: "
            f"not valid JSON ({error.msg}); check the commas, quotes and line breaks there, or "
            "write the file with a JSON library"
        ) from error
    except raises:
        raise
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, 10,000 brackets
        raise raises(f"{where} line {first_line}: not usable JSON ({error})") from error
    return value


def clean_text(value: object, what: str, *, raises: type[ValueError]) -> str:
    """Return a text without the white space around it.

    Args:
        value: what should be a text.
        what: its name, with which the error message begins.
        raises: class of the error to raise.

    Raises:
        raises: the value is not a string, is nothing but white space, or has half of a surrogate
            pair in it, which no tokenizer can encode.
    """
    if not isinstance(value, str):
        raise raises(
            f"{what} must be a string, found {type(value).__name__}; "
            "leave an optional field out where there is nothing to say"
        )
    text = value.strip()
    if not text:
        raise raises(f"{what} is empty; give it text or leave it out")
    if half := _SURROGATE.search(text):
        raise raises(
            f"{what} holds half of a surrogate pair (U+{ord(half[0]):04X}) at character "
            f"{half.start() + 1}; write the whole character, or leave it out"
        )
    return text
