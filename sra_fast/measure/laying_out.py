"""Lay the sequences of one forward pass out in rows, as the decoder takes them.

A beginning that some of them share stands in a row once, before their tails:

    prefix, tail, tail, …, another sequence, …

The positions of a tail go on from those of its prefix. To a model's own mask the row is one text,
without borders, so that a window of its layers shows in it; which keys each tail sees says the
query (``parents`` of :class:`~sra_fast.SpanQuery`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sra_fast.measure.prefixes import PackedPrefix, PlacedPrefix


def laid_out(
    pieces: Sequence[Tensor], packed: bool
) -> tuple[dict[str, Tensor], list[tuple[int, int]]]:
    """Lay sequences out in one row, or each in a row of its own.

    Args:
        pieces: the token ids of each sequence, ``[length]`` int64.
        packed: whether they lie one after the other in a single row, with positions from 0 in each;
            otherwise each has a row, padded on the right.

    Returns:
        The decoder's arguments, and the ``(row, start)`` of each sequence.
    """
    return _packed(pieces) if packed else _padded(pieces)


def _packed(pieces: Sequence[Tensor]) -> tuple[dict[str, Tensor], list[tuple[int, int]]]:
    starts = [0]
    for piece in pieces[:-1]:
        starts.append(starts[-1] + len(piece))
    positions = torch.cat([torch.arange(len(piece)) for piece in pieces])
    inputs = {"input_ids": torch.cat(list(pieces))[None], "position_ids": positions[None]}
    return inputs, [(0, start) for start in starts]


def _padded(pieces: Sequence[Tensor]) -> tuple[dict[str, Tensor], list[tuple[int, int]]]:
    ids = nn.utils.rnn.pad_sequence(list(pieces), batch_first=True)
    lengths = torch.tensor([len(piece) for piece in pieces])
    mask = torch.arange(ids.shape[1]) < lengths[:, None]
    inputs = {"input_ids": ids, "attention_mask": mask.long()}
    return inputs, [(row, 0) for row in range(len(pieces))]


def laid_out_once(
    pieces: Sequence[Tensor], prefixes: Sequence[PackedPrefix]
) -> tuple[dict[str, Tensor], list[tuple[int, int]], list[PlacedPrefix]]:
    """Lay sequences out in one row, with the beginnings that some of them share there once.

    Args:
        pieces: the token ids of each sequence, ``[length]`` int64.
        prefixes: the beginnings, which are those of neighbouring pieces, in their order.

    Returns:
        The decoder's arguments, the ``(row, start)`` of each sequence, and where the beginnings
        lie. A sequence that shares one starts where its first token would stand if the beginning
        stood right before its tail.
    """
    shared = [0] * len(pieces)
    opening = {prefix.first: prefix.length for prefix in prefixes}
    for prefix in prefixes:
        shared[prefix.first : prefix.end] = [prefix.length] * (prefix.end - prefix.first)
    ids, positions, places, starts, end = [], [], [], [], 0
    for index, (piece, first) in enumerate(zip(pieces, shared, strict=True)):
        if index in opening:
            starts.append(end)
            ids.append(piece[:first])
            positions.append(torch.arange(first))
            end += first
        ids.append(piece[first:])
        positions.append(torch.arange(first, len(piece)))
        places.append((0, end - first))
        end += len(piece) - first
    row = torch.cat(ids)[None]
    inputs = {
        "input_ids": row,
        "position_ids": torch.cat(positions)[None],
        "attention_mask": torch.ones_like(row),
    }
    placed = [
        PlacedPrefix(slice(prefix.first, prefix.end), 0, start, prefix.length)
        for prefix, start in zip(prefixes, starts, strict=True)
    ]
    return inputs, places, placed
