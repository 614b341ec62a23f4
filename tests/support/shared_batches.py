"""Make batches whose sequences begin alike, from a tree of common beginnings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from model_families import random_tokens

REPLY = 6
"""The number of a sequence's last tokens that are its response."""


def tokens(length: int, seed: int) -> Tensor:
    """Return random tokens, ``[length]``; two seeds differ from the first token on."""
    return torch.cat([torch.tensor([3 + seed % 50]), random_tokens(1, length, seed)[0][1:]])


def shared_batch(
    texts: Sequence[Tensor], side: str = "right", spans: Sequence[Sequence[int]] | None = None
) -> dict[str, Any]:
    """Pad texts into a batch; the last tokens of each are its response.

    ``spans`` are the positions of each text's span; if None, two tokens of its beginning and one
    before its response.
    """
    shape = (len(texts), max(map(len, texts)))
    batch: dict[str, Any] = {
        "input_ids": torch.zeros(shape, dtype=torch.int64),
        "attention_mask": torch.zeros(shape, dtype=torch.int64),
        "strategy_mask": torch.zeros(shape, dtype=torch.bool),
        "response_mask": torch.zeros(shape, dtype=torch.bool),
    }
    for row, text in enumerate(texts):
        first = shape[1] - len(text) if side == "left" else 0
        batch["input_ids"][row, first : first + len(text)] = text
        batch["attention_mask"][row, first : first + len(text)] = 1
        span = [4, 5, len(text) - REPLY - 3] if spans is None else spans[row]
        batch["strategy_mask"][row, [first + at for at in span]] = True
        batch["response_mask"][row, first + len(text) - REPLY : first + len(text)] = True
    return batch
