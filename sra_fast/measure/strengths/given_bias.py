"""Steer by a number β that is added to the logits of the span; −∞ knocks it out."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sra_fast.kernels.steering import Steering, check_strength
from sra_fast.measure.strengths.strength import Strength


@dataclass(frozen=True)
class GivenBias(Strength):
    """A bias on the span's logits.

    Attributes:
        bias: β.
    """

    bias: float

    def __post_init__(self) -> None:
        check_strength(bias=self.bias)

    def steering(self, keys: Tensor, rows: Tensor | None, heads: Tensor | None) -> Steering:
        """Return the steering of one attention call; see the base class."""
        return Steering(keys, bias=self.bias, rows=rows, heads=heads)
