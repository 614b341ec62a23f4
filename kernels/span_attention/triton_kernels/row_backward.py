"""Compute the gradient of the mass alone, from the rows asked for and another kernel's logsumexp.

With S the natural logits, P = exp(S − lse) and g = dL/dmass, for the rows i asked for:

    δ_i   = Σ_g g_ig · mass_ig
    dS_ij = P_ij · (Σ_{g ∋ j} g_ig − δ_i)        × (1 − (S_ij/cap)²) under a softcap
    dq_i  = scale · Σ_j dS_ij k_j      dk_j = scale · Σ_i dS_ij q_i      dsink = −Σ_i P_sink,i · δ_i

The rows are gathered first, from wherever they stand. Then there are two kernels of ``R × N`` work:
dq by tiles of rows, and dk by tiles of keys, each walking the rows that can see it. Neither needs
atomics, so the bits are the same in every run.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from .configurations import Kernel, configuration
from .launch import Logits, accumulator, block, like_heads, strides
from .layout import Layout
from .row_backward_dk import row_dk_kernel
from .row_backward_dq import row_dq_kernel


def row_backward(
    q: Tensor,
    k: Tensor,
    mass: Tensor,
    lse: Tensor,
    d_mass: Tensor,
    layout: Layout,
    bounds: Tensor,
    logits: Logits,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the gradients of q, k and the sinks (None without sinks), in their dtypes.

    Args:
        q: ``[B, Hq, M, D]``.
        k: ``[B, Hkv, N, D]``.
        mass: ``[R, Hq, G]``.
        lse: ``[R, Hq]``, each row's logsumexp over exactly the keys that it sees.
        d_mass: ``[R, Hq, G]``, the gradient g.
        layout: the layout of the query; its ``rows`` are not empty.
        bounds: the query's ``row_bounds``, ``[2, B, ⌈N/16⌉]``.
        logits: the rule of the logits, with the sinks.
    """
    batch, heads, m, width = q.shape
    n, rows = k.shape[2], len(layout.rows)
    d_mass, lse = d_mass.contiguous(), lse.contiguous()
    delta = (d_mass * mass).sum(-1)
    place = places(layout.rows, m)
    q_rows = q[place].contiguous()  # [R, Hq, D]
    dq_rows, dk = torch.empty_like(q_rows), like_heads(k)
    inputs = (q_rows, k, lse, delta, d_mass, layout.key_labels, layout.first_key, layout.rows)
    shared = compile_time(q, k, logits)
    factors = (mass.shape[2], logits.inner, logits.unit, logits.scale)
    config = configuration(Kernel.ROW_DQ, q, width)
    row_dq_kernel[(triton.cdiv(min(rows, m), config.block_m) * heads * batch,)](
        *inputs,
        layout.key_runs,
        bounds,
        dq_rows,
        *strides(k),
        *(batch, heads, m, n, rows, *factors),
        **shared,
        **config.blocks(),
        **config.options(),
    )
    config = configuration(Kernel.ROW_DK, q, width)
    row_dk_kernel[(triton.cdiv(n, config.block_n) * batch * k.shape[1],)](
        *inputs,
        bounds,
        dk,
        *strides(k, dk),
        *(batch, heads, m, n, *factors),
        **shared,
        **config.blocks(),
        **config.options(),
    )
    dq = like_heads(q).zero_()
    dq[place] = dq_rows
    return dq, dk, sink_gradient(lse, delta, logits.sinks)


def places(rows: Tensor, m: int) -> tuple[Tensor, slice, Tensor]:
    """Return the index of rows ``[R]`` into ``[B, Hq, M, D]``, which takes ``[R, Hq, D]``."""
    return rows // m, slice(None), rows % m


def compile_time(q: Tensor, k: Tensor, logits: Logits) -> dict[str, Any]:
    """Return the compile-time arguments of the kernels that take gathered rows."""
    return {
        "GROUP": q.shape[1] // k.shape[1],
        "WIDTH": q.shape[3],
        "BLOCK_D": block(q.shape[3]),
        "SOFTCAP": logits.softcap is not None,
        "ACC": accumulator(q.dtype),
    }


def sink_gradient(lse: Tensor, delta: Tensor, sinks: Tensor | None) -> Tensor | None:
    """Return ``−Σ_i P_sink,i · δ_i`` from ``[R, Hq]`` each, or None without sinks."""
    if sinks is None:
        return None
    share = torch.exp(sinks.to(lse.dtype) - lse).masked_fill(lse == -torch.inf, 0.0)
    return -(share * delta).sum(0).to(sinks.dtype)
