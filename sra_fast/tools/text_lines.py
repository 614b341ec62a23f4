"""Read the lines of a text file one by one, also from gzip, and tell encodings apart."""

from __future__ import annotations

import gzip
import io
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from sra_fast.tools.strict_json import decode_utf8

GZIP = b"\x1f\x8b"
"""The bytes that a gzip file begins with."""

_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_UTF32 = (b"\xff\xfe\x00\x00", b"\x00\x00\xfe\xff")


def text_lines(
    path: str | os.PathLike[str], *, raises: type[ValueError]
) -> Iterator[tuple[int, str]]:
    """Yield the lines of a text file as ``(number, line)``, from 1, with the ends of the lines.

    The text is UTF-8, with or without a byte order mark, or UTF-16 with one, and may be packed by
    gzip. Only a line feed ends a line.

    Args:
        path: the file.
        raises: class of the error to raise.

    Raises:
        raises: the file is damaged or in another encoding; the message names file and line.
        OSError: the file cannot be read.
    """
    file = Path(path)
    number = 0
    try:
        with opened_bytes(file) as stream:
            start = stream.read(4)
            if start in _UTF32:
                raise raises(f"{file.name}: this is UTF-32; save the file as UTF-8")
        with opened_bytes(file) as stream:
            if start[:2] in _UTF16:
                for number, text in enumerate(_utf16_lines(stream, file.name, raises), start=1):
                    yield number, text
                return
            for number, line in enumerate(stream, start=1):
                where = f"{file.name} line {number}"
                text = decode_utf8(line, where, raises=raises)
                if "\0" in text:
                    raise raises(
                        f"{where}: holds zero bytes, as UTF-16 without a byte order mark and files "
                        "that are no text do; save the file as UTF-8"
                    )
                yield number, text
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise raises(
            f"{file.name}: the gzip file is damaged after line {number} ({error}); it was cut off "
            "or changed on its way, so get it again"
        ) from error


def opened_bytes(file: Path) -> IO[bytes]:
    """Open a file for reading bytes, and unpack it if it is packed by gzip.

    Raises:
        OSError: the file cannot be read.
    """
    with file.open("rb") as stream:
        packed = stream.read(2) == GZIP
    return io.BufferedReader(gzip.GzipFile(file)) if packed else file.open("rb")


def _utf16_lines(stream: IO[bytes], name: str, raises: type[ValueError]) -> Iterator[str]:
    try:
        yield from io.TextIOWrapper(stream, encoding="utf-16", newline="\n")
    except UnicodeDecodeError as error:
        raise raises(
            f"{name}: the file begins as UTF-16 and is not UTF-16 further on ({error.reason}); "
            "save it as UTF-8"
        ) from error
