"""Find the queries that a steering reaches: those that are steered and see a key of the span.

Numbers are read off the tensors for that once, and kept on the steering for all layers.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .contract import SpanQuery
from .steering import Steering
from .transfers import send

LOGITS_AT_ONCE = 1 << 18  # in a block: 1 MB in float32, which stays in a core's cache
FEWEST_ROWS = 16  # in a block, however many keys they see

Places = slice | Tensor
"""Positions on an axis, ascending: a slice where they are neighbours, else ``[n]`` int64."""


@dataclass(frozen=True)
class SteeredRows:
    """The queries of one segment that a steering reaches, or some of them.

    Attributes:
        batch: the batch row that they lie in.
        start: the segment's first position on the key axis.
        keys: ``[n]`` int64, ascending, the span's keys in the segment, on the key axis.
        rows: ``[r]`` int64, ascending, the queries, on the query axis.
        key_places: the keys as places.
        row_places: the rows as places.
        see_all: whether each row sees each of the keys.
    """

    batch: int
    start: int
    keys: Tensor
    rows: Tensor
    key_places: Places
    row_places: Places
    see_all: bool


def steered_rows(
    steer: Steering, query: SpanQuery, heads: int, m: int, n: int, window: int | None
) -> tuple[SteeredRows, ...]:
    """Return the rows that a steering reaches, in blocks, for ``Hq``, ``M`` and ``N``."""
    segments = query.numbers().segments

    def make() -> tuple[SteeredRows, ...]:
        span = steer.span.cpu()
        chosen = None if steer.rows is None else steer.rows.cpu()
        found: list[SteeredRows] = []
        for b, start, end in segments:
            rows = torch.arange(max(start - (n - m), 0), max(end - (n - m), 0))
            if chosen is not None:
                rows = rows[chosen[b, rows]]
            keys = span[b, start:end].nonzero().flatten() + start
            at = rows + (n - m)
            seen = torch.searchsorted(keys, at, right=True)
            if window is not None:
                seen = seen - torch.searchsorted(keys, at - window, right=True)
            rows, seen = rows[seen > 0], seen[seen > 0]
            found += _blocks(b, start, keys, rows, seen, heads, steer.span.device)
        return tuple(found)

    return steer.derived(("rows", segments, heads, m, n, window), make)


def span_query(query: SpanQuery, steer: Steering, m: int) -> SpanQuery:
    """Return a query for the steered rows of a call, with the steered span as its one label."""

    def make() -> SpanQuery:
        batch, device = steer.span.shape[0], steer.span.device
        if steer.rows is None:
            rows = torch.arange(batch * m, device=device)
        else:
            rows = steer.rows.flatten().nonzero().flatten()
        return SpanQuery(steer.span.to(torch.int32), rows, query.segments, ("steered",))

    return steer.derived(("query", query), make)


def pools(query: SpanQuery, batch: int, m: int, n: int) -> Tensor:
    """Return numbers ``[B, M]`` int64 that the queries of a segment share, −1 for padding.

    Segments without a query have none, so all numbers are below ``B·M``.
    """

    def make() -> Tensor:
        found, number = torch.full((batch, m), -1), 0
        for b, start, end in query.numbers().segments:
            first, last = max(start - (n - m), 0), max(end - (n - m), 0)
            found[b, first:last] = number
            number += first < last
        return send(found, query.key_labels.device)

    return query.derived(("pools", batch, m, n), make)


def places(positions: Tensor) -> Places:
    """Return ascending positions as a slice where they are neighbours, else as they are."""
    if len(positions) == 0:
        return slice(0, 0)
    first, last = int(positions[0]), int(positions[-1])
    return slice(first, last + 1) if last - first + 1 == len(positions) else positions


def _blocks(
    batch: int,
    start: int,
    keys: Tensor,
    rows: Tensor,
    seen: Tensor,
    heads: int,
    device: torch.device,
) -> Iterator[SteeredRows]:
    """Yield the rows of a segment in blocks; those that see all keys are in none with others."""
    size = max(FEWEST_ROWS, LOGITS_AT_ONCE // max(1, heads * len(keys)))
    whole = seen == len(keys)
    borders = [0, *((whole[1:] != whole[:-1]).nonzero().flatten() + 1).tolist(), len(rows)]
    of_keys = places(keys)
    for first, last in itertools.pairwise(borders):
        for at in range(first, last, size):
            block = rows[at : min(at + size, last)]
            of_rows = places(block)
            yield SteeredRows(
                batch=batch,
                start=start,
                keys=keys.to(device),
                rows=block.to(device),
                key_places=of_keys if isinstance(of_keys, slice) else of_keys.to(device),
                row_places=of_rows if isinstance(of_rows, slice) else of_rows.to(device),
                see_all=bool(whole[at]),
            )
