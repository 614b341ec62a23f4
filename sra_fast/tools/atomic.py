"""Write files so that they appear whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replaced_atomically(path: Path) -> Iterator[Path]:
    """Give a temporary path that takes the place of ``path`` if the block ends without an error.

    Yields:
        The path to write to. What is written there is on the disk before ``path`` is replaced.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~umask())  # some writers keep their files to their owner
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def writable_file(path: str | Path) -> Path:
    """Return the path of a file that is to be written, whose folder is there.

    Raises:
        OSError: it is a folder, or there is no folder to write it to; the message has the path.
    """
    file = Path(path)
    if file.is_dir():
        raise IsADirectoryError(f"{path}: this is a folder; give the path of a file in it")
    if not file.parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {file.parent}; make it first")
    return file


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all."""
    with replaced_atomically(path) as temporary:
        temporary.write_bytes(text.encode("utf-8"))


def write_json(path: Path, value: Any, *, indent: int | None = 2) -> None:
    """Write a value as JSON in UTF-8, whole or not at all.

    Args:
        path: the file to write.
        value: what JSON can say.
        indent: spaces of a level; None for a single line, for long lists of numbers.

    Raises:
        ValueError: the value holds NaN or an infinity, which JSON does not know.
    """
    write_text(path, json_text(value, indent=indent))


def write_json_lines(path: Path, records: Iterable[Any]) -> None:
    """Write one value a line as JSON in UTF-8, whole or not at all.

    Raises:
        ValueError: a value holds NaN or an infinity, which JSON does not know.
    """
    write_text(path, "".join(json_text(record, indent=None) for record in records))


def json_text(value: Any, *, indent: int | None = 2) -> str:
    """Return what :func:`write_json` writes, with the line break that ends it.

    Raises:
        ValueError: the value holds NaN or an infinity, which JSON does not know.
    """
    return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False) + "\n"


def umask() -> int:
    """Return the permission bits that new files of this process are created without."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
