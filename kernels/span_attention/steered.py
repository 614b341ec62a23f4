"""Steer an attention by its output and logsumexp, with work on the span's keys alone.

With ``c = e^β − 1``, ``m = exp(lse_S − lse)`` and ``x = log(m · |c|)``,

    d    = lse′ − lse = log(1 + c·m)                        = log(1 ± exp x)
    out′ = out · e^{−d} ± Σ_{j∈S} exp(S_ij − lse_S + x − d) v_j          (±: the sign of c)

(see :mod:`steering` for the letters; nothing overflows, since β stands inside the exponents). Where
c is positive, only positive numbers are added. Where it is negative, the span's part is taken away,
which is exact as long as at least half of the row's sum remains; where less would, the row is
computed anew, from all the keys that it sees, with β among its logits.

Where a share s is met exactly, β follows from m, and an error δ of log m moves the output by up to
``δ · (1 − s) / (1 − m) · |out_S − out_R|``: the lse comes from elsewhere, so nothing cancels in it.
Only a row that is computed anew has its lse from the same logits. So more must remain there, and
rows with m near 1 are computed anew under any share.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .blocks import cap, sees
from .contract import LogitRule, SpanQuery
from .lse import mass_of_lse
from .merging import Attended
from .plan import plan
from .pooled_share import pooled_beta
from .steered_rows import SteeredRows, pools, span_query, steered_rows
from .steering import MOST_ON_SPAN, Steering

FEWEST_REMAINING = 0.5  # of a row's sum, for the span's part to be taken away from it
FEWEST_OF_EXACT = 0.8  # the same, where a share is met: ``(1 − m) / (1 − s)``
_LOGITS_ANEW = 1 << 20  # alive at once where rows are computed anew: 4 MB in float32


@dataclass(frozen=True, eq=False)
class _Heads:
    """Some heads of a call, all of a number of key heads, as views of its tensors.

    Attributes:
        out: ``[B, h, M, Dv]``, written into.
        lse: ``[B, h, M]``, written into.
        beta: ``[B, h, M]``, written into; of a pooled share it is there before.
        q: ``[B, h, M, D]``.
        k: ``[B, hkv, N, D]``.
        v: ``[B, hkv, N, Dv]``.
        rule: how products become logits, with these heads' sinks.
        chosen: ``[h]`` bool, which of the heads are steered; None for all.
    """

    out: Tensor
    lse: Tensor
    beta: Tensor
    q: Tensor
    k: Tensor
    v: Tensor
    rule: LogitRule
    chosen: Tensor | None

    def of(self, first: int, last: int) -> _Heads:
        """Return those of the key heads ``first`` to ``last − 1``."""
        each = self.q.shape[1] // self.k.shape[1]
        h, g = slice(first * each, last * each), slice(first, last)
        sinks = None if self.rule.sinks is None else self.rule.sinks[h]
        return _Heads(
            self.out[:, h],
            self.lse[:, h],
            self.beta[:, h],
            self.q[:, h],
            self.k[:, g],
            self.v[:, g],
            replace(self.rule, sinks=sinks),
            None if self.chosen is None else self.chosen[h],
        )


def steered(
    attended: Attended,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    query: SpanQuery,
    rule: LogitRule,
    steer: Steering,
    kernels: Any | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the attention after steering, and what was added to the span's logits.

    Args:
        attended: ``out [B, Hq, M, Dv]`` and ``lse [B, Hq, M]`` without steering, sinks included;
            both are written into.
        q: ``[B, Hq, M, D]``.
        k: ``[B, Hkv, N, D]``.
        v: ``[B, Hkv, N, Dv]``.
        query: the segments.
        rule: how products become logits.
        steer: the steering, on q's device.
        kernels: the Triton backend, if it is to steer; None for products of PyTorch.

    Returns:
        ``out`` and ``lse`` as they were given, and ``β [B, Hq, M]`` in lse's dtype, 0 where nothing
        is steered.
    """
    out, lse = attended
    if steer.does_nothing:
        return out, lse, torch.zeros_like(lse)
    if kernels is not None:
        lse, out = lse.contiguous(), out if out.stride(3) == 1 else out.contiguous()
    if steer.pooled_share is None:
        beta = torch.zeros_like(lse)
    else:
        beta = _pooled(q, k, lse, query, rule, steer)
    heads = _Heads(out, lse, beta, q, k, v, rule, steer.heads)
    blocks = steered_rows(steer, query, q.shape[1], q.shape[2], k.shape[2], rule.window)
    if kernels is not None:
        inexact = kernels.steer_in_place(q, k, v, out, lse, beta, query, rule, steer)
        if steer.may_show_rounding and bool(inexact.any()):  # which waits for the device
            for rows in blocks:
                _compute_anew(heads, rows, inexact[rows.batch, :, rows.row_places], steer)
        return out, lse, beta
    some_heads = steer.derived(("heads", k.shape[1]), lambda: _steered_groups(steer, k.shape[1]))
    parts = [heads.of(*groups) for groups in some_heads]
    for rows in blocks:
        for part in parts:
            _steer(part, rows, steer)
    return out, lse, beta


def _pooled(
    q: Tensor, k: Tensor, lse: Tensor, query: SpanQuery, rule: LogitRule, steer: Steering
) -> Tensor:
    """Return ``β [B, Hq, M]`` of a pooled share, from the logsumexp without steering."""
    assert steer.pooled_share is not None
    batch, heads, m = lse.shape
    sizes = batch, m, k.shape[2]
    asked = span_query(query, steer, m)
    mass = mass_of_lse(q, k, lse, asked, plan(asked, *sizes), rule)  # [R, Hq, 1]
    shares = mass.new_zeros(batch * m, heads).index_copy_(0, asked.rows, mass[..., 0])
    shares = shares.view(batch, m, heads).transpose(1, 2)
    beta = pooled_beta(shares, steer.steered(), pools(query, *sizes), steer.pooled_share)
    return beta.to(lse.dtype).contiguous()


def _steered_groups(steer: Steering, groups: int) -> list[tuple[int, int]]:
    """Return ranges of key heads: all at once, or each that has a steered query head."""
    if steer.heads is None:
        return [(0, groups)]
    wanted = steer.heads.cpu().reshape(groups, -1).any(dim=1)
    return [(group, group + 1) for group in wanted.nonzero().flatten().tolist()]


def _steer(heads: _Heads, rows: SteeredRows, steer: Steering) -> None:
    """Steer a block of rows in place."""
    b, at, rule = rows.batch, rows.row_places, heads.rule
    dtype, groups = heads.lse.dtype, heads.k.shape[1]
    # Query heads that share a key head are neighbours: [hkv, h/hkv, r, D].
    q = heads.q[b, :, at].to(dtype).unflatten(0, (groups, -1))
    keys = heads.k[b, :, rows.key_places].to(dtype)[:, None]
    values = heads.v[b, :, rows.key_places].to(dtype)[:, None]
    logits = cap((q @ keys.transpose(2, 3)).mul_(rule.scale), rule.softcap)
    if not rows.see_all:
        offset = heads.k.shape[2] - heads.q.shape[2]
        logits.masked_fill_(~sees(rows.rows + offset, rows.keys, rule.window), -torch.inf)
    lse = heads.lse[b, :, at]  # [h, r], as all that follows
    # Numbers relative to lse and the largest logit: a digit is lost where these are rounded.
    top = logits.amax(dim=-1, keepdim=True)
    weights = logits.sub_(top).exp_()
    total = weights.sum(dim=-1).reshape(lse.shape)
    log_m = ((top.reshape(lse.shape) - lse) + total.log()).clamp_(max=0)
    rest = torch.log1p(-log_m.exp())  # -inf where rounding leaves nothing
    if steer.pooled_share is not None:
        beta = heads.beta[b, :, at]
    else:
        beta = steer.beta(rest, log_m)
        if heads.chosen is not None:
            beta = beta.masked_fill_(~heads.chosen[:, None], 0)
    log_c = torch.log(-torch.expm1(-beta.abs())) + beta.clamp(min=0)
    x = log_m + log_c
    raised = beta >= 0
    change = torch.where(raised, torch.logaddexp(x.new_zeros(()), x), torch.log1p(-x.exp()))
    log_w = torch.where(raised, F.logsigmoid(x), x - change)
    weights.mul_((log_w.exp() / total).view(weights.shape[:3])[..., None])
    added = (weights @ values).flatten(0, 1)  # [h, r, Dv]
    if steer.lowers:
        added *= torch.where(raised, 1.0, -1.0)[..., None]
    before, kept = heads.out[b, :, at].to(dtype), (-change).exp()[..., None]
    heads.out[b, :, at] = torch.addcmul(added, before, kept).to(heads.out.dtype)
    heads.lse[b, :, at], heads.beta[b, :, at] = lse + change, beta
    if steer.may_show_rounding:
        inexact = change < math.log(FEWEST_OF_EXACT if steer.exact else FEWEST_REMAINING)
        if steer.share is not None:  # rest, and so β, is what rounding left of 1 − m
            inexact |= log_m > math.log(MOST_ON_SPAN)
        if heads.chosen is not None:
            inexact &= heads.chosen[:, None]
        _compute_anew(heads, rows, inexact, steer)


def _compute_anew(heads: _Heads, rows: SteeredRows, wanted: Tensor, steer: Steering) -> None:
    """Compute rows of some heads from all keys, where ``wanted [h, r]`` says so, in place."""
    offset = heads.k.shape[2] - heads.q.shape[2]
    by_group = wanted.unflatten(0, (heads.k.shape[1], -1))  # [hkv, h/hkv, r]
    for group in by_group.flatten(1).any(dim=1).nonzero().flatten().tolist():
        some, of_some = heads.of(group, group + 1), by_group[group]
        indices = of_some.any(dim=0).nonzero().flatten()
        last = int(rows.rows[indices[-1]]) + offset
        size = max(1, _LOGITS_ANEW // (len(of_some) * (last + 1 - rows.start)))
        for block in indices.split(size):
            _write_anew(some, rows, rows.rows[block], of_some[:, block], steer)


def _write_anew(
    heads: _Heads, rows: SteeredRows, at: Tensor, wanted: Tensor, steer: Steering
) -> None:
    """Write the rows ``at [r]`` of one key head's query heads where ``wanted [h, r]`` says so."""
    b, rule, dtype = rows.batch, heads.rule, heads.lse.dtype
    positions = at + (heads.k.shape[2] - heads.q.shape[2])
    low, high = rows.start, int(positions[-1]) + 1
    if rule.window is not None:
        low = max(low, int(positions[0]) - rule.window + 1)
    keys, values = (x[b, 0, low:high].to(dtype) for x in (heads.k, heads.v))
    logits = cap((heads.q[b, :, at].to(dtype) @ keys.T).mul_(rule.scale), rule.softcap)
    seen = sees(positions, torch.arange(low, high, device=at.device), rule.window)
    logits.masked_fill_(~seen, -torch.inf)  # [h, r, n]
    span = rows.keys[(rows.keys >= low) & (rows.keys < high)] - low
    of_span = torch.logsumexp(logits[..., span], dim=-1)
    rest = torch.logsumexp(logits.index_fill(2, span, -torch.inf), dim=-1)
    if rule.sinks is not None:
        rest = torch.logaddexp(rest, rule.sinks.to(dtype)[:, None])
    beta = steer.beta(rest, of_span)
    lse = torch.logaddexp(rest, of_span + beta)
    logits[..., span] += beta[..., None]
    weights = logits.sub_(lse.masked_fill(lse == -torch.inf, 0)[..., None]).exp_()
    out = (weights @ values).to(heads.out.dtype)
    heads.out[b, :, at] = torch.where(wanted[..., None], out, heads.out[b, :, at])
    heads.lse[b, :, at] = torch.where(wanted, lse, heads.lse[b, :, at])
    heads.beta[b, :, at] = torch.where(wanted, beta, heads.beta[b, :, at])
