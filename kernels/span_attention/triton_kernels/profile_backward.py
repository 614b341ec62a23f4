"""Compute the gradient of profiles from the rows in them, with the logsumexp known.

With S the natural logits, P = exp(S − lse), w_r the share of row r in its group's mean (and of a
head in the mean over heads), and g_rj the gradient of the profile of row r's group at key j:

    δ_r   = Σ_j P_rj g_rj
    dS_rj = w_r · P_rj · (g_rj − δ_r)              × (1 − (S_rj/cap)²) under a softcap
    dq_r  = scale · Σ_j dS_rj k_j      dk_j = scale · Σ_r dS_rj q_r
    dsink = −Σ_r w_r P_r,sink δ_r

It is the gradient of row_backward.py with a gradient for every key in place of one for each span;
δ needs a pass over the keys, since no sum of the forward pass gives it. The kernel of dq makes that
pass first and leaves δ to the kernel of dk. Neither needs atomics, so the bits are the same in
every run.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from .configurations import Kernel, configuration
from .launch import Logits, like_heads, strides
from .profile_backward_dk import profile_dk_kernel
from .profile_backward_dq import profile_dq_kernel
from .row_backward import compile_time, places, sink_gradient
from .row_groups import RowGroups


def profile_backward(
    q: Tensor,
    k: Tensor,
    lse: Tensor,
    d_profile: Tensor,
    first_key: Tensor,
    rows: Tensor,
    groups: RowGroups,
    bounds: Tensor,
    logits: Logits,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the gradients of q, k and the sinks (None without sinks), in their dtypes.

    Args:
        q: ``[B, Hq, M, D]``.
        k: ``[B, Hkv, N, D]``.
        lse: ``[R, Hq]``, each row's logsumexp over exactly the keys that it sees, and the sink.
        d_profile: ``[P, Hq, N]``, or ``[P, N]`` of means over heads, the gradient; P is not 0.
        first_key: ``[B, M]`` int32, that of the query's layout.
        rows: ``[R]`` int64, the rows asked for; R is not 0.
        groups: the rows' groups.
        bounds: the query's ``row_bounds``, ``[2, B, ⌈N/16⌉]``.
        logits: the rule of the logits, with the sinks.
    """
    batch, heads, m, width = q.shape
    n, count = k.shape[2], len(rows)
    lse, d_profile = lse.contiguous(), d_profile.to(lse.dtype).contiguous()
    by_head = d_profile.ndim == 3
    of_row = groups.largest if by_head else groups.largest / heads
    factor = of_row * logits.scale
    place = places(rows, m)
    q_rows = q[place].contiguous()  # [R, Hq, D]
    dq_rows, dk, delta = torch.empty_like(q_rows), like_heads(k), torch.empty_like(lse)
    shared = compile_time(q, k, logits)
    between = (d_profile.stride(0), d_profile.stride(1) if by_head else 0)
    config = configuration(Kernel.PROFILE_DQ, q, width)
    profile_dq_kernel[(triton.cdiv(min(count, m), config.block_m) * heads * batch,)](
        q_rows,
        k,
        lse,
        d_profile,
        first_key,
        rows,
        groups.groups,
        groups.shares,
        bounds,
        factor,
        delta,
        dq_rows,
        *strides(k),
        *(*between, batch, heads, m, n, count, logits.inner, logits.unit),
        **shared,
        **config.blocks(),
        **config.options(),
    )
    config = configuration(Kernel.PROFILE_DK, q, width)
    profile_dk_kernel[(triton.cdiv(n, config.block_n) * batch * k.shape[1],)](
        q_rows,
        k,
        lse,
        delta,
        d_profile,
        first_key,
        rows,
        groups.groups,
        groups.shares,
        groups.runs,
        bounds,
        factor,
        dk,
        *strides(k, dk),
        *(*between, batch, heads, m, n, logits.inner, logits.unit),
        **shared,
        **config.blocks(),
        **config.options(),
    )
    dq = like_heads(q).zero_()
    dq[place] = dq_rows
    return dq, dk, sink_gradient(lse, delta * (groups.shares * of_row)[:, None], logits.sinks)
