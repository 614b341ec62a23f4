"""Files of JSON lines that grow while a run goes on, a line at a time.

A run that was killed leaves whole lines and at most one that was cut, the last, which has no line
end. That one is no part of the file for whoever reads it here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def whole_lines(path: Path) -> list[bytes]:
    """Return the lines that were written to their end, without the line ends.

    Raises:
        OSError: the file cannot be read.
    """
    return path.read_bytes().split(b"\n")[:-1]


def drop_cut_line(path: Path) -> None:
    """Remove a last line that was cut, so that the next one begins on a line of its own.

    Raises:
        OSError: the file cannot be read or written.
    """
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        os.truncate(path, whole)


def append_line(path: Path, record: Mapping[str, Any]) -> None:
    """Add a record as one line, which is on the disk when this returns.

    Raises:
        OSError: the file cannot be written.
    """
    with path.open("ab") as file:
        file.write(json_line(record).encode("utf-8"))
        file.flush()
        os.fsync(file.fileno())


def json_line(record: Mapping[str, Any]) -> str:
    """Return a record as one line of JSON, with its line end.

    NaN and the infinities are written as Python writes them, ``NaN``, which strict JSON does not
    know: the SRA of a definition that leaves nothing to average is logged as what it is.
    """
    return json.dumps(record, ensure_ascii=False) + "\n"
