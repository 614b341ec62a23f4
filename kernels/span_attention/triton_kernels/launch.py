"""What every launch needs: strides, block widths, and the factors of the logits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton.language as tl
from torch import Tensor

LOG2E = 1.4426950408889634
LONGEST_STRIDE = 2**31 // 256  # between tokens: a tile of 256 stays within an int32
SMALLEST_SCALE = 1e-30  # stands for 0: the kernels take a maximum before they scale


@dataclass(frozen=True)
class Logits:
    """How a product becomes a logit (tiles.py): ``scale > 0``, and what follows from it.

    Attributes:
        scale: factor on ``q·k``.
        softcap: or None.
        sinks: ``[Hq]`` or None.
    """

    scale: float
    softcap: float | None
    sinks: Tensor | None

    @property
    def inner(self) -> float:
        """Factor inside the tanh of a softcap."""
        return 1.0 if self.softcap is None else self.scale / self.softcap

    @property
    def unit(self) -> float:
        """Factor from ``x`` to a logit in base 2."""
        return LOG2E * (self.scale if self.softcap is None else self.softcap)


def block(width: int) -> int:
    """The tile width that holds a head of ``width``: a power of two, at least 16."""
    return max(16, 1 << (width - 1).bit_length())


def strides(*tensors: Tensor) -> list[int]:
    """The first three strides of each tensor ``[B, H, L, D]``; the last one is 1."""
    return [stride for tensor in tensors for stride in tensor.stride()[:3]]


def accumulator(dtype: torch.dtype) -> tl.dtype:
    """What sums are kept in: float32, float64 for float64 inputs."""
    return tl.float64 if dtype == torch.float64 else tl.float32


def like_heads(x: Tensor) -> Tensor:
    """Unwritten memory of the shape of ``x [B, H, L, D]``, in memory ``[B, L, H, D]``."""
    batch, heads, length, width = x.shape
    return x.new_empty(batch, length, heads, width).transpose(1, 2)
