"""Turn a query into the int32 tensors that the kernels read, on the device, without waiting for it.

Segments, causality and windows together are two numbers per position, because what a query sees is
a range of keys that ends at itself:

    key j is visible to the query at position p   ⟺   first_key[p] ≤ j ≤ p
                                                  ⟺   j ≤ p ≤ last_query[j]

Both numbers rise with the position. So the first and the last entry of a tile say which tiles are
empty, which are full and need no mask, and which lie on an edge.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..contract import SpanQuery

GRANULE = 16  # keys or queries that share a mark; it divides every tile
NONE_LEFT = 1 << 26  # "no such granule left": beyond every length, and × GRANULE fits an int32


@dataclass(frozen=True)
class Layout:
    """Tensors that say which queries see which keys, and which rows are asked for.

    All tensors are contiguous int32, except where noted.

    Attributes:
        key_labels: ``[B, N]``, the spans of each key as bits, as in the query.
        first_key: ``[B, M]``, the first key that each query sees; beyond itself if it sees none.
        last_query: ``[B, N]``, the last position whose query sees each key; before it if none does.
        slots: ``[B, M]``, where a query's masses go in ``[R, Hq, G]``; −1 if they are not wanted.
        key_runs: ``[2, B, ⌈N/16⌉]``, from each granule of keys on, the next one with a label, and
            the next one without.
        query_runs: ``[2, B, ⌈M/16⌉]``, from each granule of queries on, the next one with a row
            asked for, and the next one without.
        rows: ``[R]`` int64, the rows asked for, as in the query.
    """

    key_labels: Tensor
    first_key: Tensor
    last_query: Tensor
    slots: Tensor
    key_runs: Tensor
    query_runs: Tensor
    rows: Tensor


def layout(query: SpanQuery, batch: int, m: int, n: int, window: int | None) -> Layout:
    """Return the layout of ``query`` for ``B = batch``, ``M = m`` and ``N = n``, made once."""
    if window is not None and window >= n:
        window = None
    return query.derived(("layout", batch, m, n, window), lambda: _make(query, batch, m, n, window))


def _make(query: SpanQuery, batch: int, m: int, n: int, window: int | None) -> Layout:
    """Build the layout that :func:`layout` returns."""
    device = query.key_labels.device
    start, end = _bounds(query.segments, batch, n)
    position = torch.arange(n, device=device)
    inside = start >= 0
    if window is not None:
        start = torch.maximum(start, position - window + 1)
        end = torch.minimum(end, position + window)
    first_key = torch.where(inside, start, position + 1)[:, n - m :]
    last_query = torch.where(inside, end - 1, position - 1)

    slots = torch.full((batch * m,), -1, dtype=torch.int32, device=device)
    slots[query.rows] = torch.arange(len(query.rows), dtype=torch.int32, device=device)
    slots = slots.reshape(batch, m)
    return Layout(
        key_labels=query.key_labels.contiguous(),
        first_key=first_key.to(torch.int32).contiguous(),
        last_query=last_query.to(torch.int32).contiguous(),
        slots=slots,
        key_runs=_runs(query.key_labels != 0),
        query_runs=_runs(slots >= 0),
        rows=query.rows.contiguous(),
    )


def _bounds(segments: Tensor, batch: int, n: int) -> tuple[Tensor, Tensor]:
    """Return start and end of each key's segment, ``[B, N]`` int64; −1 outside of all segments."""
    device = segments.device
    if len(segments) == 0:
        nowhere = torch.full((batch, n), -1, device=device)
        return nowhere, nowhere
    row = segments[:, 0].long() * n
    starts, order = torch.sort(row + segments[:, 1], stable=True)
    ends = (row + segments[:, 2])[order]
    # An empty segment may start where the next one does: of equal starts the furthest end counts.
    ends = ends.cummax(0).values
    key = torch.arange(batch * n, device=device)
    nearest = torch.searchsorted(starts, key, right=True) - 1
    last = nearest.clamp(min=0)
    inside = (nearest >= 0) & (key < ends[last])
    base = key - key % max(n, 1)
    start = torch.where(inside, starts[last] - base, -1)
    end = torch.where(inside, ends[last] - base, -1)
    return start.reshape(batch, n), end.reshape(batch, n)


def _runs(marked: Tensor) -> Tensor:
    """Return for each granule the next one with a mark and the next without, ``[2, B, ⌈L/16⌉]``."""
    batch, length = marked.shape
    padded = torch.nn.functional.pad(marked, (0, -length % GRANULE))
    has = padded.reshape(batch, -1, GRANULE).any(dim=2)
    index = torch.arange(has.shape[1], device=marked.device)
    both = torch.stack([torch.where(has, index, NONE_LEFT), torch.where(has, NONE_LEFT, index)])
    if both.numel():
        both = both.flip(2).cummin(2).values.flip(2)
    return both.to(torch.int32).contiguous()
