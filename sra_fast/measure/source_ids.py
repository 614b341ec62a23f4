"""Read the sources of a batch: any number of disjoint pieces of its sequences, with their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sra_fast.measure.spans import BatchRowError, MarkedBatch

SOURCE_KEYS = ("source_ids", "source_names")


@dataclass(frozen=True)
class SourceMarks:
    """Disjoint pieces of the sequences of a batch.

    Attributes:
        ids: ``[B, T]`` int32, s at the tokens of the s-th source of a batch row, 0 at others.
        names: the names of each row's sources.
    """

    ids: Tensor
    names: tuple[tuple[str, ...], ...]


def read_sources(batch: Mapping[str, Any], marked: MarkedBatch) -> SourceMarks | None:
    """Read the sources of a batch, if it has any.

    Args:
        batch: a batch whose ``source_ids [B, T]`` int32 has s at the tokens of the s-th source of a
            row (0: none) and whose ``source_names`` has the names of each row, or of all rows.
        marked: the batch that was read.

    Returns:
        The sources, or None if there are none.

    Raises:
        ValueError: they do not fit the batch, or a name repeats.
        BatchRowError: a row's numbers and names do not agree.
    """
    ids, names = (batch.get(key) for key in SOURCE_KEYS)
    if ids is None and names is None:
        return None
    if not isinstance(ids, Tensor):
        raise ValueError("source_names: there are no `source_ids [B, T]` that they name")
    if tuple(ids.shape) != marked.shape or ids.is_floating_point() or ids.dtype == torch.bool:
        raise ValueError(
            f"source_ids: expected {list(marked.shape)} int32, got {list(ids.shape)} {ids.dtype}"
        )
    ids = ids.cpu()
    if bool((ids < 0).any()):
        raise ValueError("source_ids: numbers of sources start at 1, 0 is no source")
    if int(ids.max()) >= 2**31:
        raise ValueError(f"source_ids: {int(ids.max())} is no int32; number sources from 1 on")
    ids = ids.to(torch.int32)
    found = _names(names, ids)
    for row, of_row in enumerate(found):
        seen: set[str] = set()
        for name in of_row:
            if name in seen:
                raise BatchRowError(row, f"source_names: {name!r} is there more than once")
            seen.add(name)
        if int(ids[row].max()) > len(of_row):
            raise BatchRowError(
                row, f"source_ids reach to {int(ids[row].max())}, and {len(of_row)} are named"
            )
    return SourceMarks(ids, tuple(found))


def _names(names: object, ids: Tensor) -> list[tuple[str, ...]]:
    """Return the names of each row; the numbers themselves where there are none."""
    if names is None:
        return [tuple(f"source {n}" for n in range(1, int(row.max()) + 1)) for row in ids]
    if not isinstance(names, Sequence) or isinstance(names, str):
        raise ValueError(f"source_names: expected a list of names, got {names!r}")
    shared = all(isinstance(name, str) for name in names)
    rows = [names] * len(ids) if shared else list(names)
    texts = all(
        isinstance(row, Sequence) and all(isinstance(name, str) for name in row) for row in rows
    )
    if len(rows) != len(ids) or not texts:
        raise ValueError(
            f"source_names: expected the names of all rows, or one list of names for each of the "
            f"{len(ids)} rows, got {names!r}"
        )
    return [tuple(row) for row in rows]
