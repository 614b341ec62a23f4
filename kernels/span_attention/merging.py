"""Combine what attention kernels return: two sets of keys by their logsumexps, and sinks.

With outputs ``o_a, o_b`` and logsumexps ``l_a, l_b`` over two disjoint sets of keys,

    lse = log(exp l_a + exp l_b)        out = o_a · exp(l_a − lse) + o_b · exp(l_b − lse)

and a sink is a set of one key without a value. Neither carries a gradient of the logsumexps, which
no platform's kernel gives; so a call that wants a gradient never comes here.
"""

from __future__ import annotations

import torch
from torch import Tensor

Attended = tuple[Tensor, Tensor]
"""An output ``[B, Hq, M, Dv]`` and its logsumexp ``[B, Hq, M]``, natural logarithm."""


def merge(a: Attended, b: Attended) -> Attended:
    """Return the softmax over two disjoint sets of keys from the softmax over each."""
    (out_a, lse_a), (out_b, lse_b) = a, b
    lse = torch.logaddexp(lse_a, lse_b)
    weight_a, weight_b = (lse_a - lse).exp()[..., None], (lse_b - lse).exp()[..., None]
    return (weight_a * out_a + weight_b * out_b).to(out_a.dtype), lse


def add_sinks(out: Tensor, lse: Tensor, sinks: Tensor) -> Attended:
    """Return the attention with sinks ``[Hq]`` added; a query that sees no key stays as it is."""
    sinks = sinks.to(lse.dtype)[:, None]
    share = torch.sigmoid(lse - sinks)[..., None].to(out.dtype)
    with_sinks = torch.logaddexp(lse, sinks).masked_fill_(lse == -torch.inf, -torch.inf)
    return out * share, with_sinks
