"""The key to blinded sheets, read back."""

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
    """What the sheets do not tell of an item.

    Attributes:
        dialogue: what it was cut from; None in keys that do not name it.
        sra_a, sra_b: of both replies, if known.
        first: per annotator the system that stood first.
    """

    dialogue: str | None
    sra_a: float | None
    sra_b: float | None
    first: dict[str, str]


@dataclass(frozen=True)
class Key:
    """As ``sra_fast.training.pipeline.annotation.sheets.make_sheets`` writes it."""

    export: str
    system_a: str
    system_b: str
    items: dict[str, KeyItem]


def read_key(path: Path) -> Key:
    """Reads ``key.json``.

    Raises:
        AnnotationError: it is no such file.
        OSError: it cannot be read.
    """
    text = decode_utf8(path.read_bytes(), path.name, raises=AnnotationError)
    value = parse_json(text, path.name, raises=AnnotationError)
    if not isinstance(value, dict) or value.get("format") != KEY_FORMAT:
        raise AnnotationError(
            f"{path.name}: not the key of an export (format {KEY_FORMAT!r}); give the key.json "
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
