"""Compute the term of the loss that draws attention towards the strategy.

It is a differentiable penalty per response. With ``s_r`` the SRA of response r, over the chosen
layers and heads, and f the natural logarithm or the identity:

    p_r = −w · f(s_r)                       without a target
    p_r =  w · max(0, f(target) − f(s_r))   with one (a hinge: nothing is left to gain above it)

The term of an optimizer step is the mean of ``p_r`` over its N responses: the length of a response,
or the micro-batch and process it came in, gives it no weight. It is a mean of logarithms, where the
logged ``log_sra`` is the logarithm of a mean: only the former is a sum over micro-batches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sra_fast.measure.reduction import answered_layers, response_scores
from sra_fast.measure.watching import WatchedCall
from sra_fast.names import Differentiable

_SMALLEST = 1e-12  # below it the logarithm gives no gradient, rather than an infinite one


class NoGradientError(ValueError):
    """Raised when the attention masses came back without a gradient to train on."""


@dataclass(frozen=True)
class SRARegulariser:
    """The penalty ``p_r`` on a response, and the layers and heads it is taken over.

    Attributes:
        weight: the weight w, at least 0.
        target: the SRA to reach (not its logarithm); None to raise it without end.
        log: whether f is the logarithm, whose gradient does not depend on how small SRA is.
        definition: the definition of SRA: "paper" or "mass", which are differentiable in all that
            they depend on.
        layers: ``layer_idx`` of the layers to average over; every attention layer if None.
        heads: numbers of the heads to average over, in each of these layers; all if None.

    Raises:
        ValueError: a field has a value that it cannot have.
    """

    weight: float
    target: float | None = None
    log: bool = True
    definition: Differentiable = "paper"
    layers: Sequence[int] | None = None
    heads: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight >= 0.0):
            raise ValueError(f"sra_weight must be a number from 0 on, got {self.weight!r}")
        if self.target is not None and not (math.isfinite(self.target) and self.target > 0.0):
            raise ValueError(
                f"sra_target is an SRA, not its logarithm, and so above 0; got {self.target!r}"
            )
        if self.definition not in ("paper", "mass"):
            raise ValueError(
                f"sra_definition must be 'paper' or 'mass' to be trained on, got "
                f"{self.definition!r}"
            )
        for name, chosen in (("sra_layers", self.layers), ("sra_heads", self.heads)):
            if chosen is not None and not (chosen and len(set(chosen)) == len(chosen)):
                raise ValueError(f"{name}: expected different numbers, or None for all: {chosen!r}")

    def check_layers(self, layers: Sequence[int], model: str) -> None:
        """Check that the chosen layers are among the attention layers of a model.

        Raises:
            ValueError: a chosen layer is not.
        """
        unknown = sorted(set(self.layers or ()) - set(layers))
        if unknown:
            raise ValueError(
                f"sra_layers: {model} has no attention layer {unknown[0]}; its attention layers "
                f"are {', '.join(map(str, layers))}"
            )

    def penalties(self, scores: Tensor) -> Tensor:
        """Return the penalty of each response, ``p_r [n]``, given the scores ``s_r [n]``."""
        target = self.target
        if self.log:
            scores = scores.clamp(min=_SMALLEST).log()
            target = None if target is None else math.log(target)
        if target is None:
            return -self.weight * scores
        return self.weight * (target - scores).clamp(min=0.0)

    def total(self, answer: WatchedCall) -> Tensor:
        """Return the summed penalty ``Σ_r p_r`` of one forward call: a scalar, float64.

        Raises:
            ValueError: a layer does not have one of the chosen heads.
            NoGradientError: no mass depends on anything that is trained.
        """
        answered = answered_layers(answer.request, answer.layers)
        self.check_layers(answered, "the model")
        layers = answered if self.layers is None else tuple(self.layers)
        count = min(answer.request.masses[layer].shape[1] for layer in layers)
        unknown = [head for head in self.heads or () if not 0 <= head < count]
        if unknown:
            raise ValueError(f"sra_heads: no head {unknown[0]}; there are 0 to {count - 1}")
        if torch.is_grad_enabled() and not any(
            answer.request.masses[layer].requires_grad for layer in layers
        ):
            raise NoGradientError(
                "the attention masses came back without a gradient: either gradient checkpointing "
                "is reentrant (gradient_checkpointing_kwargs={'use_reentrant': False} is the way), "
                "or nothing that is trained lies before the attention weights of the chosen layers "
                "(train q_proj and k_proj)"
            )
        scores = response_scores(
            answer.request, answer.placed, answer.marked, layers, self.definition, self.heads
        )
        return self.penalties(scores).sum()
