"""Find where sequences lie in the padded or packed rows of a batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def numbered_runs(numbers: Tensor) -> list[tuple[int, int, int]]:
    """Return ``(b, start, end)`` of each run of one number other than 0 in ``[B, T]`` integers."""
    rows, width = numbers.shape
    if width == 0:
        return []
    numbers = numbers.cpu()
    begins = torch.ones(rows, width, dtype=torch.bool)
    torch.ne(numbers[:, 1:], numbers[:, :-1], out=begins[:, 1:])
    starts = begins.flatten().nonzero().flatten()
    ends = torch.cat([starts[1:], torch.tensor([rows * width])])  # a row's first token begins a run
    kept = numbers.flatten()[starts] != 0
    return [
        (start // width, start % width, start % width + end - start)
        for start, end in zip(starts[kept].tolist(), ends[kept].tolist(), strict=True)
    ]


def edges(segments: Sequence[tuple[int, int, int]], width: int) -> Tensor:
    """Return the first position of each segment and the one after its last, ``[S, 2]`` int64.

    Segments are ``(b, start, end)``; positions count through all rows of ``width``, end to end.
    """
    found = torch.tensor(segments, dtype=torch.int64).reshape(-1, 3)
    return found[:, :1] * width + found[:, 1:]


def numbered_by_position(position_ids: Tensor) -> Tensor:
    """Number the sequences of packed rows ``[B, T]`` from 1, given their positions ``[B, T]``.

    A new sequence begins wherever a position is not the one before plus one.
    """
    breaks = position_ids.diff(dim=1) != 1
    return torch.nn.functional.pad(breaks.cumsum(1), (1, 0)) + 1
