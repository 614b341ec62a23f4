"""Wrap the kernels as ``torch.library`` operators, so that each is one node of a compiled graph.

Autograd is registered with them. Their arguments are flat, as operator schemas want them: a
:class:`Layout` is passed as its fields in order, and a softcap of 0 means none.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..contract import accumulation_dtype
from .backward import backward
from .decode import decode, serves
from .epilogue import SPANS_AT_ONCE, add_span_mass, spans_in_loops
from .forward import forward
from .launch import Logits, like_heads
from .layout import Layout

_LAYOUT = slice(4, 11)  # where a layout's fields stand among fused_attention's arguments


@torch.library.custom_op("sra_fast::fused_attention", mutates_args=())
def fused_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sinks: Tensor | None,
    key_labels: Tensor,
    first_key: Tensor,
    last_query: Tensor,
    slots: Tensor,
    key_runs: Tensor,
    query_runs: Tensor,
    rows: Tensor,
    spans: int,
    scale: float,
    softcap: float,
    mass_grad: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``out [B, Hq, M, Dv]``, ``mass [R, Hq, G]`` and ``lse [B, Hq, M]``, for ``scale > 0``.

    The result is differentiable in q, k, v and the sinks: through out, and through mass if
    ``mass_grad``.
    """
    layout = Layout(key_labels, first_key, last_query, slots, key_runs, query_runs, rows)
    logits = Logits(scale, softcap or None, sinks)
    few = serves(
        q, v
    )  # few queries: reading the keys is all there is to pay, so they are read once
    kernel = decode if few else forward
    first = spans_in_loops(len(rows), 0 if few else q.shape[0] * q.shape[2], spans)
    with torch.cuda.device_of(q):  # Triton launches there; a model may lie on several devices
        out, mass, lse = kernel(
            q, k, v, layout, logits, rows=len(rows), spans=spans, first_spans=first
        )
        add_span_mass(q, k, lse, mass, layout, logits, first_span=first)
    return out, mass, lse


@fused_attention.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, sinks: Any, *layout_rows_spans: Any
) -> tuple[Tensor, Tensor, Tensor]:
    *_, rows, spans, _scale, _softcap, _mass_grad = layout_rows_spans
    batch, heads, m, _ = q.shape
    dtype = accumulation_dtype(q.dtype)
    return (
        v.new_empty(batch, m, heads, v.shape[3]).transpose(1, 2),
        q.new_empty(rows.shape[0], heads, spans, dtype=dtype),
        q.new_empty(batch, heads, m, dtype=dtype),
    )


@torch.library.custom_op("sra_fast::fused_attention_backward", mutates_args=())
def fused_attention_backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sinks: Tensor | None,
    key_labels: Tensor,
    first_key: Tensor,
    last_query: Tensor,
    slots: Tensor,
    key_runs: Tensor,
    query_runs: Tensor,
    rows: Tensor,
    out: Tensor,
    mass: Tensor,
    lse: Tensor,
    d_out: Tensor,
    d_mass: Tensor | None,
    scale: float,
    softcap: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of q, k, v and the sinks; the last one is empty without sinks."""
    layout = Layout(key_labels, first_key, last_query, slots, key_runs, query_runs, rows)
    logits = Logits(scale, softcap or None, sinks)
    with torch.cuda.device_of(q):
        dq, dk, dv, d_sinks = backward(q, k, v, out, mass, lse, d_out, d_mass, layout, logits)
    return dq, dk, dv, q.new_empty(0) if d_sinks is None else d_sinks


@fused_attention_backward.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None, *_: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    d_sinks = q.new_empty(0) if sinks is None else torch.empty_like(sinks)
    return like_heads(q), like_heads(k), like_heads(v), d_sinks


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    """Keep what the backward pass needs: inputs, layout and outputs."""
    q, k, v, sinks = inputs[:4]
    ctx.scale, ctx.softcap, ctx.mass_grad = inputs[-3:]
    ctx.set_materialize_grads(False)  # a loss without the mass skips the mass's part in the kernels
    ctx.save_for_backward(q, k, v, sinks, *inputs[_LAYOUT], *output)


def _differentiate(
    ctx: Any, d_out: Tensor | None, d_mass: Tensor | None, d_lse: Tensor | None
) -> tuple[Any, ...]:
    """Return a gradient for each argument of ``fused_attention``, None for those without one."""
    *saved, out, mass, lse = ctx.saved_tensors
    d_out = torch.zeros_like(out) if d_out is None else d_out
    d_mass = d_mass if ctx.mass_grad else None
    dq, dk, dv, d_sinks = fused_attention_backward(
        *saved, out, mass, lse, d_out, d_mass, ctx.scale, ctx.softcap
    )
    given = None if saved[3] is None else d_sinks
    return dq, dk, dv, given, *[None] * 11


fused_attention.register_autograd(_differentiate, setup_context=_remember)


@torch.library.custom_op("sra_fast::fused_mass", mutates_args=())
def fused_mass(
    q: Tensor,
    k: Tensor,
    sinks: Tensor | None,
    key_labels: Tensor,
    first_key: Tensor,
    last_query: Tensor,
    slots: Tensor,
    key_runs: Tensor,
    query_runs: Tensor,
    rows: Tensor,
    spans: int,
    scale: float,
    softcap: float,
) -> tuple[Tensor, Tensor]:
    """Return ``mass [R, Hq, G]`` and ``lse [R, Hq]`` of the rows asked for, without a gradient."""
    layout = Layout(key_labels, first_key, last_query, slots, key_runs, query_runs, rows)
    logits = Logits(scale, softcap or None, sinks)
    first = min(spans, SPANS_AT_ONCE)
    sizes = {"rows": len(rows), "spans": spans, "first_spans": first}
    with torch.cuda.device_of(q):
        _, mass, lse = forward(q, k, k, layout, logits, **sizes, with_out=False)
        add_span_mass(q, k, lse, mass, layout, logits, first_span=first)
    m = q.shape[2]
    return mass, lse[rows // m, :, rows % m]


@fused_mass.register_fake
def _(q: Tensor, k: Tensor, sinks: Any, *layout_rows_spans: Any) -> tuple[Tensor, Tensor]:
    *_, rows, spans, _scale, _softcap = layout_rows_spans
    dtype = accumulation_dtype(q.dtype)
    mass = q.new_empty(rows.shape[0], q.shape[1], spans, dtype=dtype)
    return mass, q.new_empty(rows.shape[0], q.shape[1], dtype=dtype)


@torch.library.custom_op("sra_fast::span_mass_of_lse", mutates_args=())
def span_mass_of_lse(
    q: Tensor,
    k: Tensor,
    lse: Tensor,
    key_labels: Tensor,
    first_key: Tensor,
    last_query: Tensor,
    slots: Tensor,
    key_runs: Tensor,
    query_runs: Tensor,
    rows: Tensor,
    spans: int,
    scale: float,
    softcap: float,
) -> Tensor:
    """Return ``mass [R, Hq, G]`` from another kernel's ``lse [B, Hq, M]``, without a gradient."""
    layout = Layout(key_labels, first_key, last_query, slots, key_runs, query_runs, rows)
    mass = q.new_empty(len(rows), q.shape[1], spans, dtype=accumulation_dtype(q.dtype))
    with torch.cuda.device_of(q):
        add_span_mass(q, k, lse, mass, layout, Logits(scale, softcap or None, None))
    return mass


@span_mass_of_lse.register_fake
def _(q: Tensor, k: Tensor, lse: Tensor, *layout_rows_spans: Any) -> Tensor:
    *_, rows, spans, _scale, _softcap = layout_rows_spans
    dtype = accumulation_dtype(q.dtype)
    return q.new_empty(rows.shape[0], q.shape[1], spans, dtype=dtype)
