"""Steer as PASTA does: scale down the attention on the prompt's tokens outside the span.

With P_ij the attention after softmax, G the span, X the tokens of the prompt and α the factor, in
the heads that are steered,

    P′_ij = α · P_ij / Z_i for tokens j of X without G,  P_ij / Z_i for all others,  Σ_j P′_ij = 1

which is a bias log α on the logits of X without G. Tokens of the reply are no part of X. Source:
Zhang et al., "Tell Your Model Where to Attend: Post-hoc Attention Steering for LLMs", arXiv
2311.02262.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from sra_fast.kernels.steering import LARGEST_BIAS, Steering
from sra_fast.measure.spans import BatchRowError, MarkedSequence
from sra_fast.measure.strengths.strength import Strength


@dataclass(frozen=True)
class Pasta(Strength):
    """The factor of PASTA.

    Attributes:
        factor: α, above 0 and at most 1.
    """

    factor: float

    def __post_init__(self) -> None:
        if not math.exp(-LARGEST_BIAS) <= self.factor <= 1:  # NaN too
            raise ValueError(
                f"steer: pasta: expected a factor above 0 and at most 1 (from e^-{LARGEST_BIAS}), "
                f"got {self.factor}"
            )

    def keys(self, sequence: MarkedSequence, span: Tensor) -> Tensor:
        """Return the tokens of the prompt that are not in the span, ``[length]`` bool.

        Raises:
            BatchRowError: several replies are marked, each of which has a prompt of its own.
        """
        replies = [one.tokens for one in sequence.responses if len(one.tokens)]
        if len(replies) > 1:
            raise BatchRowError(
                sequence.row,
                f"pasta: {len(replies)} replies are marked, and the prompt of each is another; "
                "mark one reply in a sequence",
            )
        others = ~span
        for tokens in replies:
            others[int(tokens[0]) :] = False
        return others

    def steering(self, keys: Tensor, rows: Tensor | None, heads: Tensor | None) -> Steering:
        """Return the steering of one attention call; see the base class."""
        return Steering(keys, bias=math.log(self.factor), rows=rows, heads=heads)
