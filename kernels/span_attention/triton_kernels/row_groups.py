"""Say which rows a profile's gradient reaches together, on the device without a wait."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..contract import SpanQuery

SMALLEST_SHARE = 1e-30  # stands for the largest share where no row is in a group


@dataclass(frozen=True)
class RowGroups:
    """The groups of the rows asked for, in the order of the rows.

    Attributes:
        groups: ``[R]`` int32, as in the query: the group of each row, −1 for none.
        shares: ``[R]``, each row's share in its group's mean, relative to ``largest``; 0 in none.
        largest: ``[1]``, the largest share of a row: 1 / the rows of the smallest group.
        runs: ``[R]`` int32, the first row after each one that is in another group.
    """

    groups: Tensor
    shares: Tensor
    largest: Tensor
    runs: Tensor


def row_groups(query: SpanQuery, dtype: torch.dtype) -> RowGroups:
    """Return the groups of a query's rows, with shares in ``dtype``; R is not 0. Made once.

    Relative shares keep a gradient away from the smallest numbers of a 16-bit dtype, however many
    rows a mean is over.
    """

    def make() -> RowGroups:
        assert query.profile is not None
        groups = query.profile.row_groups.contiguous()
        counts = torch.zeros(query.profile.groups + 1, dtype=dtype, device=groups.device)
        counts.index_add_(0, groups.long() + 1, torch.ones_like(groups, dtype=dtype))
        shares = torch.where(groups >= 0, 1 / counts[groups.long() + 1], 0)
        largest = shares.max().clamp(min=SMALLEST_SHARE).reshape(1)
        # Numbers of runs ascend, so that a run ends where numbers above its own begin.
        changes = torch.zeros_like(groups, dtype=torch.int64)
        changes[1:] = (groups[1:] != groups[:-1]).cumsum(0)
        runs = torch.searchsorted(changes, changes, right=True).to(torch.int32)
        return RowGroups(groups, shares / largest, largest, runs)

    return query.derived(("row groups", dtype), make)
