"""Say which of the rows asked for can see which keys, as ranges, on the device without a wait."""

from __future__ import annotations

import torch
from torch import Tensor

from ..contract import SpanQuery
from .layout import GRANULE, Layout


def row_bounds(query: SpanQuery, layout: Layout, window: int | None) -> Tensor:
    """Return for each granule of keys the first row that may see it, and the one after the last.

    Rows ascend, so those that see some key of a tile lie between the first one's bound of the
    tile's first granule and the other one of its last granule. ``layout`` is the query's under
    ``window``.

    Returns:
        ``[2, B, ⌈N/16⌉]`` int32, places among the ``R`` rows; made once per query.
    """
    m, n = layout.first_key.shape[1], layout.last_query.shape[1]
    return query.derived(("row_bounds", m, n, window), lambda: _make(layout, m, n))


def _make(layout: Layout, m: int, n: int) -> Tensor:
    """Build the bounds that :func:`row_bounds` returns."""
    batch, device = layout.first_key.shape[0], layout.rows.device
    first = torch.arange(0, n, GRANULE, device=device)
    last = (first + GRANULE).clamp(max=n) - 1
    begin = (first - (n - m)).clamp(min=0).expand(batch, -1)
    end = (layout.last_query[:, last].long() - (n - m) + 1).clamp(min=0)
    before = torch.arange(batch, device=device)[:, None] * m  # queries of the batch rows before
    return torch.searchsorted(layout.rows, before + torch.stack([begin, end])).to(torch.int32)
