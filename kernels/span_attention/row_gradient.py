"""Compute the gradient of the mass from the rows asked for alone, with the logsumexp known.

With S the logits after the cap, P = exp(S − lse) and g = dL/dmass, for the rows i asked for:

    G_ij  = Σ_{g ∋ j} g_ig
    δ_i   = Σ_j P_ij G_ij / (Σ_j P_ij + P_sink,i)                         = Σ_g g_ig · mass_ig
    dS_ij = P_ij · (G_ij − δ_i)                  × (1 − (S_ij/cap)²) under a softcap
    dq_i  = scale · Σ_j dS_ij k_j      dk_j = scale · Σ_i dS_ij q_i      dsink = −Σ_i P_sink,i · δ_i

All other rows add nothing, so this is ``R × N`` work beside the gradient of the attention's output.
The logsumexp is a number here: what moves through it is in δ. Where most of a row lies on one key,
G − δ is a small difference, and the rounding of the logsumexp would stay in it if δ came from the
mass; so δ is taken from the same P, over their sum, which is 1 but for that rounding. This file
does the arithmetic in blocks of rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .contract import LogitRule, accumulation_dtype
from .row_blocks import RowBlock, block_logits, hide, rows_together
from .second_derivative import once_only


def connected(
    mass: Tensor,
    q: Tensor,
    k: Tensor,
    lse: Tensor,
    blocks: tuple[RowBlock, ...],
    rule: LogitRule,
) -> Tensor:
    """Return a mass that was computed without autograd, differentiable in q, k and the sinks.

    Args:
        mass: ``[R, Hq, G]`` in the accumulation dtype.
        q: ``[B, Hq, M, D]``.
        k: ``[B, Hkv, N, D]``.
        lse: ``[R, Hq]``, each row's natural logsumexp over exactly the keys that it sees, and the
            sink. It gets no gradient.
        blocks: the rows in blocks, all of them that see a key.
        rule: the rule of the logits.
    """
    apply: Callable[..., Tensor] = _RowsOfMass.apply
    return apply(q, k, rule.sinks, mass, lse.detach(), blocks, rule)


class _RowsOfMass(torch.autograd.Function):
    """The mass as it is, with the gradient of :func:`gradient`."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        sinks: Tensor | None,
        mass: Tensor,
        lse: Tensor,
        blocks: tuple[RowBlock, ...],
        rule: LogitRule,
    ) -> Tensor:
        ctx.save_for_backward(q, k, sinks, lse)
        ctx.blocks, ctx.rule = blocks, rule
        return mass.clone()

    @staticmethod
    def backward(ctx: Any, d_mass: Tensor) -> tuple[Tensor | None, ...]:
        q, k, sinks, lse = ctx.saved_tensors
        with torch.no_grad():
            found = gradient(q, k, sinks, lse, d_mass, ctx.blocks, ctx.rule)
        return *once_only(found, q, k, sinks, d_mass), None, None, None, None


def gradient(
    q: Tensor,
    k: Tensor,
    sinks: Tensor | None,
    lse: Tensor,
    d_mass: Tensor,
    blocks: tuple[RowBlock, ...],
    rule: LogitRule,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the gradients of q, k and the sinks (None without sinks), in their dtypes.

    ``d_mass`` is ``[R, Hq, G]`` and ``lse`` is ``[R, Hq]``; the other arguments are those of
    :func:`connected`. The logits of one block exist at a time.
    """
    groups, offset = k.shape[1], k.shape[2] - q.shape[2]
    dtype = accumulation_dtype(q.dtype)
    dq = torch.zeros_like(q)
    dk = torch.zeros_like(k, dtype=dtype)
    deltas = torch.zeros_like(lse)
    sink_share = None
    if sinks is not None:
        sink_share = torch.exp(sinks.to(dtype) - lse).masked_fill_(
            lse == -torch.inf, 0.0
        )  # [R, Hq]
    for block in blocks:
        keys = k[block.batch, :, block.keys].to(dtype)
        rows, scores = block_logits(q, keys, block, rule)
        slope = None if rule.softcap is None else 1.0 - (scores / rule.softcap).square_()
        weights = scores.sub_(rows_together(lse[..., None], block, groups)).exp_()
        hide(weights, block, offset, rule.window, 0.0)
        spans = block.bits.to(dtype).T  # [G, l]
        gains = rows_together(d_mass, block, groups) @ spans  # G of the labelled keys
        labelled = weights[:, :, block.labelled]
        total = weights.sum(-1, keepdim=True)
        if sink_share is not None:
            total += rows_together(sink_share[..., None], block, groups)
        delta = (labelled * gains).sum(-1, keepdim=True) / total
        deltas[block.asked] = delta.reshape(q.shape[1], -1).T
        labelled *= gains.sub_(delta)
        weights[:, :, : block.labelled.start] *= -delta
        weights[:, :, block.labelled.stop :] *= -delta
        if slope is not None:
            weights *= slope
        d_scores = weights
        d_rows = (d_scores @ keys).mul_(rule.scale).reshape(q.shape[1], -1, q.shape[3])
        dq[block.batch].index_copy_(1, block.rows, d_rows.to(q.dtype))
        dk[block.batch, :, block.keys].baddbmm_(d_scores.transpose(1, 2), rows)
    if sinks is None or sink_share is None:
        return dq, dk.to(k.dtype), None
    return dq, dk.to(k.dtype), -(sink_share * deltas).sum(0).to(sinks.dtype)
