"""Steer the attention of any backend, and read the masses that were asked for.

Backend ``reference`` adds β to its logits. All others attend as without steering, for output and
logsumexp alone; the steering is an epilogue on these (:mod:`steered`): the Triton kernel's, where
that backend was asked for or may be chosen unasked, else one of plain products.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from . import reference
from .contract import LogitRule, SpanAttention, SpanQuery
from .dispatch import trusted_kernels
from .raised_rest import raises_rest, steered_by_rest
from .steered import steered
from .steered_masses import steered_mass, steered_profile
from .steering import Steering


def steered_attention(
    backend: Any,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    query: SpanQuery,
    rule: LogitRule,
    steer: Steering,
) -> SpanAttention:
    """Return attention and mass after steering, without gradients.

    Arguments are those of a backend's ``attention``, after the backend itself.
    """
    if backend is reference:
        return reference.attention(q, k, v, query, rule, False, steer)
    asking_nothing = query.derived(("no rows",), lambda: _without_rows(query))
    found = backend.attention(q, k, v, asking_nothing, rule, False)
    kernels = backend if hasattr(backend, "steer_in_place") else trusted_kernels(q, v)
    epilogue = steered_by_rest if raises_rest(steer, rule) else steered
    out, lse, beta = epilogue((found.out, found.lse), q, k, v, query, rule, steer, kernels)
    if len(query.rows) == 0:
        mass, profile = found.mass.new_zeros(0, q.shape[1], len(query.names)), None
    else:
        mass, profile = steered_mass(q, k, lse, beta, query, rule, steer), None
    if query.profile is not None:
        profile = steered_profile(q, k, lse, beta, query, rule, steer)
    return SpanAttention(out, mass, lse, profile)


def _without_rows(query: SpanQuery) -> SpanQuery:
    """Return the same segments with no row and no span asked for."""
    return replace(
        query,
        key_labels=query.key_labels.new_zeros(query.key_labels.shape),
        rows=query.rows[:0],
        names=(),
        profile=None,
    )
