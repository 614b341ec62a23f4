"""Check that the alternatives computed the same thing; an alternative that did not gets no time.

Per quantity (scores, hidden states) the truth is the median over the alternatives that give it,
entry by entry: of three, one wrong one stands alone; of two that differ, both are off.

    error(x) = max over definitions of  ‖x − truth‖ / ‖truth‖ over layers, and of the same for the
               mean over layers, which is the SRA

- float32: the error is at most 1e-5 for SRA, and 1e-4 for hidden states, which pass through every
  layer of the model and its norm.
- bfloat16: the truth is float32's. The error is at most twice the one that eager attention makes in
  bfloat16, plus the float32 tolerance. Where eager was not run in bfloat16, its error at the
  greatest shorter length counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from benchmarks.measuring.alternatives import AlternativeAnswer

Quantity = Literal["scores", "hidden"]
QUANTITIES: tuple[Quantity, ...] = ("scores", "hidden")
FLOAT32_TOLERANCES: Mapping[Quantity, float] = {"scores": 1e-5, "hidden": 1e-4}


@dataclass(frozen=True)
class AnswerVerdict:
    """The relative errors of one alternative, and what they were allowed to be."""

    errors: Mapping[Quantity, float]
    tolerances: Mapping[Quantity, float]

    @property
    def right(self) -> bool:
        """Return whether every error is within its tolerance; NaN never is."""
        return all(self.errors[name] <= self.tolerances[name] for name in self.errors)

    def __str__(self) -> str:
        return ", ".join(
            f"{name} off by {error:.1e} (at most {self.tolerances[name]:.1e})"
            for name, error in self.errors.items()
        )


Truth = Mapping[Quantity, Tensor]
"""The values that right answers are near to, without quantities that fewer than two gave."""


def agree_on(answers: Sequence[AlternativeAnswer]) -> Truth:
    """Return the median answer, entry by entry, of the alternatives of one float32 case."""
    values: dict[Quantity, Tensor] = {}
    for name in QUANTITIES:
        given = [_value(answer, name) for answer in answers]
        present = [value for value in given if value is not None]
        if len(present) > 1:
            median = np.median(torch.stack(present).double().numpy(), axis=0)
            values[name] = torch.from_numpy(median)
    return values


def check(
    answers: Sequence[AlternativeAnswer], truth: Truth, tolerances: Mapping[Quantity, float]
) -> AnswerVerdict | None:
    """Judge one alternative by the worst of its answers.

    Returns None if there is nothing to check them by.
    """
    errors = worst_errors(answers, truth)
    given = {name for name in QUANTITIES for answer in answers if _value(answer, name) is not None}
    if not given or not given <= errors.keys() & tolerances.keys():
        return None
    return AnswerVerdict(errors, {name: tolerances[name] for name in errors})


def bfloat16_tolerances(eager_errors: Mapping[Quantity, float]) -> dict[Quantity, float]:
    """Return the tolerances of bfloat16, from eager attention's own errors in bfloat16."""
    return {name: 2 * error + FLOAT32_TOLERANCES[name] for name, error in eager_errors.items()}


def worst_errors(answers: Sequence[AlternativeAnswer], truth: Truth) -> dict[Quantity, float]:
    """Return the largest error of several answers, per quantity."""
    errors: dict[Quantity, float] = {}
    for name in QUANTITIES:
        values = [_value(answer, name) for answer in answers]
        if name not in truth:
            continue
        found = [ERROR[name](value, truth[name]) for value in values if value is not None]
        if found:
            errors[name] = float(np.max(found))  # NaN if any is
    return errors


def _score_error(value: Tensor, truth: Tensor) -> float:
    """Return the error of scores ``[4, L]`` against the truth's, as the module defines it."""
    rows = [(value, truth), (value.mean(dim=1, keepdim=True), truth.mean(dim=1, keepdim=True))]
    return float(torch.stack([_relative(x, y) for x, y in rows]).max())


def _hidden_error(value: Tensor, truth: Tensor) -> float:
    """Return the error of hidden states ``[R, hidden]``, taken as one vector."""
    return float(_relative(value.flatten()[None], truth.flatten()[None]).max())


def _relative(value: Tensor, truth: Tensor) -> Tensor:
    difference = value.double() - truth.double()
    relative: Tensor = difference.norm(dim=1) / truth.double().norm(dim=1)
    return relative


def _value(answer: AlternativeAnswer, name: Quantity) -> Tensor | None:
    return answer.scores if name == "scores" else answer.hidden


ERROR: Mapping[Quantity, Callable[[Tensor, Tensor], float]] = {
    "scores": _score_error,
    "hidden": _hidden_error,
}
