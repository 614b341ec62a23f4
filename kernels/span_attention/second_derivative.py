"""Refuse the second derivative of what computes its first one by hand.

A backward pass that takes a logsumexp as a number leaves out what moves through it, so autograd
must not differentiate it. ``once_differentiable`` reaches none of the inputs, so that
``torch.autograd.grad`` with respect to q would pass by its refusal, and leave that part out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NoReturn

import torch
from torch import Tensor


def once_only(gradients: Iterable[Tensor | None], *inputs: Tensor | None) -> list[Tensor | None]:
    """Return gradients that refuse to be differentiated in the inputs they were made of.

    Without a graph of the backward pass they are returned as they are.
    """
    if not torch.is_grad_enabled():
        return [*gradients]
    apply: Callable[..., Tensor] = _NoSecondDerivative.apply
    return [None if each is None else apply(each, *inputs) for each in gradients]


class _NoSecondDerivative(torch.autograd.Function):
    """The first argument as it is, in a graph that reaches the others."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, *inputs: Tensor | None) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> NoReturn:
        raise RuntimeError(
            "the gradient of masses and profiles cannot be differentiated a second time, except by "
            'backend="reference"'
        )
