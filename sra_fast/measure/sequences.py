"""Find where sequences lie in the padded or packed rows of a batch, and what is marked in them."""

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


def numbered_positions(
    numbers: Tensor, segments: Sequence[tuple[int, int, int]]
) -> list[dict[int, Tensor]]:
    """Return, for each segment, the numbers above 0 in it, ascending, each with its positions.

    ``numbers`` is ``[B, T]`` bool or of integers; segments are disjoint and ascending.
    Positions ``[r]`` int64, ascending, count from the segment's first token.
    """
    flat = numbers.flatten()
    at = flat.nonzero().flatten()
    borders = _edges(segments, numbers.shape[1])
    cuts = torch.searchsorted(at, borders)
    sizes = cuts[:, 1] - cuts[:, 0]
    if int(sizes.sum()) < len(at):
        at = torch.cat([at[:0], *(at[first:last] for first, last in cuts.tolist())])
    owner = torch.arange(len(segments)).repeat_interleave(sizes)
    number, position = flat[at].long(), at - borders[:, 0].repeat_interleave(sizes)
    if bool(((number.diff() < 0) & (owner.diff() == 0)).any()):  # by segment, then by number
        order = number.argsort(stable=True)
        order = order[owner[order].argsort(stable=True)]
        number, position = number[order], position[order]
    begins = ((number.diff() != 0) | (owner.diff() != 0)).nonzero().flatten() + 1
    firsts = torch.cat([begins[:0] if len(at) == 0 else begins.new_zeros(1), begins])
    found: list[dict[int, Tensor]] = [{} for _ in segments]
    for index, which, tokens in zip(
        owner[firsts].tolist(),
        number[firsts].tolist(),
        position.tensor_split(begins),
        strict=False,  # nothing at all is one empty piece
    ):
        found[index][which] = tokens
    return found


def holding(marked: Tensor, segments: Sequence[tuple[int, int, int]]) -> list[bool]:
    """Return for each segment whether it holds a marked token of ``[B, T]`` bool."""
    at = marked.flatten().nonzero().flatten()
    cuts = torch.searchsorted(at, _edges(segments, marked.shape[1]))
    found: list[bool] = (cuts[:, 0] < cuts[:, 1]).tolist()
    return found


def numbered_by_position(position_ids: Tensor) -> Tensor:
    """Number the sequences of packed rows ``[B, T]`` from 1, given their positions ``[B, T]``.

    A new sequence begins wherever a position is not the one before plus one.
    """
    breaks = position_ids.diff(dim=1) != 1
    return torch.nn.functional.pad(breaks.cumsum(1), (1, 0)) + 1


def _edges(segments: Sequence[tuple[int, int, int]], width: int) -> Tensor:
    """Return the first position of each segment and the one after its last, ``[S, 2]`` int64.

    Segments are ``(b, start, end)``; positions count through all rows of ``width``, end to end.
    """
    found = torch.tensor(segments, dtype=torch.int64).reshape(-1, 3)
    return found[:, :1] * width + found[:, 1:]
