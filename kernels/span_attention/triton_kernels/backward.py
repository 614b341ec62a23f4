"""Compute the gradient of attention and span mass with the same bits in every run: no atomics.

With S the natural logits, P = exp(S − lse), dP_ij = dO_i·v_j and g = dL/dmass:

    D′_i  = Σ_d dO_id O_id + Σ_g g_ig mass_ig
    dS_ij = P_ij · (dP_ij + Σ_{g ∋ j} g_ig − D′_i)        × (1 − (S_ij/cap)²) under a softcap
    dq_i  = scale · Σ_j dS_ij k_j      dk_j = scale · Σ_i dS_ij q_i      dv_j = Σ_i P_ij dO_i

There are three kernels: D′; dk and dv by tiles of keys; dq by tiles of queries. Plain flash
attention has no term ``P_ij · Σ g_ig``, so this one comes after the plain loops, in a loop of its
own over the tiles where a labelled key meets a row asked for.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .backward_dk_dv import dk_dv_kernel
from .backward_dq import dq_kernel
from .configurations import Kernel, configuration
from .launch import (
    Logits,
    accumulator,
    block,
    like_heads,
    strides,
)
from .layout import Layout
from .tiles import load_rows
from .tuning import launch


@triton.jit
def delta_kernel(
    out,
    d_out,
    mass,
    d_mass,
    slots,
    delta,
    stride_ob,
    stride_oh,
    stride_om,
    stride_gb,
    stride_gh,
    stride_gm,
    heads,
    m_queries,
    n_spans,
    VALUE_WIDTH: tl.constexpr,
    BLOCK_DV: tl.constexpr,
    SPANS: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """Write ``delta [B, Hq, M]``, the D′ of the module's formulas."""
    tiles = tl.cdiv(m_queries, BLOCK_M)
    b = (tl.program_id(0) // tiles // heads).to(tl.int64)
    head = (tl.program_id(0) // tiles % heads).to(tl.int64)
    rows = tl.program_id(0) % tiles * BLOCK_M + tl.arange(0, BLOCK_M)
    valid = rows < m_queries
    far = rows.to(tl.int64)
    out_at = out + b * stride_ob + head * stride_oh
    grad_at = d_out + b * stride_gb + head * stride_gh
    o = load_rows(out_at, far, stride_om, valid, VALUE_WIDTH, BLOCK_DV, True).to(ACC)
    grad = load_rows(grad_at, far, stride_gm, valid, VALUE_WIDTH, BLOCK_DV, True).to(ACC)
    total = tl.sum(o * grad, axis=1)
    if SPANS:
        slot = tl.load(slots + b * m_queries + rows, mask=valid, other=-1)
        at = (slot.to(tl.int64) * heads + head) * n_spans
        for g in range(n_spans):
            of_row = tl.load(mass + at + g, mask=slot >= 0, other=0.0)
            total += of_row * tl.load(d_mass + at + g, mask=slot >= 0, other=0.0)
    tl.store(delta + (b * heads + head) * m_queries + rows, total, mask=valid)


def backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    mass: Tensor,
    lse: Tensor,
    d_out: Tensor,
    d_mass: Tensor | None,
    layout: Layout,
    logits: Logits,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Return the gradients of q, k and v in their dtypes, and the sinks' (None without sinks).

    ``d_mass [R, Hq, G]`` is None if no gradient of the mass is wanted; the other arguments are
    those of the op.
    """
    batch, heads, m, width = q.shape
    n, value_width = k.shape[2], v.shape[3]
    spans = d_mass is not None and d_mass.numel() > 0
    d_mass = d_mass.contiguous() if spans and d_mass is not None else mass
    d_out = d_out if d_out.stride(3) == 1 else d_out.contiguous()
    delta = torch.empty_like(lse)
    shared = {
        "VALUE_WIDTH": value_width,
        "BLOCK_DV": block(value_width),
        "SPANS": spans,
        "ACC": accumulator(q.dtype),
    }
    config = configuration(Kernel.DELTA, q, value_width)
    delta_kernel[(triton.cdiv(m, config.block_m) * batch * heads,)](
        out,
        d_out,
        mass,
        d_mass,
        layout.slots,
        delta,
        *strides(out, d_out),
        heads,
        m,
        mass.shape[2],
        BLOCK_M=config.block_m,
        **config.options(),
        **shared,
    )
    shared |= {
        "GROUP": heads // k.shape[1],
        "WIDTH": width,
        "BLOCK_D": block(width),
        "SOFTCAP": logits.softcap is not None,
    }
    sizes = (batch, heads, m, n, mass.shape[2], logits.inner, logits.unit, logits.scale)
    dk, dv, dq = like_heads(k), like_heads(v), like_heads(q)
    launch(
        Kernel.DK_DV,
        dk_dv_kernel,
        lambda tiles: triton.cdiv(n, tiles["BLOCK_N"]) * batch * k.shape[1],
        q,
        n,
        q,
        k,
        v,
        d_out,
        lse,
        delta,
        d_mass,
        layout.key_labels,
        layout.last_query,
        layout.slots,
        layout.query_runs,
        dk,
        dv,
        *strides(q, k, v, d_out, dk, dv),
        *sizes,
        **shared,
    )
    launch(
        Kernel.DQ,
        dq_kernel,
        lambda tiles: triton.cdiv(m, tiles["BLOCK_M"]) * batch * heads,
        q,
        n,
        q,
        k,
        v,
        d_out,
        lse,
        delta,
        d_mass,
        layout.key_labels,
        layout.first_key,
        layout.slots,
        layout.key_runs,
        dq,
        *strides(q, k, v, d_out, dq),
        *sizes,
        **shared,
    )
    return dq, dk, dv, _sink_grad(lse, delta, logits.sinks)


def _sink_grad(lse: Tensor, delta: Tensor, sinks: Tensor | None) -> Tensor | None:
    """Return ``−Σ_i P_sink,i · D′_i`` per head, ``[Hq]``; rows that see nothing add 0."""
    if sinks is None:
        return None
    share = torch.exp(sinks.to(lse.dtype)[:, None] - lse)
    share = torch.where(lse == -torch.inf, 0.0, share)
    return -(share * delta).sum(dim=(0, 2)).to(sinks.dtype)
