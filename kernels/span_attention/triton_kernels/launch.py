"""Compute what every launch needs: strides, block widths, and the factors of the logits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton.language as tl
from torch import Tensor

LOG2E = 1.4426950408889634
LONGEST_STRIDE = 2**31 // 256  # between tokens, so that offsets in a tile of 256 fit an int32
SMALLEST_SCALE = 1e-30  # replaces a scale of 0: the kernels take a maximum before they scale


@dataclass(frozen=True)
class Logits:
    """The rule by which ``q·k`` becomes a logit inside the kernels (tiles.py).

    Attributes:
        scale: the factor on ``q·k``, above 0.
        softcap: the cap of the logits, or None.
        sinks: ``[Hq]``, one extra logit per head, or None.
    """

    scale: float
    softcap: float | None
    sinks: Tensor | None

    @property
    def inner(self) -> float:
        """Return the factor inside the tanh of a softcap; 1 without one."""
        return 1.0 if self.softcap is None else self.scale / self.softcap

    @property
    def unit(self) -> float:
        """Return the factor that turns the kernels' ``x`` into a logit in base 2."""
        return LOG2E * (self.scale if self.softcap is None else self.softcap)


def block(width: int) -> int:
    """Return the tile width that holds a head of ``width``: a power of two, at least 16."""
    return max(16, 1 << (width - 1).bit_length())


def strides(*tensors: Tensor) -> list[int]:
    """Return the first three strides of each tensor ``[B, H, L, D]``; the last one is 1."""
    found: list[int] = []
    for tensor in tensors:
        found += tensor.stride()[:3]
    return found


def accumulator(dtype: torch.dtype) -> tl.dtype:
    """Return the dtype that sums are kept in: float32, or float64 for float64 inputs."""
    return tl.float64 if dtype == torch.float64 else tl.float32


def like_heads(x: Tensor) -> Tensor:
    """Return unwritten memory of the shape of ``x [B, H, L, D]``, laid out as ``[B, L, H, D]``."""
    batch, heads, length, width = x.shape
    return x.new_empty(batch, length, heads, width).transpose(1, 2)
