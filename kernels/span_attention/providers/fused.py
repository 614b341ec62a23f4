"""Take attention from this project's own fused Triton kernel, without asking it for masses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..contract import SpanQuery
from ..merging import Attended
from .call import AttentionCall, Provider


def serves(call: AttentionCall) -> str | None:
    """Return why the Triton kernels cannot serve a call, or None if they can."""
    kernels = triton_backend()
    if kernels is None:
        return "the package triton is not installed"
    reason = kernels.unserved(call.q, call.v)
    return None if reason is None else f"it serves {reason}"


def attend(call: AttentionCall) -> Attended:
    """Return ``out [B, Hq, M, Dv]``, differentiable, and ``lse [B, Hq, M]``; sinks are its own."""
    kernels = triton_backend()
    assert kernels is not None, "it does not serve without triton"
    query = _silent(call.query)
    result = kernels.attention(call.q, call.k, call.v, query, call.rule, mass_grad=False)
    return result.out, result.lse


def _silent(query: SpanQuery) -> SpanQuery:
    """Return the query without the rows that it asks for, so that no mass is computed."""
    if len(query.rows) == 0:
        return query
    return query.derived(("no rows",), lambda: replace(query, rows=query.rows[:0]))


_FOUND: list[Any] = []


def triton_backend() -> Any | None:
    """Return the module of backend ``triton``, imported on first use, or None without triton."""
    if not _FOUND:  # an import statement costs each call half a microsecond
        try:
            from ..triton_kernels import backend
        except ModuleNotFoundError as missing:
            if missing.name != "triton":
                raise
            return None
        _FOUND.append(backend)
    return _FOUND[0]


PROVIDER = Provider(
    name="fused",
    about="this project's fused Triton kernel",
    serves=serves,
    attend=attend,
    splits_keys=lambda call: True,
    own_sinks=True,
)
