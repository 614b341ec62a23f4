"""Lay the sequences of one forward pass out in rows, as the decoder takes them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


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
