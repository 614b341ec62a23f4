"""Read from a batch which conversations its rows are of: their ids, and what else is known of them.

No mass depends on either; a result carries them, so that results can be put together.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

IDS, META = "conversation_ids", "meta"


def read_ids(
    batch: Mapping[str, Any], rows: int, numbers: Sequence[int] | None
) -> tuple[str | None, ...]:
    """Return the id of each row's conversation; empty if the batch has none.

    Args:
        batch: a batch whose ``conversation_ids``, if it has them, are a list with a text for each
            row, or None where a row's is not known.
        rows: how many rows it has.
        numbers: the number of each row's conversation; None if the batch has none.

    Raises:
        ValueError: they are something else, or two rows of one conversation have different ones.
    """
    ids = batch.get(IDS)
    if ids is None:
        return ()
    _check_list(IDS, ids, rows, "an id for each row")
    for row, one in enumerate(ids):
        if not isinstance(one, (str, type(None))):
            raise ValueError(
                f"{IDS}: row {row} has {one!r}; expected a text, or None if it is not known"
            )
    first: dict[int, int] = {}
    for row, number in enumerate(numbers or ()):
        other = first.setdefault(number, row)
        if ids[other] != ids[row]:
            raise ValueError(
                f"{IDS}: rows {other} and {row} are both of conversation {number}, and have the "
                f"ids {ids[other]!r} and {ids[row]!r}; give them one id, or numbers of their own"
            )
    return tuple(ids)


def read_meta(batch: Mapping[str, Any], rows: int) -> tuple[Mapping[str, Any], ...]:
    """Return what else is known of each row's conversation; empty if the batch has nothing.

    Args:
        batch: a batch whose ``meta``, if it has it, is a list with a mapping for each row.
        rows: how many rows it has.

    Raises:
        ValueError: it is something else, or JSON cannot say it.
    """
    meta = batch.get(META)
    if meta is None:
        return ()
    _check_list(META, meta, rows, "a mapping for each row")
    found = []
    for row, one in enumerate(meta):
        if not isinstance(one, Mapping) or not all(isinstance(name, str) for name in one):
            raise ValueError(
                f"{META}: row {row} has {one!r}; expected a mapping of names to values"
            )
        try:
            json.dumps(dict(one), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{META}: row {row} has a value that JSON cannot say ({error}); give texts, "
                "numbers, lists and mappings"
            ) from error
        found.append(dict(one))
    return tuple(found)


def of_rows(values: tuple[Any, ...], rows: Iterable[int]) -> tuple[Any, ...]:
    """Return the value of each of some rows; empty if there are none of any row."""
    return tuple(values[row] for row in rows) if values else ()


def _check_list(name: str, value: Any, rows: int, meaning: str) -> None:
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != rows:
        raise ValueError(f"{name}: expected a list with {meaning}, {rows} in all, got {value!r}")
