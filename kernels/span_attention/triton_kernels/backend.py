"""Backend ``triton`` turns a call of the op into one of the kernels, or says why it cannot."""

from __future__ import annotations

import math

import torch
import triton
from torch import Tensor

from ..blocks import needs_grad
from ..contract import LogitRule, SpanAttention, SpanMass, SpanQuery
from ..steered_rows import span_query
from ..steering import Steering
from . import kernel_calls
from .forward import forward_kernel
from .key_profile import row_order
from .launch import LONGEST_STRIDE, SMALLEST_SCALE, Logits
from .layout import Layout, layout
from .operators import (
    fused_attention,
    fused_mass,
    span_mass_of_lse,
)
from .profile_operator import connected_profile, profile_of_lse
from .row_bounds import row_bounds
from .row_groups import row_groups
from .row_operators import connected_mass
from .steering_epilogue import AT_LEAST, BIAS, EXACTLY, GIVEN, steer_rows

WIDEST = 256
OLDEST_CAPABILITY = (8, 0)
AMD = "gfx942"  # the only chip of AMD that the kernels are compiled for in the tests
INTERPRETED = not isinstance(forward_kernel, triton.JITFunction)


def unserved(q: Tensor, v: Tensor) -> str | None:
    """Return what the kernels take and what they got instead, or None if they take the tensors."""
    if max(q.shape[3], v.shape[3]) > WIDEST or min(q.shape[3], v.shape[3]) < 1:
        return f"head widths D and Dv of 1 to {WIDEST}, got {q.shape[3]} and {v.shape[3]}"
    if INTERPRETED:
        if q.dtype == torch.bfloat16:
            return "float16, float32 or float64 under TRITON_INTERPRET=1, got torch.bfloat16"
        return None
    if q.dtype == torch.float64:
        return "bfloat16, float16 or float32, got torch.float64"
    if q.device.type != "cuda":
        return f"a CUDA device (or TRITON_INTERPRET=1, for tests), got {q.device}"
    capability = torch.cuda.get_device_capability(q.device)
    if torch.version.hip is None and capability < OLDEST_CAPABILITY:
        return f"compute capability 8.0 or newer, got {capability[0]}.{capability[1]}"
    if torch.version.hip is not None:
        name = torch.cuda.get_device_properties(q.device).gcnArchName
        return None if name.startswith(AMD) else f"{AMD} of AMD's chips, got {name}"
    return None


def attention(
    q: Tensor, k: Tensor, v: Tensor, query: SpanQuery, rule: LogitRule, mass_grad: bool
) -> SpanAttention:
    """Return attention and mass from one kernel; see :func:`sra_fast.span_attention`."""
    made, spans = _layout(q, k, v, query, rule.window), len(query.names)
    q, k, v, scale = _ready(q, k, v, rule.scale)
    sinks = None if rule.sinks is None else rule.sinks.contiguous()
    if kernel_calls.runs_straight(q, k, v, sinks):
        logits = Logits(scale, rule.softcap, sinks)
        return SpanAttention(*kernel_calls.attend(q, k, v, made, logits, spans))
    out, mass, lse = fused_attention(
        q, k, v, sinks, *_fields(made), spans, scale, rule.softcap or 0.0, mass_grad
    )
    return SpanAttention(out, mass if mass_grad else mass.detach(), lse.detach())


def mass_only(q: Tensor, k: Tensor, query: SpanQuery, rule: LogitRule) -> SpanMass:
    """Return the mass without the output, for the arguments of :func:`sra_fast.span_mass`."""
    ready_q, ready_k, _, scale = _ready(q, k, k, rule.scale)
    made, spans = _layout(q, k, k, query, rule.window), len(query.names)
    sinks = None if rule.sinks is None else rule.sinks.contiguous()
    with torch.no_grad():
        if kernel_calls.runs_straight(ready_q, ready_k, sinks):
            logits = Logits(scale, rule.softcap, sinks)
            mass, lse = kernel_calls.mass_and_lse(ready_q, ready_k, made, logits, spans)
        else:
            mass, lse = fused_mass(
                ready_q, ready_k, sinks, *_fields(made), spans, scale, rule.softcap or 0.0
            )
    return SpanMass(_connected(mass, q, k, lse, query, rule), lse)


def mass_of_lse(q: Tensor, k: Tensor, lse: Tensor, query: SpanQuery, rule: LogitRule) -> Tensor:
    """Return ``mass [R, Hq, G]`` from another kernel's ``lse [B, Hq, M]``, without a gradient."""
    made, spans = _layout(q, k, k, query, rule.window), len(query.names)
    q, k, _, scale = _ready(q.detach(), k.detach(), k.detach(), rule.scale)
    if kernel_calls.runs_straight(q, k, lse):
        logits = Logits(scale, rule.softcap, None)
        return kernel_calls.mass_of_lse(q, k, lse, made, logits, spans)
    mass: Tensor = span_mass_of_lse(q, k, lse, *_fields(made), spans, scale, rule.softcap or 0.0)
    return mass


def profile_of_rows(q: Tensor, k: Tensor, lse: Tensor, query: SpanQuery, rule: LogitRule) -> Tensor:
    """Return the profiles asked for from ``lse [R, Hq]``, without a gradient."""
    assert query.profile is not None
    q, k, _, scale = _ready(q.detach(), k.detach(), k.detach(), rule.scale)
    made, order = _layout(q, k, k, query, rule.window), row_order(query)
    profile: Tensor = profile_of_lse(
        q,
        k,
        lse.contiguous(),
        made.first_key,
        made.rows,
        order.slots,
        order.starts,
        query.profile.by_head,
        scale,
        rule.softcap or 0.0,
    )
    return profile


def steer_in_place(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    beta: Tensor,
    query: SpanQuery,
    rule: LogitRule,
    steer: Steering,
) -> Tensor:
    """Steer ``out`` and ``lse [B, Hq, M]`` in place, and write β; return the rows to compute anew.

    These are those of ``[B, Hq, M]`` bool that would show rounding errors. The β of a pooled share
    is read.
    """
    made = _layout(q, k, v, span_query(query, steer, q.shape[2]), rule.window)
    chosen = steer.derived(("int8",), lambda: _chosen_heads(steer, q))
    mode, strength = _mode(steer)
    q, k, v, scale = _ready(q, k, v, rule.scale)
    logits = Logits(scale, rule.softcap, None)
    if kernel_calls.is_elsewhere(q):
        with torch.cuda.device_of(q):
            found = steer_rows(q, k, v, out, lse, beta, chosen, made, logits, mode, strength)
    else:
        found = steer_rows(q, k, v, out, lse, beta, chosen, made, logits, mode, strength)
    return found.bool()


def _mode(steer: Steering) -> tuple[int, float]:
    """Return what the kernel's ``strength`` is, and that strength."""
    if steer.bias is not None:
        return BIAS.value, steer.bias
    if steer.share is not None:
        mode = EXACTLY.value if steer.exact else AT_LEAST.value
        return mode, math.log(steer.share) - math.log1p(-steer.share)
    return GIVEN.value, 0.0


def connected_profile_of_rows(
    q: Tensor, k: Tensor, lse: Tensor, query: SpanQuery, rule: LogitRule
) -> Tensor:
    """Return :func:`profile_of_rows`, differentiable in q, k and the sinks, which the lse has."""
    lse = lse.detach()
    profile = profile_of_rows(q, k, lse, query, rule)
    if not needs_grad(q, k, rule.sinks) or len(query.rows) == 0 or profile.numel() == 0:
        return profile
    q, k, _, scale = _ready(q, k, k, rule.scale)
    made, groups = _layout(q, k, k, query, rule.window), row_groups(query, profile.dtype)
    connected: Tensor = connected_profile(
        profile,
        q,
        k,
        None if rule.sinks is None else rule.sinks.contiguous(),
        lse.contiguous(),
        made.first_key,
        made.rows,
        groups.groups,
        groups.shares,
        groups.largest,
        groups.runs,
        row_bounds(query, made, rule.window),
        scale,
        rule.softcap or 0.0,
    )
    return connected


def mass_of_rows(q: Tensor, k: Tensor, lse: Tensor, query: SpanQuery, rule: LogitRule) -> Tensor:
    """Return ``mass [R, Hq, G]`` from another kernel's ``lse [B, Hq, M]``, with a gradient.

    It is differentiable in q, k and the sinks, which the lse includes.
    """
    m = q.shape[2]
    of_row = lse.detach()[query.rows // m, :, query.rows % m]
    mass = mass_of_lse(q, k, lse, query, rule)
    return _connected(mass, q, k, of_row, query, rule)


def _connected(
    mass: Tensor, q: Tensor, k: Tensor, lse: Tensor, query: SpanQuery, rule: LogitRule
) -> Tensor:
    """Return a mass with known ``lse [R, Hq]`` that carries a gradient if one is wanted."""
    if not needs_grad(q, k, rule.sinks) or len(query.rows) == 0:
        return mass
    q, k, _, scale = _ready(q, k, k, rule.scale)
    made = _layout(q, k, k, query, rule.window)
    bounds = row_bounds(query, made, rule.window)
    sinks = None if rule.sinks is None else rule.sinks.contiguous()
    softcap = rule.softcap or 0.0
    connected: Tensor = connected_mass(
        mass, q, k, sinks, lse, *_fields(made), bounds, scale, softcap
    )
    return connected


def _layout(q: Tensor, k: Tensor, v: Tensor, query: SpanQuery, window: int | None) -> Layout:
    """Return the layout of a query for these tensors; made once, like the check of the tensors.

    Raises:
        ValueError: the kernels cannot take tensors of this kind; with the reason.
    """

    def make() -> Layout:
        reason = unserved(q, v)
        if reason is not None:
            raise ValueError(f'backend "triton" serves {reason}; use backend="auto" or "reference"')
        return layout(query, q.shape[0], q.shape[2], k.shape[2], window)

    kind = (q.dtype, q.device, q.shape, k.shape[2], v.shape[3], window)
    return query.derived(("triton", *kind), make)


def _fields(made: Layout) -> tuple[Tensor, ...]:
    """Return a layout's tensors in the order in which the operators take them."""
    return (
        made.key_labels,
        made.first_key,
        made.last_query,
        made.slots,
        made.key_runs,
        made.query_runs,
        made.rows,
    )


def _chosen_heads(steer: Steering, q: Tensor) -> Tensor:
    """Return which heads are steered, ``[Hq]`` int8."""
    if steer.heads is not None:
        return steer.heads.to(torch.int8)
    return torch.ones(q.shape[1], dtype=torch.int8, device=q.device)


def _ready(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor, float]:
    """Return q, k and v with strides that the kernels take, and a positive scale.

    The last stride must be 1 and the one between tokens below :data:`LONGEST_STRIDE`; other tensors
    are copied.
    """
    if scale <= 0:
        q, scale = -q, max(-scale, SMALLEST_SCALE)
    if not (_is_read_as_it_is(q) and _is_read_as_it_is(k) and _is_read_as_it_is(v)):
        q, k, v = (x if _is_read_as_it_is(x) else x.contiguous() for x in (q, k, v))
    return q, k, v, scale


def _is_read_as_it_is(x: Tensor) -> bool:
    """Return whether the kernels take a tensor's strides."""
    _, _, between, last = x.stride()
    return last == 1 and between < LONGEST_STRIDE
