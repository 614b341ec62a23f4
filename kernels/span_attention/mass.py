"""Compute the mass of the rows asked for: ``R × |span|`` work where the logsumexp is known.

    mass_ig = Σ_{j in span g, j visible to i} exp(S_ij − lse_i)

Logits and lse are float32 whatever the inputs are: with a bf16 product the mass is off in its third
digit.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .blocks import (
    cap,
    logits,
    logsumexp,
    needs_grad,
    query_blocks,
    recomputed,
    sees,
)
from .contract import LogitRule, SpanMass, SpanQuery, accumulation_dtype
from .plan import Plan, SequencePlan


def from_lse(
    q: Tensor, k: Tensor, lse: Tensor, query: SpanQuery, sequences: Plan, rule: LogitRule
) -> Tensor:
    """Return the mass ``[R, Hq, G]`` from a known ``lse [B, Hq, M]``, without a gradient."""
    mass = _empty(q, query)
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
                scores = cap(grouped.reshape(-1, len(rows), n) * rule.scale, rule.softcap)
                scores = scores - lse[part.batch, :, rows, None]
                visible = sees(rows + offset, part.labelled, rule.window)
                weights = scores.masked_fill(~visible, -torch.inf).exp()
                start = part.asked.start
                mass[start + first : start + last] = (weights @ bits).transpose(0, 1)
    return mass


def from_scratch(
    q: Tensor, k: Tensor, query: SpanQuery, sequences: Plan, rule: LogitRule
) -> SpanMass:
    """Return mass and logsumexp of the rows asked for alone, from all the keys that they see.

    This is ``R × N`` work in blocks. It is differentiable in q, k and the sinks, through the row's
    own logsumexp too: a cotangent ``g`` of the mass moves every key that the row sees.
    """
    offset = k.shape[2] - q.shape[2]
    masses: list[Tensor] = []
    lses: list[Tensor] = []
    done = 0
    wants_grad = needs_grad(q, k, rule.sinks)
    for part in sorted(sequences.sequences, key=lambda part: part.asked.start):
        if part.asked.start == part.asked.stop:
            continue
        masses.append(_empty(q, query, part.asked.start - done))
        lses.append(_unseen(q, part.asked.start - done))
        done = part.asked.stop
        low = part.keys.start
        keys = k[part.batch, None, :, part.keys]
        heads, seen = q.shape[1], part.keys.stop - part.keys.start
        for first, last in query_blocks(heads, len(part.rows), seen, None):
            rows = part.rows[first:last]
            mass, lse = recomputed(
                wants_grad,
                _rows,
                q[part.batch, None, :, rows],
                keys,
                part,
                rows + offset,
                low,
                rule,
            )
            masses.append(mass)
            lses.append(lse)
    masses.append(_empty(q, query, len(query.rows) - done))
    lses.append(_unseen(q, len(query.rows) - done))
    return SpanMass(torch.cat(masses), torch.cat(lses))


def _rows(
    q: Tensor, k: Tensor, part: SequencePlan, positions: Tensor, low: int, rule: LogitRule
) -> tuple[Tensor, Tensor]:
    """Return the mass ``[r, Hq, G]`` and the logsumexp ``[r, Hq]`` of one block of rows."""
    scores = logits(q, k, positions, low, rule)
    lse = logsumexp(scores, rule.sinks)
    labelled = scores[0].index_select(2, part.labelled - low)  # [Hq, r, n]
    weights = torch.exp(labelled - lse[0, ..., None])
    return (weights @ part.bits.to(weights.dtype)).transpose(0, 1), lse[0].transpose(0, 1).detach()


def _empty(q: Tensor, query: SpanQuery, rows: int | None = None) -> Tensor:
    """Return masses of 0 for some rows, ``[rows, Hq, G]``; for all rows asked for if None."""
    count = len(query.rows) if rows is None else rows
    return torch.zeros(
        count, q.shape[1], len(query.names), dtype=accumulation_dtype(q.dtype), device=q.device
    )


def _unseen(q: Tensor, rows: int) -> Tensor:
    """Return a logsumexp of −inf for some rows, ``[rows, Hq]``."""
    return torch.full(
        (rows, q.shape[1]), -torch.inf, dtype=accumulation_dtype(q.dtype), device=q.device
    )
