"""Backend ``reference`` is the definition itself, with the whole map: every test's ground truth.

    S_ij   = scale · q_i·k_j                     (softcap: S ← cap · tanh(S / cap))
    lse_i  = log( Σ_{j visible} exp S_ij  +  exp sink )
    P_ij   = exp(S_ij − lse_i)
    out_i  = Σ_j P_ij v_j
    mass_ig = Σ_{j in span g} P_ij
    profile_phj = the mean of P_ihj over the rows i of group p

A steering (:mod:`steering`) adds its β to the logits S_ij of the span that is steered.

It makes ``B·Hq·M·N`` numbers, so it is for small sizes. Autograd differentiates it as it stands
(lse is detached: the op does not offer its gradient).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .blocks import sees
from .contract import (
    LogitRule,
    SpanAttention,
    SpanMass,
    SpanQuery,
    accumulation_dtype,
)
from .plan import plan
from .steered_rows import pools
from .steering import Steering


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    query: SpanQuery,
    rule: LogitRule,
    mass_grad: bool,
    steer: Steering | None = None,
) -> SpanAttention:
    """Return attention and mass by eager softmax; see :func:`sra_fast.span_attention`."""
    batch, heads, m, _ = q.shape
    n = k.shape[2]
    dtype = accumulation_dtype(q.dtype)
    groups = heads // k.shape[1]
    keys = k.to(dtype).repeat_interleave(groups, dim=1)
    values = v.to(dtype).repeat_interleave(groups, dim=1)

    logits = rule.scale * (q.to(dtype) @ keys.transpose(2, 3))  # [B, Hq, M, N]
    if rule.softcap is not None:
        logits = rule.softcap * torch.tanh(logits / rule.softcap)
    visible = visibility(query, batch, m, n, rule.window)[:, None]
    logits = logits.masked_fill(~visible, -torch.inf)
    if steer is not None:
        logits = steer.added_to(logits, rule.sinks, pools(query, batch, m, n))

    columns = logits
    if rule.sinks is not None:
        sink = rule.sinks.to(dtype)[None, :, None, None].expand(batch, heads, m, 1)
        columns = torch.cat([logits, sink], dim=-1)
    # A row that sees nothing is a row of −inf: its softmax is 0/0, so it is emptied by hand.
    empty = ~visible.any(dim=-1, keepdim=True)
    if steer is not None:  # or one of whose keys all were knocked out
        empty = empty | (columns == -torch.inf).all(dim=-1, keepdim=True)
    weights = torch.softmax(columns.masked_fill(empty, 0.0), dim=-1)[..., :n]
    weights = weights.masked_fill(~visible | empty, 0.0)
    lse = torch.logsumexp(columns.detach(), dim=-1).masked_fill(empty[..., 0], -torch.inf)

    flat = weights.transpose(1, 2).reshape(batch * m, heads, n)[query.rows]  # [R, Hq, N]
    shifts = torch.arange(len(query.names), device=q.device, dtype=torch.int32)
    bits = ((query.key_labels[..., None] >> shifts) & 1).to(dtype)  # [B, N, G]
    mass = flat @ bits[query.rows // m]
    if not mass_grad:
        mass = mass.detach()
    out = (weights @ values).to(v.dtype)
    return SpanAttention(out, mass, lse, _profile(flat, query, mass_grad))


def mass_only(q: Tensor, k: Tensor, query: SpanQuery, rule: LogitRule) -> SpanMass:
    """Return the mass without the output, for the arguments of :func:`sra_fast.span_mass`."""
    full = attention(q, k, k, query, rule, mass_grad=True)
    return SpanMass(full.mass, full.lse.transpose(1, 2).flatten(0, 1)[query.rows], full.profile)


def _profile(weights: Tensor, query: SpanQuery, grad: bool) -> Tensor | None:
    """Return the profiles of ``weights [R, Hq, N]``, the attention of the rows asked for."""
    if query.profile is None:
        return None
    rows = weights if grad else weights.detach()
    of_group = [query.profile.row_groups == group for group in range(query.profile.groups)]
    means = [
        rows[inside].mean(dim=0) if bool(inside.any()) else torch.zeros_like(rows[:0].sum(dim=0))
        for inside in of_group
    ]
    by_head = torch.stack(means) if means else rows.new_zeros(0, *rows.shape[1:])
    return by_head if query.profile.by_head else by_head.mean(dim=1)


def visibility(query: SpanQuery, batch: int, m: int, n: int, window: int | None) -> Tensor:
    """Return which key each query may see, as ``[B, M, N]`` bool."""
    device = query.key_labels.device
    sequences = plan(query, batch, m, n).sequences
    segment = torch.full((batch, n), -1, device=device)
    for index, sequence in enumerate(sequences):
        segment[sequence.batch, sequence.keys] = index
    at_key = torch.arange(n, device=device)
    at_query = at_key[n - m :, None]
    near = at_key <= at_query
    if window is not None:
        near = near & (at_key > at_query - window)
    own = segment[:, n - m :, None] == segment[:, None, :]
    seen = own & near & (segment[:, None, :] >= 0)
    for sequence in sequences:
        keys = at_key[sequence.before] + sequence.shift
        near = sees(at_query[sequence.queries, 0], keys, window)
        seen[sequence.batch, sequence.queries, sequence.before] |= near
    return seen
