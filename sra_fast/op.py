"""Compute attention and the mass on spans of keys together, by one of several backends."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from sra_fast.backends import BackendModule, own_backend
from sra_fast.kernels import lse, parents, profile, reference
from sra_fast.kernels.blocks import needs_grad
from sra_fast.kernels.contract import (
    LogitRule,
    SpanAttention,
    SpanMass,
    SpanQuery,
    accumulation_dtype,
)
from sra_fast.kernels.dispatch import (
    PREFIX,
    fastest,
    fastest_mass,
    triton_backend,
    trusted_kernels,
)
from sra_fast.kernels.plan import check, plan
from sra_fast.kernels.providers import PROVIDERS
from sra_fast.kernels.steered_attention import steered_attention
from sra_fast.kernels.steering import SteeredGradientError, Steering
from sra_fast.kernels.torch_state import is_followed_forward

_BACKENDS: dict[str, BackendModule] = {"reference": reference, "lse": lse}
_OF_PROVIDERS: dict[str, BackendModule] = {
    f"{PREFIX}{name}": lse.OfProvider(name) for name in PROVIDERS
}
_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def span_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    query: SpanQuery,
    *,
    scale: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    backend: str = "auto",
    mass_grad: bool = True,
    steer: Steering | None = None,
) -> SpanAttention:
    """Compute causal attention, and the mass of each asked-for row on each span of keys.

    Both are exact and need no attention map. With ``S_ij = scale · q_i·k_j`` (after the cap) over
    the keys j that query i sees, ``lse_i = log(Σ_j exp S_ij + exp sink)`` and
    ``P_ij = exp(S_ij − lse_i)``: ``out_i = Σ_j P_ij v_j`` and ``mass_ig = Σ_{j in span g} P_ij``
    (arXiv 2402.10453, Eq. 5 is a mean of such masses). A row with no visible key gives out 0, mass
    0, lse −inf.

    Args:
        q: ``[B, Hq, M, D]``, float32, bfloat16, float16 or float64; any strides.
        k: ``[B, Hkv, N, D]``, q's dtype; ``Hkv`` divides ``Hq``, ``M ≤ N``.
        v: ``[B, Hkv, N, Dv]``, q's dtype.
        query: the rows, spans and sequences asked for; on any device.
        scale: factor on ``q·k``; ``1/√D`` if None.
        window: a query at position p sees the keys ``p − window + 1 … p``; None for all up to p.
        softcap: bounds the logits, ``S ← softcap · tanh(S / softcap)``; None for no bound.
        sinks: ``[Hq]``, a logit per head that takes mass and gives no value; None for no sinks.
        backend: ``"reference"`` keeps the whole map; ``"lse"`` runs the platform's flash attention
            and then the mass; ``"triton"`` does both in one kernel, on GPUs; ``"auto"`` takes the
            fastest for the device, as :func:`sra_fast.explain` says in words. ``"lse:NAME"`` takes
            attention from one provider, such as ``"lse:cudnn"``. Or one of your own, by the name
            that it is registered under (:func:`sra_fast.register_backend`).
        mass_grad: whether the mass carries a gradient when q, k or the sinks ask for one. False
            saves ``R × N`` work in the backward pass when a training run only watches the mass.
        steer: a span of keys to raise or lower; out, mass, lse and profile are those after that.
            None for attention as it is. Nothing then carries a gradient.

    Returns:
        ``out [B, Hq, M, Dv]`` in v's dtype, ``mass [R, Hq, G]`` float32 and ``lse [B, Hq, M]``
        float32 (both float64 for float64 inputs). ``out`` is differentiable in q, k, v and the
        sinks, ``mass`` in q, k and the sinks; lse is not. If the query asks for a profile,
        ``profile [P, Hq, N]`` or ``[P, N]`` too, of mass's dtype and differentiable as mass is:
        the mean over each group's rows of ``P_ij`` for every key j.

    Raises:
        ValueError: shapes, dtypes, devices or the query do not fit together, there is no such
            backend, the one asked for does not serve the call, or one of your own returned
            something else than this.
        SteeredGradientError: a steered call that wants a gradient; a ValueError.
    """
    rule = LogitRule(scale_of(q, scale), window, softcap, sinks)
    check_tensors(q, k, v, rule)
    query = fitting_query(query, q, k)
    if query.parents is not None:
        _check_parents_served(backend, q, needs_grad(q, k, v, sinks), steered=steer is not None)
    if steer is not None:
        steer = fitting_steering(steer, q, k, v, rule)
    if q.numel() == 0 or q.shape[2] == 0:
        return _nothing(q, v, query)
    if torch.is_autocast_enabled(q.device.type):
        with _without_autocast(q.device):
            return _attention(q, k, v, query, rule, backend, mass_grad, steer)
    return _attention(q, k, v, query, rule, backend, mass_grad, steer)


def span_mass(
    q: Tensor,
    k: Tensor,
    query: SpanQuery,
    *,
    scale: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    backend: str = "auto",
) -> SpanMass:
    """Compute the masses of :func:`span_attention` alone, without values and without its output.

    Takes ``R × N`` work in bounded memory. Arguments and errors are those of
    :func:`span_attention`.

    Returns:
        ``mass [R, Hq, G]`` and the asked-for rows' ``lse [R, Hq]``, float32 (float64 for float64
        inputs).
    """
    rule = LogitRule(scale_of(q, scale), window, softcap, sinks)
    check_tensors(q, k, k, rule)
    query = fitting_query(query, q, k)
    if query.parents is not None:
        _check_parents_served(backend, q, needs_grad(q, k, sinks), steered=False)
    if q.numel() == 0 or len(query.rows) == 0:
        empty = _nothing(q, k, query)
        return SpanMass(empty.mass, empty.mass.new_zeros(0, q.shape[1]), empty.profile)
    with _without_autocast(q.device):
        name = fastest_mass(q, k) if backend == "auto" else backend
        wants_grad = needs_grad(q, k, sinks)
        kernels = _backend(name, q, k, k, query, rule, wants_grad)
        result = kernels.mass_only(q, k, query, rule)
        if query.profile is None or result.profile is not None:
            return result
        made = _profile(q, k, result.lse, query, rule, kernels, wants_grad)
        return replace(result, profile=made)


def _attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    query: SpanQuery,
    rule: LogitRule,
    backend: str,
    mass_grad: bool,
    steer: Steering | None,
) -> SpanAttention:
    wants_grad = mass_grad and needs_grad(q, k, rule.sinks)
    kernels = _backend(backend, q, k, v, query, rule, wants_grad)
    if steer is not None:
        return steered_attention(kernels, q, k, v, query, rule, steer)
    result = kernels.attention(q, k, v, query, rule, mass_grad)
    if query.profile is None or result.profile is not None:
        return result
    m = q.shape[2]
    lse = result.lse[query.rows // m, :, query.rows % m]
    return replace(result, profile=_profile(q, k, lse, query, rule, kernels, wants_grad))


def _profile(
    q: Tensor,
    k: Tensor,
    lse: Tensor,
    query: SpanQuery,
    rule: LogitRule,
    backend: BackendModule,
    grad: bool,
) -> Tensor:
    """Return the profiles from ``lse [R, Hq]``.

    They and their gradient come from Triton kernels, where these may be chosen or are the backend.
    """
    kernels = triton_backend() if hasattr(backend, "profile_of_rows") else trusted_kernels(q, k)
    if kernels is not None:
        of_rows = kernels.connected_profile_of_rows if grad else kernels.profile_of_rows
        made: Tensor = of_rows(q, k, lse, query, rule)
        return made
    with torch.set_grad_enabled(grad):
        sequences = plan(query, q.shape[0], q.shape[2], k.shape[2])
        return profile.of_rows(q, k, lse, query, sequences, rule)


def check_tensors(q: Tensor, k: Tensor, v: Tensor, rule: LogitRule) -> None:
    """Refuse tensors and a rule that do not fit together, as :func:`span_attention` says."""
    if not q.ndim == k.ndim == v.ndim == 4:
        raise ValueError(
            "expected q [B, Hq, M, D], k [B, Hkv, N, D] and v [B, Hkv, N, Dv], got "
            + _shapes(q, k, v)
        )
    (batch, heads, m, width), (of_keys, key_heads, n, key_width) = q.shape, k.shape
    if (of_keys, key_heads, n) != v.shape[:3] or batch != of_keys or width != key_width:
        raise ValueError(f"q, k and v do not agree in B, Hkv, N or D: {_shapes(q, k, v)}")
    if key_heads == 0 or heads % key_heads:
        raise ValueError(f"Hq must be a multiple of Hkv, got {heads} and {key_heads}")
    if m > n:
        raise ValueError(f"queries are the last M key positions, so M <= N; got {_shapes(q, k, v)}")
    if not q.dtype == k.dtype == v.dtype or q.dtype not in _DTYPES:
        raise ValueError(
            f"q, k and v must share one of {_DTYPES}, got {q.dtype}, {k.dtype} and {v.dtype}"
        )
    if q.device.type == "meta":
        raise ValueError("q, k and v are on the meta device, where there are no numbers")
    if not q.device == k.device == v.device:
        raise ValueError(f"q, k, v are on different devices: {q.device}, {k.device}, {v.device}")
    if rule.window is not None and rule.window < 1:
        raise ValueError(f"window must be at least 1 (the key at the query itself): {rule.window}")
    if rule.softcap is not None and rule.softcap <= 0:
        raise ValueError(f"softcap must be positive, got {rule.softcap}")
    if rule.sinks is not None:
        _check_sinks(rule.sinks, q)


def _shapes(q: Tensor, k: Tensor, v: Tensor) -> str:
    return f"q {list(q.shape)}, k {list(k.shape)}, v {list(v.shape)}"


def _check_sinks(sinks: Tensor, q: Tensor) -> None:
    if sinks.shape != (q.shape[1],):
        raise ValueError(f"sinks: expected [{q.shape[1]}], got {list(sinks.shape)}")
    if not sinks.is_floating_point() or sinks.device != q.device:
        raise ValueError(
            f"sinks: expected floating point on {q.device}, got {sinks.dtype} on {sinks.device}"
        )


def fitting_query(query: SpanQuery, q: Tensor, k: Tensor) -> SpanQuery:
    """Return the query on q's device, checked where it lies, except inside a compiled graph."""
    if not torch.compiler.is_compiling():
        check(query, q.shape[0], q.shape[2], k.shape[2])
        query.derived(("groups",), lambda: _check_groups(query))
    return query.to(q.device)


def _check_parents_served(backend: str, q: Tensor, grad: bool, *, steered: bool) -> None:
    """Refuse segments with a parent where the call cannot have them."""
    if steered:
        raise ValueError("parents: a steered call takes whole sequences only")
    if reason := parents.unserved(backend, q.device, grad):
        raise ValueError(f"parents: {reason}; {parents.WAY_OUT}")


def fitting_steering(steer: Steering, q: Tensor, k: Tensor, v: Tensor, rule: LogitRule) -> Steering:
    """Return the steering on q's device, if it fits the call and no gradient is wanted."""
    if needs_grad(q, k, v, rule.sinks) or is_followed_forward(q, k, v, rule.sinks):
        raise SteeredGradientError(
            "steer: steered attention has no gradient; call it under torch.no_grad() or "
            "torch.inference_mode()"
        )
    steer.check(q, k)
    return steer.to(q.device)


def _check_groups(query: SpanQuery) -> None:
    """Refuse a group of rows that is none of those asked for."""
    if query.profile is None or len(query.rows) == 0:
        return
    given, groups = query.profile.row_groups, query.profile.groups
    lowest, highest = int(given.min()), int(given.max())
    if lowest < -1 or highest >= groups:
        raise ValueError(
            f"row_groups: expected -1 to {groups - 1} for {groups} groups, "
            f"got {lowest} to {highest}"
        )


def _without_autocast(device: torch.device) -> torch.autocast:
    """Return a context without autocast, which would take the masses to half precision."""
    return torch.autocast(device.type, enabled=False)


def scale_of(q: Tensor, scale: float | None) -> float:
    """Return the factor on ``q·k``: the given one, or ``1/√D``."""
    return 1.0 / math.sqrt(max(1, q.shape[-1])) if scale is None else scale


def _backend(
    name: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    query: SpanQuery,
    rule: LogitRule,
    mass_grad: bool,
) -> BackendModule:
    if name == "auto":
        name = fastest(q, k, v, query, rule, mass_grad=mass_grad)
    followed = is_followed_forward(q, k, v, rule.sinks)
    if followed and (name == "triton" or (name.startswith("lse") and len(query.rows))):
        raise ValueError(
            f'backend "{name}" has no forward-mode derivative of the mass; use backend="reference"'
        )
    if name == "triton":
        kernels: BackendModule | None = triton_backend()
        if kernels is None:
            raise ValueError('backend "triton" needs the package triton, which is not installed')
        return kernels
    if name in _OF_PROVIDERS:
        return _OF_PROVIDERS[name]
    return _BACKENDS[name] if name in _BACKENDS else own_backend(name)


def _nothing(q: Tensor, v: Tensor, query: SpanQuery) -> SpanAttention:
    batch, heads, m, _ = q.shape
    dtype = accumulation_dtype(q.dtype)
    wanted, n = query.profile, v.shape[2]
    shape = (
        ()
        if wanted is None
        else (wanted.groups, heads, n)
        if wanted.by_head
        else (wanted.groups, n)
    )
    return SpanAttention(
        v.new_zeros(batch, heads, m, v.shape[3]),
        q.new_zeros(len(query.rows), heads, len(query.names), dtype=dtype),
        q.new_full((batch, heads, m), -torch.inf, dtype=dtype),
        None if wanted is None else q.new_zeros(shape, dtype=dtype),
    )
