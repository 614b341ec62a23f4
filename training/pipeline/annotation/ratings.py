"""Read judgements from flat tables, or from filled-in sheets and their key."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .errors import AnnotationError
from .judgements import AnnotatedItem, Judgements, aligned
from .key import Key
from .label_studio import is_label_studio, read_label_studio
from .rating_tables import TableRow, number_of, read_table, text_of
from .sheet_files import PREFERENCE

STRONGEST = 4  # preferences run from -4 to +4
FLAT_FIELDS = ("item", "annotator", PREFERENCE, "sra_a", "sra_b", "system_a", "system_b")
FILLED_FIELDS = ("export", "annotator", "item", PREFERENCE)

_WHOLE = re.compile(r"[+-]?[0-9]{1,9}(\.0*)?")


@dataclass(frozen=True)
class _Rating:
    """One line of a file, with a and b as the line has them."""

    where: str
    item: str
    annotator: str
    preference: int | None
    about: AnnotatedItem
    swapped: bool = False


def read_judgements(files: Sequence[Path], key: Key | None = None) -> Judgements:
    """Read the judgements of one or several files.

    Args:
        files: without a key, CSV or JSONL files with the columns :data:`FLAT_FIELDS`, and
            ``dialogue`` if it is known; with a key, filled-in sheets, or Label Studio's JSON
            exports of them.
        key: the key to those sheets; an item of the key that no sheet has counts as not judged.

    Raises:
        AnnotationError: a file is malformed, a preference is no whole number from -4 to +4, an
            item is judged twice by one annotator, compares other systems or has another SRA or
            dialogue in another line, the files name the dialogue of some items only, nothing is
            judged, or the key belongs to other sheets.
        OSError: a file cannot be read.
    """
    ratings = list(_ratings(files, key))
    directions: dict[frozenset[str], tuple[str, str]] = {}
    for rating in ratings:
        directions.setdefault(frozenset(rating.about.systems), rating.about.systems)
    items = {} if key is None else {item: _keyed_item(key, item) for item in key.items}
    described: dict[str, str] = {}
    seen: dict[tuple[str, str], str] = {}
    preferences: dict[tuple[str, str], int] = {}
    swapped: set[tuple[str, str]] = set()
    for given in ratings:
        rating = _turned(given, directions[frozenset(given.about.systems)])
        place = (rating.item, rating.annotator)
        if place in seen:
            raise AnnotationError(
                f"{rating.where}: item {rating.item!r} was judged by {rating.annotator!r} in "
                f"{seen[place]} already; keep one"
            )
        seen[place] = rating.where
        _check_same(rating, items.setdefault(rating.item, rating.about), described)
        described.setdefault(rating.item, rating.where)
        if rating.preference is not None:
            preferences[place] = rating.preference
        if rating.swapped:
            swapped.add(place)
    if not preferences:
        raise AnnotationError(
            f"{', '.join(file.name for file in files)}: no preference is filled in; write whole "
            f"numbers from -{STRONGEST} to +{STRONGEST} into the column {PREFERENCE!r}"
        )
    _refuse_some_dialogues(items, described)
    annotators = tuple(dict.fromkeys(annotator for _, annotator in seen))
    return aligned(Judgements(items, annotators, preferences, frozenset(swapped)))


def _turned(rating: _Rating, systems: tuple[str, str]) -> _Rating:
    """Return a rating with the two systems in this order, and whether that was not the shown one.

    So all items of a pair are alike, as the first line of the pair has the systems.
    """
    if rating.about.systems == systems:
        return rating
    preference = None if rating.preference is None else -rating.preference
    return replace(
        rating, preference=preference, about=rating.about.turned(), swapped=not rating.swapped
    )


def _check_same(rating: _Rating, known: AnnotatedItem, described: Mapping[str, str]) -> None:
    """Check that a rating is about the same two replies as those before it of the same item.

    Raises:
        AnnotationError: it is not.
    """
    if known == rating.about:
        return
    other = described.get(rating.item, "the key")
    if known.systems != rating.about.systems:
        raise AnnotationError(
            f"{rating.where}: item {rating.item!r} compares {' and '.join(rating.about.systems)}, "
            f"and in {other} {' and '.join(known.systems)}; an item is one pair of replies"
        )
    raise AnnotationError(
        f"{rating.where}: item {rating.item!r} has another SRA or another dialogue than "
        f"in {other}; an item is one pair of replies"
    )


def _refuse_some_dialogues(
    items: Mapping[str, AnnotatedItem], described: Mapping[str, str]
) -> None:
    without = [name for name, item in items.items() if item.dialogue is None]
    if 0 < len(without) < len(items):
        where = described.get(without[0], "the key")
        raise AnnotationError(
            f"{where}: item {without[0]!r} names no dialogue, and others do ({len(without)} such "
            "items); fill in the column 'dialogue' for all, or take it away"
        )


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


def _flat_rows(file: Path) -> list[tuple[str, TableRow]]:
    if is_label_studio(file):
        raise AnnotationError(
            f"{file.name}: this is one JSON list; for a Label Studio export give its key too, "
            "else write CSV, or one JSON object a line",
            "key",
        )
    if "export" in read_table(file, ())[0][1]:
        raise AnnotationError(f"{file.name}: this is a sheet; give its key too", "key")
    return read_table(file, FLAT_FIELDS)


def _flat_rating(where: str, row: TableRow) -> _Rating:
    systems = (
        text_of(row["system_a"], f"{where}: column 'system_a'"),
        text_of(row["system_b"], f"{where}: column 'system_b'"),
    )
    about = AnnotatedItem(
        *systems,
        number_of(row["sra_a"], f"{where}: column 'sra_a'"),
        number_of(row["sra_b"], f"{where}: column 'sra_b'"),
        _dialogue(row.get("dialogue"), where),
    )
    if systems[0] == systems[1]:
        raise AnnotationError(f"{where}: both systems are called {systems[0]!r}; rename one")
    return _Rating(
        where,
        text_of(row["item"], f"{where}: column 'item'"),
        text_of(row["annotator"], f"{where}: column 'annotator'"),
        _preference(row[PREFERENCE], where),
        about,
    )


def _sheet_rating(where: str, row: TableRow, key: Key) -> _Rating:
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
    return _Rating(where, item, annotator, preference, _keyed_item(key, item), side == "b")


def _keyed_item(key: Key, item: str) -> AnnotatedItem:
    entry = key.items[item]
    return AnnotatedItem(key.system_a, key.system_b, entry.sra_a, entry.sra_b, entry.dialogue)


def _dialogue(value: object, where: str) -> str | None:
    """Return the name of a dialogue; None for a missing column, an empty cell or a null."""
    if value is None or not str(value).strip():
        return None
    return text_of(value, f"{where}: column 'dialogue'")


def _preference(value: object, where: str) -> int | None:
    """Return a preference as a whole number of the scale; None for an empty cell or a null."""
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
