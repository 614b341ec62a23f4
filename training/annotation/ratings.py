"""Filled-in judgements, from flat tables or from sheets and their key."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sra_fast.training.annotation.errors import AnnotationError
from sra_fast.training.annotation.key import Key
from sra_fast.training.annotation.label_studio import is_label_studio, read_label_studio
from sra_fast.training.annotation.sheet_files import PREFERENCE
from sra_fast.training.annotation.tables import Row, number_of, read_table, text_of

STRONGEST = 4
FLAT_FIELDS = ("item", "annotator", PREFERENCE, "sra_a", "sra_b", "system_a", "system_b")
FILLED_FIELDS = ("export", "annotator", "item", PREFERENCE)

_WHOLE = re.compile(r"[+-]?\d{1,9}(\.0*)?")


@dataclass(frozen=True)
class Item:
    """Two replies that were compared: the systems' names, and the SRA if it is known."""

    system_a: str
    system_b: str
    sra_a: float | None
    sra_b: float | None

    @property
    def difference(self) -> float | None:
        """SRA of b less that of a."""
        if self.sra_a is None or self.sra_b is None:
            return None
        return self.sra_b - self.sra_a


@dataclass(frozen=True)
class Judgements:
    """Everything that was judged.

    Attributes:
        items: by id.
        annotators: in the order in which they appear.
        preferences: (item, annotator) to -4 … +4, above 0 if b is better. What is not there was
            not judged.
    """

    items: dict[str, Item]
    annotators: tuple[str, ...]
    preferences: dict[tuple[str, str], int]

    @property
    def gaps(self) -> list[tuple[str, str]]:
        """Every (item, annotator) without a preference."""
        grid = [(item, annotator) for item in self.items for annotator in self.annotators]
        return [place for place in grid if place not in self.preferences]


@dataclass(frozen=True)
class _Rating:
    where: str
    item: str
    annotator: str
    preference: int | None
    about: Item


def read_judgements(files: Sequence[Path], key: Key | None = None) -> Judgements:
    """Reads the files together.

    Args:
        files: without a key, CSV or JSONL with :data:`FLAT_FIELDS`; with it, filled-in sheets, or
            Label Studio's JSON exports of them.
        key: of those sheets. Its items count as gaps where no sheet has them.

    Raises:
        AnnotationError: a file is malformed, a preference is no whole number from -4 to +4, an
            item is judged twice by one annotator or described in two ways, nothing is judged, or
            the key is another sheet's.
        OSError: a file cannot be read.
    """
    items = {} if key is None else {item: _keyed_item(key, item) for item in key.items}
    described: dict[str, str] = {}
    seen: dict[tuple[str, str], str] = {}
    preferences: dict[tuple[str, str], int] = {}
    for rating in _ratings(files, key):
        place = (rating.item, rating.annotator)
        if place in seen:
            raise AnnotationError(
                f"{rating.where}: item {rating.item!r} was judged by {rating.annotator!r} in "
                f"{seen[place]} already; keep one"
            )
        seen[place] = rating.where
        if items.setdefault(rating.item, rating.about) != rating.about:
            raise AnnotationError(
                f"{rating.where}: item {rating.item!r} has other systems or another SRA than in "
                f"{described[rating.item]}; an item is one pair of replies"
            )
        described.setdefault(rating.item, rating.where)
        if rating.preference is not None:
            preferences[place] = rating.preference
    if not preferences:
        raise AnnotationError(
            f"{', '.join(file.name for file in files)}: no preference is filled in; write whole "
            f"numbers from -{STRONGEST} to +{STRONGEST} into the column {PREFERENCE!r}"
        )
    annotators = tuple(dict.fromkeys(annotator for _, annotator in seen))
    return Judgements(items, annotators, preferences)


def _ratings(files: Iterable[Path], key: Key | None) -> Iterable[_Rating]:
    for file in files:
        if key is None:
            for where, row in _flat_rows(file):
                yield _flat_rating(where, row)
        else:
            found = (
                read_label_studio(file)
                if is_label_studio(file)
                else read_table(file, FILLED_FIELDS)
            )
            for where, row in found:
                yield _sheet_rating(where, row, key)


def _flat_rows(file: Path) -> list[tuple[str, Row]]:
    if is_label_studio(file):
        raise AnnotationError(
            f"{file.name}: this is one JSON list; for a Label Studio export give --key key.json "
            "too, else write CSV, or one JSON object a line"
        )
    if "export" in read_table(file, ())[0][1]:
        raise AnnotationError(f"{file.name}: this is a sheet; give --key key.json too")
    return read_table(file, FLAT_FIELDS)


def _flat_rating(where: str, row: Row) -> _Rating:
    about = Item(
        text_of(row["system_a"], f"{where}: column 'system_a'"),
        text_of(row["system_b"], f"{where}: column 'system_b'"),
        number_of(row["sra_a"], f"{where}: column 'sra_a'"),
        number_of(row["sra_b"], f"{where}: column 'sra_b'"),
    )
    if about.system_a == about.system_b:
        raise AnnotationError(f"{where}: both systems are called {about.system_a!r}")
    return _Rating(
        where,
        text_of(row["item"], f"{where}: column 'item'"),
        text_of(row["annotator"], f"{where}: column 'annotator'"),
        _preference(row[PREFERENCE], where),
        about,
    )


def _sheet_rating(where: str, row: Row, key: Key) -> _Rating:
    item = text_of(row["item"], f"{where}: column 'item'")
    annotator = text_of(row["annotator"], f"{where}: column 'annotator'")
    if row["export"] != key.export:
        raise AnnotationError(
            f"{where}: belongs to export {row['export']!r}, and the key to {key.export!r}; give "
            "the key that was written with the sheet"
        )
    side = key.items[item].first.get(annotator) if item in key.items else None
    if side is None:
        raise AnnotationError(
            f"{where}: the key knows no item {item!r} of {annotator!r}; leave both columns as they "
            "were exported"
        )
    preference = _preference(row[PREFERENCE], where)
    if preference is not None and side == "b":
        preference = -preference
    return _Rating(where, item, annotator, preference, _keyed_item(key, item))


def _keyed_item(key: Key, item: str) -> Item:
    entry = key.items[item]
    return Item(key.system_a, key.system_b, entry.sra_a, entry.sra_b)


def _preference(value: object, where: str) -> int | None:
    """A whole number of the scale; None for an empty cell or a null."""
    text = "" if value is None else str(value).strip()
    if not text:
        return None
    number = int(text.split(".")[0]) if _WHOLE.fullmatch(text) else None
    if number is None or abs(number) > STRONGEST:
        raise AnnotationError(
            f"{where}: {PREFERENCE} must be a whole number from -{STRONGEST} to +{STRONGEST}, or "
            f"empty, found {text!r:.60}"
        )
    return number
