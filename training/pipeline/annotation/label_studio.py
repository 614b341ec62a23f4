"""Read sheets that were filled in with Label Studio from its full JSON export, a list of tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sra_fast.tools.strict_json import decode_utf8, parse_json

from .errors import AnnotationError
from .rating_tables import TableRow
from .sheet_files import PREFERENCE


def is_label_studio(path: Path) -> bool:
    """Tell whether a file is an export of Label Studio: it alone is one JSON list here."""
    return path.read_bytes().removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"["


def read_label_studio(path: Path) -> list[tuple[str, TableRow]]:
    """Read the annotations of an export, in the form that ``read_table`` gives a sheet.

    Cancelled annotations are left out. A task without an annotation has an empty preference.

    Args:
        path: the JSON file that Label Studio exported.

    Returns:
        For each annotation, its place in the file for messages, and the fields of a filled-in
        sheet.

    Raises:
        AnnotationError: the file is not a full JSON export of Label Studio.
        OSError: the file cannot be read.
    """
    text = decode_utf8(path.read_bytes(), path.name, raises=AnnotationError)
    tasks = parse_json(text, path.name, raises=AnnotationError)
    rows: list[tuple[str, TableRow]] = []
    for number, task in enumerate(tasks if isinstance(tasks, list) else [], start=1):
        where = f"{path.name} task {number}"
        try:
            data = {name: task["data"][name] for name in ("export", "annotator", "item")}
            found = [_choice(one) for one in task["annotations"] if not one.get("was_cancelled")]
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise AnnotationError(
                f"{where}: is not a task of a full JSON export ({type(error).__name__}: {error}); "
                "export from Label Studio as JSON, not JSON-MIN or CSV"
            ) from error
        rows += [(where, {**data, PREFERENCE: choice}) for choice in found or [""]]
    return rows


def _choice(annotation: Any) -> str:
    """Return the preference that an annotation chose; empty if it chose none."""
    for result in annotation["result"]:
        if result.get("from_name") == PREFERENCE:
            return str(result["value"]["choices"][0])
    return ""
