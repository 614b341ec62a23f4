"""Make batches with marked spans and responses, for tests of whatever scores them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from model_families import Family, eager_attentions, random_tokens

SPAN = (3, 4, 5, 6)


def response_positions(length: int) -> list[list[int]]:
    """Return the positions of a sequence's two responses, counted from its first token."""
    return [list(range(length - 12, length - 8)), list(range(length - 5, length))]


def marked_batch(lengths: tuple[int, ...], side: str = "right", seed: int = 0) -> dict[str, Any]:
    """Make random sequences, each with a span at positions 3 to 6 and two responses at its end.

    The tokens of a sequence depend on its length and ``seed`` alone, not on the other sequences.
    """
    width = max(lengths)
    batch: dict[str, Any] = {
        "input_ids": torch.zeros(len(lengths), width, dtype=torch.int64),
        "attention_mask": torch.zeros(len(lengths), width, dtype=torch.int64),
        "strategy_mask": torch.zeros(len(lengths), width, dtype=torch.bool),
        "response_mask": torch.zeros(len(lengths), width, dtype=torch.int32),
    }
    for row, length in enumerate(lengths):
        first = width - length if side == "left" else 0
        batch["input_ids"][row, first : first + length] = random_tokens(1, length, seed)[0]
        batch["attention_mask"][row, first : first + length] = 1
        batch["strategy_mask"][row, [first + at for at in SPAN]] = True
        for number, positions in enumerate(response_positions(length), start=1):
            batch["response_mask"][row, [first + at for at in positions]] = number
    return batch


def eager_maps(family: Family, length: int) -> Tensor:
    """Return a sequence's own maps in a fresh model, ``[L, H, T, T]`` float64."""
    maps = eager_attentions(family.build(), random_tokens(1, length))
    return torch.stack([attn[0] for attn in maps.values()]).double()
