"""Lower a span that holds most keys by raising the others, which are fewer.

Without a sink, a softmax does not change if one number is added to all logits of a row. So β on the
logits of the span S is −β on those of the rest R, but for the logsumexp, to which β is added. For
β < 0 nothing is taken away then, and no row is computed anew.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .contract import LogitRule, SpanQuery
from .merging import Attended
from .steered import steered
from .steering import Steering


def raises_rest(steer: Steering, rule: LogitRule) -> bool:
    """Return whether a steering is one that lowers most keys, and no sink is in the way."""
    if steer.bias is None or not -math.inf < steer.bias < 0 or rule.sinks is not None:
        return False

    def most() -> bool:
        return 2 * int(steer.span.sum()) > steer.span.numel()  # waits for the device, once

    return steer.derived(("most keys",), most)


def steered_by_rest(
    attended: Attended,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    query: SpanQuery,
    rule: LogitRule,
    steer: Steering,
    kernels: Any | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what :func:`steered.steered` returns, for a steering that lowers most keys.

    Arguments are those of that function. β is there for all steered queries and heads that see a
    key, whether of the span or not.
    """
    assert steer.bias is not None
    bias = steer.bias
    rest = steer.derived(("rest",), lambda: replace(steer, span=~steer.span, bias=-bias))
    out, lse, _ = steered(attended, q, k, v, query, rule, rest, kernels)
    beta = torch.where(steer.steered() & (lse > -torch.inf), bias, 0.0).to(lse.dtype)
    return out, lse + beta, beta
