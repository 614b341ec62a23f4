"""Sheets that were filled in with Label Studio: its JSON export (the full one, a list of tasks)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sra_fast.tools.strict_json import decode_utf8, parse_json

from .errors import AnnotationError
from .rating_tables import Row
from .sheet_files import PREFERENCE


def is_label_studio(path: Path) -> bool:
    """Whether a file is one JSON list, as only that export is here."""
    return path.read_bytes().removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"["


def read_label_studio(path: Path) -> list[tuple[str, Row]]:
    """``(where, row)`` for each annotation, as ``tables.read_table`` gives a filled-in sheet.

    Cancelled annotations are none. A task without an annotation is a row with an empty preference.

    Raises:
        AnnotationError: not such an export.
        OSError: the file cannot be read.
    """
    text = decode_utf8(path.read_bytes(), path.name, raises=AnnotationError)
    tasks = parse_json(text, path.name, raises=AnnotationError)
    rows: list[tuple[str, Row]] = []
    for number, task in enumerate(tasks if isinstance(tasks, list) else [], start=1):
        where = f"{path.name} task {number}"
        try:
            data = {name: task["data"][name] for name in ("export", "annotator", "item")}
            found = [_choice(one) for one in task["annotations"] if not one.get("was_cancelled")]
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise AnnotationError(
                f"{where}: not a task of a full JSON export ({type(error).__name__}: {error}); "
                "export from Label Studio as JSON, not JSON-MIN or CSV"
            ) from error
        rows += [(where, {**data, PREFERENCE: choice}) for choice in found or [""]]
    return rows


def _choice(annotation: Any) -> str:
    """What was chosen, "" if nothing was."""
    for result in annotation["result"]:
        if result.get("from_name") == PREFERENCE:
            return str(result["value"]["choices"][0])
    return ""
