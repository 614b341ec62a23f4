"""Read masses and profiles of steered attention with the code that reads them without steering.

A key outside the steered span has the weight ``exp(S_ij − lse′_i)``, one inside it the weight
``exp(S_ij − (lse′_i − β_i))``: to those keys the query's logsumexp is another number. So each is
asked with its own (see :mod:`steering` for the letters).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from . import profile
from .contract import LogitRule, ProfileQuery, SpanQuery
from .dispatch import trusted_kernels
from .lse import mass_of_lse
from .plan import plan
from .steering import Steering


def steered_mass(
    q: Tensor,
    k: Tensor,
    lse: Tensor,
    beta: Tensor,
    query: SpanQuery,
    rule: LogitRule,
    steer: Steering,
) -> Tensor:
    """Return the mass ``[R, Hq, G]`` of the rows asked for, without a gradient.

    Args:
        q: ``[B, Hq, M, D]``.
        k: ``[B, Hkv, N, D]``.
        lse: ``[B, Hq, M]`` after steering.
        beta: ``[B, Hq, M]``, what was added to the logits of the steered span.
        query: the rows and spans asked for.
        rule: how products become logits.
        steer: the steering, on q's device.
    """
    sizes = q.shape[0], q.shape[2], k.shape[2]
    outside, inside = query.derived(("steered", steer), lambda: _split(query, steer))
    rest = mass_of_lse(q, k, lse, outside, plan(outside, *sizes), rule)
    return rest + mass_of_lse(q, k, _for_span(lse, beta), inside, plan(inside, *sizes), rule)


def steered_profile(
    q: Tensor,
    k: Tensor,
    lse: Tensor,
    beta: Tensor,
    query: SpanQuery,
    rule: LogitRule,
    steer: Steering,
) -> Tensor:
    """Return the profiles that the query asks for, ``[P, Hq, N]`` or ``[P, N]``.

    Arguments are those of :func:`steered_mass`.
    """
    wanted, m = query.profile, q.shape[2]
    assert wanted is not None
    batch, row = query.rows // m, query.rows % m
    # A group may have rows in several batch rows, and the span is another in each of these.
    pairs = torch.stack([wanted.row_groups.long(), batch])[:, wanted.row_groups >= 0]
    (group, of_batch), place, sizes = pairs.unique(dim=1, return_inverse=True, return_counts=True)
    numbers = torch.full_like(wanted.row_groups, -1)
    numbers[wanted.row_groups >= 0] = place.to(numbers.dtype)
    apart = replace(query, profile=ProfileQuery(numbers, len(group), wanted.by_head))
    rest, span = (
        _of_rows(q, k, each[batch, :, row], apart, rule) for each in (lse, _for_span(lse, beta))
    )
    in_span = steer.span[of_batch]  # [U, N]
    found = torch.where(in_span[:, None] if wanted.by_head else in_span, span, rest)
    rows = torch.zeros(wanted.groups, dtype=found.dtype, device=found.device)
    rows.index_add_(0, group, sizes.to(rows.dtype))
    shares = (sizes / rows[group]).to(found.dtype).view(-1, *[1] * (found.ndim - 1))
    result = found.new_zeros(wanted.groups, *found.shape[1:])
    return result.index_add_(0, group, found * shares)


def _of_rows(q: Tensor, k: Tensor, lse: Tensor, query: SpanQuery, rule: LogitRule) -> Tensor:
    kernels = trusted_kernels(q, k)
    if kernels is not None:
        made: Tensor = kernels.profile_of_rows(q, k, lse, query, rule)
        return made
    return profile.of_rows(q, k, lse, query, plan(query, q.shape[0], q.shape[2], k.shape[2]), rule)


def _for_span(lse: Tensor, beta: Tensor) -> Tensor:
    """Return ``lse′ − β``, which is +∞ for a span that is knocked out: its weights are 0."""
    return torch.where(beta == -torch.inf, torch.inf, lse - beta)


def _split(query: SpanQuery, steer: Steering) -> tuple[SpanQuery, SpanQuery]:
    """Return the query about the keys outside the steered span, and that about those inside it."""
    labels = query.key_labels
    return (
        replace(query, key_labels=labels.masked_fill(steer.span, 0), profile=None),
        replace(query, key_labels=labels.masked_fill(~steer.span, 0), profile=None),
    )
