"""Steer as InstABoost does: multiply the attention on the instruction, then make it sum to 1.

With P_ij the attention after softmax and M the multiplier,

    P′_ij = M · P_ij / Z_i for tokens j of the span,  P_ij / Z_i for all others,  Σ_j P′_ij = 1

which is a bias β = ln M on the span's logits. Source: Guardieiro et al., "Instruction Following by
Boosting Attention of Large Language Models", arXiv 2506.13734.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from sra_fast.kernels.steering import LARGEST_BIAS, Steering
from sra_fast.measure.strengths.strength import Strength


@dataclass(frozen=True)
class InstABoost(Strength):
    """The multiplier of InstABoost.

    Attributes:
        multiplier: M, above 0; the paper's is above 1.
    """

    multiplier: float

    def __post_init__(self) -> None:
        if not math.exp(-LARGEST_BIAS) <= self.multiplier <= math.exp(LARGEST_BIAS):  # NaN too
            raise ValueError(
                f"steer: instaboost: expected a multiplier above 0, from e^-{LARGEST_BIAS} to "
                f"e^{LARGEST_BIAS}, got {self.multiplier}"
            )

    def steering(self, keys: Tensor, rows: Tensor | None, heads: Tensor | None) -> Steering:
        """Return the steering of one attention call; see the base class."""
        return Steering(keys, bias=math.log(self.multiplier), rows=rows, heads=heads)
