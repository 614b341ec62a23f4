"""Read the key to blinded sheets, which tells which system wrote which reply."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sra_fast.tools.strict_json import decode_utf8, parse_json

from .errors import AnnotationError
from .rating_tables import number_of, text_of
from .sheets import KEY_FORMAT


@dataclass(frozen=True)
class KeyItem:
    """What the blinded sheets do not tell of an item.

    Attributes:
        dialogue: the dialogue that the item was cut from; None in keys that do not name it.
        sra_a: the SRA of the reply of system a, or None if unknown.
        sra_b: the SRA of the reply of system b, or None if unknown.
        first: which system's reply stood first, "a" or "b", by the name of the annotator.
    """

    dialogue: str | None
    sra_a: float | None
    sra_b: float | None
    first: dict[str, str]


@dataclass(frozen=True)
class Key:
    """A key that :func:`~sra_fast.training.pipeline.annotation.sheets.make_sheets` made.

    Attributes:
        export: the name of the export, which every sheet repeats.
        system_a: the name of system a.
        system_b: the name of system b.
        items: what the sheets do not tell, by the id of the item.
    """

    export: str
    system_a: str
    system_b: str
    items: dict[str, KeyItem]


def read_key(path: Path) -> Key:
    """Read a key from the file ``key.json`` of an export.

    Args:
        path: the file.

    Raises:
        AnnotationError: the file is not the key of an export, or was altered.
        OSError: the file cannot be read.
    """
    text = decode_utf8(path.read_bytes(), path.name, raises=AnnotationError)
    value = parse_json(text, path.name, raises=AnnotationError)
    if not isinstance(value, dict) or value.get("format") != KEY_FORMAT:
        raise AnnotationError(
            f"{path.name}: is not the key of an export (format {KEY_FORMAT!r}); give the key.json "
            "that was written with the sheets"
        )
    try:
        names = [text_of(value[name], name) for name in ("export", "system_a", "system_b")]
        items = {item: _item(entry) for item, entry in value["items"].items()}
    except (KeyError, AttributeError, TypeError, AnnotationError) as error:
        raise AnnotationError(
            f"{path.name}: the key was altered ({type(error).__name__}: {error}); restore it, or "
            "write it again with the same export"
        ) from error
    return Key(names[0], names[1], names[2], items)


def _item(entry: Any) -> KeyItem:
    first = {str(name): side for name, side in entry["first"].items()}
    if not set(first.values()) <= {"a", "b"}:
        raise AnnotationError(f"'first' must be 'a' or 'b', found {first}")
    return KeyItem(
        text_of(entry["dialogue"], "dialogue") if "dialogue" in entry else None,
        number_of(entry["sra_a"], "sra_a"),
        number_of(entry["sra_b"], "sra_b"),
        first,
    )
