"""Launch the kernels of one call, in their order, without autograd.

A call that nothing but the kernels has to see comes here directly (:func:`runs_straight`). Any
other one comes by way of an operator of ``torch.library`` (:mod:`operators`), which costs the host
more than all the rest of a call.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.utils._python_dispatch import _get_current_dispatch_mode

from ..contract import accumulation_dtype
from .decode import decode, serves
from .epilogue import SPANS_AT_ONCE, add_span_mass, spans_in_loops
from .forward import forward
from .launch import Logits
from .layout import Layout

_PLAIN = (Tensor, Parameter)  # any other class of tensors may want to see the call


def runs_straight(*tensors: Tensor | None) -> bool:
    """Return whether a call may go to the kernels directly.

    It may not if a gradient is wanted, inside a compiled graph, under a mode that watches or
    replaces operators (tracing, counting), or with tensors of a class that does.
    """
    if torch.compiler.is_compiling() or _get_current_dispatch_mode() is not None:
        return False
    grad = torch.is_grad_enabled()
    for tensor in tensors:
        if tensor is None:
            continue
        if type(tensor) not in _PLAIN or (grad and tensor.requires_grad):
            return False
    return True


def attend(
    q: Tensor, k: Tensor, v: Tensor, layout: Layout, logits: Logits, spans: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``out [B, Hq, M, Dv]``, ``mass [R, Hq, G]`` and ``lse [B, Hq, M]``."""
    if is_elsewhere(q):
        with torch.cuda.device_of(q):
            return attend(q, k, v, layout, logits, spans)
    rows = layout.rows.shape[0]
    if serves(q, v):  # reading the keys is all there is to pay, so they are read once
        first = min(spans, SPANS_AT_ONCE) if rows else 0
        out, mass, lse = decode(q, k, v, layout, logits, rows=rows, spans=spans, first_spans=first)
    else:
        first = spans_in_loops(rows, q.shape[0] * q.shape[2], spans)
        out, mass, lse = forward(q, k, v, layout, logits, rows=rows, spans=spans, first_spans=first)
    if rows and spans > first:
        add_span_mass(q, k, lse, mass, layout, logits, first_span=first)
    return out, mass, lse


def mass_and_lse(
    q: Tensor, k: Tensor, layout: Layout, logits: Logits, spans: int
) -> tuple[Tensor, Tensor]:
    """Return ``mass [R, Hq, G]`` and ``lse [R, Hq]`` of the rows asked for."""
    if is_elsewhere(q):
        with torch.cuda.device_of(q):
            return mass_and_lse(q, k, layout, logits, spans)
    rows, first = layout.rows, min(spans, SPANS_AT_ONCE)
    sizes = {"rows": rows.shape[0], "spans": spans, "first_spans": first}
    _, mass, lse = forward(q, k, k, layout, logits, **sizes, with_out=False)
    add_span_mass(q, k, lse, mass, layout, logits, first_span=first)
    m = q.shape[2]
    return mass, lse[rows // m, :, rows % m]


def mass_of_lse(
    q: Tensor, k: Tensor, lse: Tensor, layout: Layout, logits: Logits, spans: int
) -> Tensor:
    """Return ``mass [R, Hq, G]`` from another kernel's ``lse [B, Hq, M]``."""
    if is_elsewhere(q):
        with torch.cuda.device_of(q):
            return mass_of_lse(q, k, lse, layout, logits, spans)
    shape = (layout.rows.shape[0], q.shape[1], spans)
    mass = q.new_empty(shape, dtype=accumulation_dtype(q.dtype))
    add_span_mass(q, k, lse, mass, layout, logits)
    return mass


def is_elsewhere(q: Tensor) -> bool:
    """Return whether ``q`` is on another card than Triton launches on; a model may lie on many."""
    return q.is_cuda and q.device.index != torch.cuda.current_device()
