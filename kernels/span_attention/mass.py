"""Compute the mass of the rows asked for: ``R × |span|`` work where the logsumexp is known.

    mass_ig = Σ_{j in span g, j visible to i} exp(S_ij − lse_i)

Logits and lse are float32 whatever the inputs are: with a bf16 product the mass is off in its third
digit.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .blocks import cap, logsumexp, needs_grad, query_blocks, sees
from .contract import LogitRule, SpanMass, SpanQuery, accumulation_dtype
from .dispatch import trusted_kernels
from .plan import Plan
from .row_blocks import RowBlock, block_keys, block_logits, hide, row_blocks
from .row_gradient import connected


def of_rows(
    q: Tensor, k: Tensor, lse: Tensor, query: SpanQuery, sequences: Plan, rule: LogitRule
) -> Tensor:
    """Return the mass ``[R, Hq, G]`` from a known logsumexp, differentiable in q, k and the sinks.

    Its backward pass takes ``R × N`` work. The Triton kernels compute both where they may be chosen
    unasked.

    Args:
        q: ``[B, Hq, M, D]``.
        k: ``[B, Hkv, N, D]``.
        lse: ``[B, Hq, M]``, the natural logsumexp of each query over exactly the keys that it sees,
            and the sink. It gets no gradient.
        query: the rows and spans asked for.
        sequences: the plan of the query.
        rule: the rule of the logits, with the sinks.
    """
    lse = lse.detach()
    kernels = trusted_kernels(q, k)
    if kernels is not None:
        masses: Tensor = kernels.mass_of_rows(q, k, lse, query, rule)
        return masses
    mass = from_lse(q, k, lse, query, sequences, rule)
    if not needs_grad(q, k, rule.sinks):
        return mass
    m = q.shape[2]
    of_row = lse[query.rows // m, :, query.rows % m]
    return connected(mass, q, k, of_row, _blocks(q, k, query, sequences, rule), rule)


def from_lse(
    q: Tensor, k: Tensor, lse: Tensor, query: SpanQuery, sequences: Plan, rule: LogitRule
) -> Tensor:
    """Return the mass ``[R, Hq, G]`` from a known ``lse [B, Hq, M]``, without a gradient."""
    mass = _zeros(q, query)
    offset = k.shape[2] - q.shape[2]
    with torch.no_grad():
        for part in sequences.sequences:
            n = len(part.labelled)
            if n == 0:
                continue
            keys = k[part.batch, :, part.labelled].to(mass.dtype).transpose(1, 2)  # [Hkv, D, n]
            bits = part.bits.to(mass.dtype)
            for first, last in query_blocks(q.shape[1], len(part.rows), n, None):
                rows = part.rows[first:last]
                wanted = q[part.batch, :, rows].to(mass.dtype)  # [Hq, r, D]
                grouped = wanted.reshape(k.shape[1], -1, q.shape[3]) @ keys
                scores = cap(grouped.reshape(-1, len(rows), n).mul_(rule.scale), rule.softcap)
                scores = scores.sub_(lse[part.batch, :, rows, None])
                visible = sees(rows + offset, part.places, rule.window)
                weights = scores.masked_fill_(~visible, -torch.inf).exp_()
                start = part.asked.start
                mass[start + first : start + last] = (weights @ bits).transpose(0, 1)
    return mass


def from_scratch(
    q: Tensor, k: Tensor, query: SpanQuery, sequences: Plan, rule: LogitRule
) -> SpanMass:
    """Return mass and logsumexp of the rows asked for alone, from all the keys that they see.

    This is ``R × N`` work in blocks, and as much again for the gradient in q, k and the sinks.
    """
    mass = _zeros(q, query)
    lse = torch.full(mass.shape[:2], -torch.inf, dtype=mass.dtype, device=q.device)
    blocks = _blocks(q, k, query, sequences, rule)
    with torch.no_grad():
        for block in blocks:
            _fill(mass[block.asked], lse[block.asked], q, k, block, rule)
    if needs_grad(q, k, rule.sinks):
        mass = connected(mass, q, k, lse, blocks, rule)
    return SpanMass(mass, lse)


def _fill(
    mass: Tensor, lse: Tensor, q: Tensor, k: Tensor, block: RowBlock, rule: LogitRule
) -> None:
    """Write one block's ``mass [r, Hq, G]`` and ``lse [r, Hq]``."""
    keys = block_keys(k, block).to(mass.dtype)
    _, scores = block_logits(q, keys, block, rule)
    hide(scores, block, k.shape[2] - q.shape[2], rule.window, -torch.inf)
    scores = scores.view(q.shape[1], len(block.rows), -1)  # [Hq, r, n]
    found = logsumexp(scores, rule.sinks)
    weights = (scores[:, :, block.labelled] - found[..., None]).exp_()
    lse.copy_(found.T)
    mass.copy_((weights @ block.bits.to(mass.dtype)).transpose(0, 1))


def _blocks(
    q: Tensor, k: Tensor, query: SpanQuery, sequences: Plan, rule: LogitRule
) -> tuple[RowBlock, ...]:
    """Return the rows asked for in blocks, for these tensors."""
    return row_blocks(query, sequences, q.shape[1], q.shape[2], k.shape[2], rule.window)


def _zeros(q: Tensor, query: SpanQuery) -> Tensor:
    """Return masses of 0 for all rows asked for, ``[R, Hq, G]``."""
    return torch.zeros(
        len(query.rows),
        q.shape[1],
        len(query.names),
        dtype=accumulation_dtype(q.dtype),
        device=q.device,
    )
