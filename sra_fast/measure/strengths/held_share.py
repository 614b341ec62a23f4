"""Steer so that each row and head gives the span a share of its attention."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sra_fast.kernels.steering import Steering, check_strength
from sra_fast.measure.strengths.strength import Strength


@dataclass(frozen=True)
class HeldShare(Strength):
    """A share of the attention that the span gets in each row and head.

    Attributes:
        share: the share, between 0 and 1.
        exact: whether rows that give the span more are lowered to it.
    """

    share: float
    exact: bool = False

    def __post_init__(self) -> None:
        check_strength(share=self.share)

    def steering(self, keys: Tensor, rows: Tensor | None, heads: Tensor | None) -> Steering:
        """Return the steering of one attention call; see the base class."""
        return Steering(keys, share=self.share, exact=self.exact, rows=rows, heads=heads)
