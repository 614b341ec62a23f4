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

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .blocks import BLOCK_NUMBERS, sees
from .contract import LogitRule, ProfileQuery, SpanQuery, accumulation_dtype
from .plan import Plan, SequencePlan

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
    profile: Tensor = _RowProfile.apply(  # type: ignore[no-untyped-call]
        q, k, rule.sinks, lse.detach(), query, sequences, rule
    )
    return profile


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
    """

    part: SequencePlan
    asked: slice
    rows: Tensor
    positions: Tensor
    keys: slice
    edge: bool


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
        for rows in _row_blocks(query, sequences, q, k, rule):
            numbers, share = _of_block(wanted, rows[0].asked, shares)  # [P'], [P', r]
            if len(numbers) == 0:
                continue
            for block in rows:
                weights, _ = _weights(q, k, lse, block, rule)
                if not wanted.by_head:
                    weights = weights.sum(dim=0) / heads  # [r, n]
                added = share @ weights  # [P', n] or [Hq, P', n]
                place = profile[..., block.keys]
                place.index_add_(0, numbers, added.transpose(0, 1) if wanted.by_head else added)
        return profile

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        q, k, sinks, lse = ctx.saved_tensors
        query, sequences, rule = ctx.rest
        wanted = _wanted(query)
        given = grads[0]  # [P, Hq, N] or [P, N]
        dtype = accumulation_dtype(q.dtype)
        dq, dk = torch.zeros_like(q, dtype=dtype), torch.zeros_like(k, dtype=dtype)
        d_sinks = None if sinks is None else torch.zeros_like(sinks, dtype=dtype)
        shares = _shares(query, dtype)
        heads, groups, width = q.shape[1], k.shape[1], q.shape[3]
        for rows in _row_blocks(query, sequences, q, k, rule):
            numbers, share = _of_block(wanted, rows[0].asked, shares)
            if len(numbers) == 0:
                continue

            def of_attention(
                block: _Block, numbers: Tensor = numbers, share: Tensor = share
            ) -> Any:
                """Return G, ``[Hq, r, n]`` or ``[1, r, n]``."""
                grad = given[numbers][..., block.keys].to(dtype)
                if wanted.by_head:
                    return share.T @ grad.transpose(0, 1)
                return (share.T @ grad)[None] / heads

            at = rows[0]
            count = len(at.rows)
            delta = torch.zeros(heads, count, dtype=dtype, device=q.device)
            for block in rows:
                delta += (_weights(q, k, lse, block, rule)[0] * of_attention(block)).sum(dim=2)
            wanted_q = q[at.part.batch, :, at.rows].to(dtype).reshape(groups, -1, width)
            for block in rows:
                weights, logits = _weights(q, k, lse, block, rule)
                d_logits = weights * (of_attention(block) - delta[..., None])
                if rule.softcap is not None:
                    d_logits *= 1 - (logits / rule.softcap) ** 2
                d_logits = (d_logits * rule.scale).reshape(groups, -1, d_logits.shape[2])
                keys = k[at.part.batch, :, block.keys].to(dtype)
                dq[at.part.batch, :, at.rows] += (d_logits @ keys).reshape(heads, count, width)
                dk[at.part.batch, :, block.keys] += d_logits.transpose(1, 2) @ wanted_q
            if d_sinks is not None and sinks is not None:
                of_sink = torch.exp(sinks.to(dtype)[:, None] - lse[at.asked].T)  # [Hq, r]
                d_sinks -= (of_sink * delta).sum(dim=1)
        sink_grad = None if d_sinks is None or sinks is None else d_sinks.to(sinks.dtype)
        return dq.to(q.dtype), dk.to(k.dtype), sink_grad, None, None, None, None


def _wanted(query: SpanQuery) -> ProfileQuery:
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


def _of_block(wanted: ProfileQuery, asked: slice, shares: Tensor) -> tuple[Tensor, Tensor]:
    """Return the P' groups that some rows are in, and each row's share in them, ``[P', r]``."""
    group = wanted.row_groups[asked].long()
    numbers = group[group >= 0].unique()
    return numbers, (group == numbers[:, None]).to(shares.dtype) * shares[asked]


def _row_blocks(
    query: SpanQuery, sequences: Plan, q: Tensor, k: Tensor, rule: LogitRule
) -> Iterator[list[_Block]]:
    """Yield the blocks of keys that each block of rows sees."""
    offset = k.shape[2] - q.shape[2]
    for part in sequences.sequences:
        for first in range(0, len(part.rows), ROWS_AT_ONCE):
            rows = part.rows[first : first + ROWS_AT_ONCE]
            start = part.asked.start + first
            positions = rows + offset
            lowest, highest = int(positions[0]), int(positions[-1])
            low = part.keys.start
            if rule.window is not None:
                low = max(low, lowest - rule.window + 1)
            size = max(16, BLOCK_NUMBERS // (q.shape[1] * len(rows)))
            yield [
                _Block(
                    part,
                    slice(start, start + len(rows)),
                    rows,
                    positions,
                    slice(at, last),
                    last - 1 > lowest or (rule.window is not None and at <= highest - rule.window),
                )
                for at in range(low, highest + 1, size)
                for last in [min(at + size, highest + 1)]
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
        at_key = torch.arange(block.keys.start, block.keys.stop, device=q.device)
        weights.masked_fill_(~sees(block.positions, at_key, rule.window), -torch.inf)
    return weights.exp_(), logits
