"""Compute attention profiles: the attention of groups of rows on every key, from a known logsumexp.

    P_rj        = exp(S_rj − lse_r)                                   (0 where row r sees not key j)
    profile_phj = 1 / |rows_p| · Σ_{r in group p} P_rhj

The work is ``R × N``. Rows and keys are visited in blocks, so no map of all of them exists, and no
softmax is computed a second time. With ``G_rhj = ∂L/∂profile_{p(r) h j} / |rows_{p(r)}|``, the
gradient is

    D_r   = Σ_j P_rj G_rj
    dS_rj = P_rj · (G_rj − D_r)            × (1 − (S_rj/cap)²) under a softcap,  × scale
    dsink = −Σ_r P_r,sink · D_r
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .blocks import BLOCK_NUMBERS, sees
from .contract import LogitRule, ProfileQuery, SpanQuery, accumulation_dtype
from .plan import Plan, SequencePlan
from .second_derivative import once_only

ROWS_AT_ONCE = 128


def of_rows(
    q: Tensor, k: Tensor, lse: Tensor, query: SpanQuery, sequences: Plan, rule: LogitRule
) -> Tensor:
    """Return the profiles that a query asks for, differentiable in q, k and the sinks.

    Args:
        q: ``[B, Hq, M, D]``.
        k: ``[B, Hkv, N, D]``.
        lse: ``[R, Hq]``, the logsumexp of each row asked for, sinks included; its gradient is part
            of the formulas above.
        query: the query; it has a profile.
        sequences: its plan.
        rule: how products become logits.

    Returns:
        ``[P, Hq, N]``, or ``[P, N]`` for the mean over heads; float32, or float64 for float64.
    """
    apply: Callable[..., Tensor] = _RowProfile.apply
    return apply(q, k, rule.sinks, lse.detach(), query, sequences, rule)


@dataclass(frozen=True)
class _Block:
    """Some rows of a sequence and some of its keys.

    Attributes:
        part: the sequence.
        asked: ``slice`` of the R rows asked for.
        rows: ``[r]`` int64, their positions on the query axis.
        positions: ``[r]`` int64, their positions on the key axis.
        keys: ``slice`` of the key axis.
        edge: whether some of the rows see only some of the keys.
        shift: the distance from the keys' positions to those that they are seen from: not 0 for the
            keys of the sequence's parent.
    """

    part: SequencePlan
    asked: slice
    rows: Tensor
    positions: Tensor
    keys: slice
    edge: bool
    shift: int


class _RowProfile(torch.autograd.Function):
    """Profiles from a logsumexp, with the gradient of the module's formulas."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        sinks: Tensor | None,
        lse: Tensor,
        query: SpanQuery,
        sequences: Plan,
        rule: LogitRule,
    ) -> Tensor:
        wanted = _wanted(query)
        ctx.save_for_backward(q, k, sinks, lse)
        ctx.rest = (query, sequences, rule)
        groups, heads, n = wanted.groups, q.shape[1], k.shape[2]
        shape = (groups, heads, n) if wanted.by_head else (groups, n)
        profile = torch.zeros(shape, dtype=accumulation_dtype(q.dtype), device=q.device)
        shares = _shares(query, profile.dtype)
        for blocks in _row_blocks(sequences, q, k, rule):
            numbers, share = _groups_of(blocks[0], wanted, shares)  # [P'], [P', r]
            if len(numbers) == 0:
                continue
            for block in blocks:
                weights, _ = _weights(q, k, lse, block, rule)
                if not wanted.by_head:
                    weights = weights.sum(dim=0) / heads  # [r, n]
                added = share @ weights  # [P', n] or [Hq, P', n]
                place = profile[..., block.keys]
                place.index_add_(0, numbers, added.transpose(0, 1) if wanted.by_head else added)
        return profile

    @staticmethod
    def backward(ctx: Any, d_profile: Tensor) -> tuple[Tensor | None, ...]:
        q, k, sinks, lse = ctx.saved_tensors
        with torch.no_grad():
            found = _gradient(q, k, sinks, lse, d_profile, *ctx.rest)
        return *once_only(found, q, k, sinks, d_profile), None, None, None, None


def _gradient(
    q: Tensor,
    k: Tensor,
    sinks: Tensor | None,
    lse: Tensor,
    d_profile: Tensor,
    query: SpanQuery,
    sequences: Plan,
    rule: LogitRule,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the gradients of q, k and the sinks (None without sinks), in their dtypes.

    ``d_profile`` is the gradient of the profiles, ``[P, Hq, N]`` or ``[P, N]``.
    """
    wanted = _wanted(query)
    dtype = accumulation_dtype(q.dtype)
    dq, dk = torch.zeros_like(q, dtype=dtype), torch.zeros_like(k, dtype=dtype)
    d_sinks = None if sinks is None else torch.zeros_like(sinks, dtype=dtype)
    shares = _shares(query, dtype)
    heads, groups, width = q.shape[1], k.shape[1], q.shape[3]
    for blocks in _row_blocks(sequences, q, k, rule):
        at = blocks[0]  # of the rows that all of these blocks have
        numbers, share = _groups_of(at, wanted, shares)
        if len(numbers) == 0:
            continue
        of_groups = d_profile[numbers].to(dtype)  # [P', Hq, N] or [P', N]
        if not wanted.by_head:
            of_groups = of_groups[:, None] / heads
        count = len(at.rows)
        delta = torch.zeros(heads, count, dtype=dtype, device=q.device)
        for block in blocks:
            weights, _ = _weights(q, k, lse, block, rule)
            delta += (weights * _d_weights(of_groups, share, block)).sum(dim=2)
        q_rows = q[at.part.batch, :, at.rows].to(dtype).reshape(groups, -1, width)
        for block in blocks:
            weights, logits = _weights(q, k, lse, block, rule)
            d_logits = weights * (_d_weights(of_groups, share, block) - delta[..., None])
            if rule.softcap is not None:
                d_logits *= 1 - (logits / rule.softcap) ** 2
            d_logits = (d_logits * rule.scale).reshape(groups, -1, d_logits.shape[2])
            keys = k[at.part.batch, :, block.keys].to(dtype)
            dq[at.part.batch, :, at.rows] += (d_logits @ keys).reshape(heads, count, width)
            dk[at.part.batch, :, block.keys] += d_logits.transpose(1, 2) @ q_rows
        if d_sinks is not None and sinks is not None:
            of_sink = torch.exp(sinks.to(dtype)[:, None] - lse[at.asked].T)  # [Hq, r]
            d_sinks -= (of_sink * delta).sum(dim=1)
    sink_grad = None if d_sinks is None or sinks is None else d_sinks.to(sinks.dtype)
    return dq.to(q.dtype), dk.to(k.dtype), sink_grad


def _wanted(query: SpanQuery) -> ProfileQuery:
    """Return what a query with profiles says of them."""
    assert query.profile is not None
    return query.profile


def _shares(query: SpanQuery, dtype: torch.dtype) -> Tensor:
    """Return the share of each row in its group's mean, ``[R]``; 0 for rows in no group."""

    def make() -> Tensor:
        wanted = _wanted(query)
        group = wanted.row_groups.long()
        inside = group >= 0
        counts = torch.zeros(wanted.groups + 1, dtype=dtype, device=group.device)
        counts.index_add_(0, group + 1, torch.ones_like(group, dtype=dtype))
        return torch.where(inside, 1 / counts[group + 1], 0)

    return query.derived(("profile shares", dtype), make)


def _groups_of(block: _Block, wanted: ProfileQuery, shares: Tensor) -> tuple[Tensor, Tensor]:
    """Return the P' groups of a block's rows, and each row's share in them, ``[P', r]``."""
    group = wanted.row_groups[block.asked].long()
    numbers = group[group >= 0].unique()
    return numbers, (group == numbers[:, None]).to(shares.dtype) * shares[block.asked]


def _d_weights(of_groups: Tensor, share: Tensor, block: _Block) -> Tensor:
    """Return G of a block, ``[Hq, r, n]``, or ``[1, r, n]`` if it is the same for all heads.

    ``of_groups`` is the gradient of its rows' profiles, ``[P', Hq, N]`` or ``[P', 1, N]``.
    """
    return share.T @ of_groups[:, :, block.keys].transpose(0, 1)


def _row_blocks(sequences: Plan, q: Tensor, k: Tensor, rule: LogitRule) -> Iterator[list[_Block]]:
    """Yield for some rows after the other the blocks of all the keys that they see."""
    offset = k.shape[2] - q.shape[2]
    for part in sequences.sequences:
        for first in range(0, len(part.rows), ROWS_AT_ONCE):
            rows = part.rows[first : first + ROWS_AT_ONCE]
            start = part.asked.start + first
            positions = rows + offset
            lowest, highest = int(positions[0]), int(positions[-1])
            low = part.first
            if rule.window is not None:
                low = max(low, lowest - rule.window + 1)
            size = max(16, BLOCK_NUMBERS // (q.shape[1] * len(rows)))
            own = max(low, part.keys.start)
            yield [
                _Block(
                    part,
                    slice(start, start + len(rows)),
                    rows,
                    positions,
                    slice(at - shift, last - shift),
                    last - 1 > lowest or (rule.window is not None and at <= highest - rule.window),
                    shift,
                )
                for begin, end, shift in ((low, own, part.shift), (own, highest + 1, 0))
                for at in range(begin, end, size)
                for last in [min(at + size, end)]
            ]


def _weights(
    q: Tensor, k: Tensor, lse: Tensor, block: _Block, rule: LogitRule
) -> tuple[Tensor, Tensor]:
    """Return the attention of a block and its logits, ``[Hq, r, n]`` each.

    Without a softcap nobody needs the logits, and the two are one tensor.
    """
    dtype, heads, width = lse.dtype, q.shape[1], q.shape[3]
    rows = q[block.part.batch, :, block.rows].to(dtype).reshape(k.shape[1], -1, width)
    keys = k[block.part.batch, :, block.keys].to(dtype)
    product = (rows @ keys.transpose(1, 2)).reshape(heads, len(block.rows), -1)
    of_rows = lse[block.asked].T[..., None]  # [Hq, r, 1]
    logits = product.mul_(rule.scale)
    if rule.softcap is None:
        weights = logits.sub_(of_rows)
    else:
        logits = torch.tanh(logits / rule.softcap) * rule.softcap
        weights = logits - of_rows
    if block.edge:
        at_key = torch.arange(block.keys.start, block.keys.stop, device=q.device) + block.shift
        weights.masked_fill_(~sees(block.positions, at_key, rule.window), -torch.inf)
    return weights.exp_(), logits
