"""Steer as Spotlight does: one bias per layer and call lifts the span's mean share.

With ψ̄ the span's share of the attention, its mean over the heads and rows of a sequence in a call,
and ψ the share that is wanted,

    β = ln(ψ / ψ̄) on the span's logits, in all these heads and rows, where ψ̄ < ψ; else 0

Source: Venkateswaran and Contractor, "Spotlight Your Instructions: Instruction-following with
Dynamic Attention Steering", arXiv 2505.12025.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sra_fast.kernels.steering import Steering
from sra_fast.measure.strengths.strength import Strength


@dataclass(frozen=True)
class Spotlight(Strength):
    """The share that Spotlight lifts the span's mean share towards.

    Attributes:
        share: ψ, between 0 and 1.
    """

    share: float
    pools_rows = True

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:  # NaN too
            raise ValueError(
                f"steer: spotlight: expected a share between 0 and 1, both out, got {self.share}"
            )

    def steering(self, keys: Tensor, rows: Tensor | None, heads: Tensor | None) -> Steering:
        """Return the steering of one attention call; see the base class."""
        return Steering(keys, pooled_share=self.share, rows=rows, heads=heads)
