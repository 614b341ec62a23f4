"""Find where sequences lie in the padded or packed rows of a batch."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor


def numbered_runs(numbers: Tensor) -> list[tuple[int, int, int]]:
    """Return ``(b, start, end)`` of each run of one number other than 0 in ``[B, T]`` integers."""
    found = []
    for b, row in enumerate(numbers.cpu()):
        edges = [0, *((row.diff() != 0).nonzero().flatten() + 1).tolist(), len(row)]
        found += [
            (b, start, end)
            for start, end in itertools.pairwise(edges)
            if start < end and row[start] != 0
        ]
    return found


def numbered_by_position(position_ids: Tensor) -> Tensor:
    """Number the sequences of packed rows ``[B, T]`` from 1, given their positions ``[B, T]``.

    A new sequence begins wherever a position is not the one before plus one.
    """
    breaks = position_ids.diff(dim=1) != 1
    return torch.nn.functional.pad(breaks.cumsum(1), (1, 0)) + 1
