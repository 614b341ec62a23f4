"""Check against float64 that what is timed is right, by the error ‖x − exact‖ / ‖exact‖.

    out    at most 2ε, and gradients twice the error of PyTorch's own kernel in the same dtype, or ε
    mass   at most 1e-3: its logits are kept in float32, while a bf16 product is off by 6e-3
    lse    at most 1e-4

An error of NaN is never right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.harness.failures import WrongResultError
from sra_fast import SpanAttention, SpanQuery
from sra_fast.kernels.contract import LogitRule

MASS_TOLERANCE = 1e-3
LSE_TOLERANCE = 1e-4
FLOAT32_FLOOR = 1e-5
BLOCK_NUMBERS = 1 << 26  # float64 logits alive at once: half a GB


@dataclass(frozen=True)
class ExactRows:
    """The rows asked for, in float64.

    Attributes:
        out: ``[R, Hq, D]``, their outputs.
        mass: ``[R, Hq, G]``, their masses.
        lse: ``[R, Hq]``, their logsumexps.
    """

    out: Tensor
    mass: Tensor
    lse: Tensor


def exact_rows(
    q: Tensor, k: Tensor, v: Tensor, query: SpanQuery, rule: LogitRule | None = None
) -> ExactRows:
    """Compute the rows asked for by the definition, in blocks of rows.

    Args:
        q, k, v: the tensors ``[B, H, L, D]`` of :func:`sra_fast.span_attention`.
        query: its segments cover every row asked for.
        rule: scale, window and softcap; ``1/√D`` and neither of the others if None.
    """
    (_, heads, m, width), (groups, n) = q.shape, k.shape[1:3]
    rule = LogitRule(1 / math.sqrt(width)) if rule is None else rule
    rows, per_group = query.rows, heads // groups
    shifts = torch.arange(len(query.names), device=q.device, dtype=torch.int32)

    def unwritten(*last: int) -> Tensor:
        shape = (len(rows), heads, *last)
        return torch.full(shape, math.nan, dtype=torch.float64, device=q.device)

    out, mass, lse = unwritten(v.shape[3]), unwritten(len(shifts)), unwritten()
    block = max(1, BLOCK_NUMBERS // (per_group * n))
    at_key = torch.arange(n, device=q.device)
    for b in sorted({int(row) // m for row in rows.tolist()}):
        bits = ((query.key_labels[b, :, None] >> shifts) & 1).double()
        slots = (rows // m == b).nonzero().flatten()
        starts = _starts(query, b, n)
        for group in range(groups):
            members = slice(group * per_group, (group + 1) * per_group)
            keys, values = k[b, group].double(), v[b, group].double()
            for slot in slots.split(block):
                row = rows[slot] % m
                at = row + n - m
                logits = q[b, members][:, row].double() @ keys.T * rule.scale
                if rule.softcap is not None:
                    logits = rule.softcap * torch.tanh(logits / rule.softcap)
                first = starts[at]
                if rule.window is not None:
                    first = torch.maximum(first, at - rule.window + 1)
                hidden = (at_key > at[:, None]) | (at_key < first[:, None])
                logits = logits.masked_fill_(hidden, -math.inf)  # [per_group, r, n]
                norm = torch.logsumexp(logits, dim=-1)
                weights = logits.sub_(norm[..., None]).exp_()
                out[slot, members] = (weights @ values).transpose(0, 1)
                mass[slot, members] = (weights @ bits).transpose(0, 1)
                lse[slot, members] = norm.T
    return ExactRows(out, mass, lse)


def _starts(query: SpanQuery, b: int, n: int) -> Tensor:
    """Return ``[N]`` int64, for each key position the first of its segment."""
    starts = torch.zeros(n, dtype=torch.int64)
    for row, start, end in query.segments.tolist():
        if row == b:
            starts[start:end] = start
    return starts.to(query.segments.device)


def rows_of(x: Tensor, query: SpanQuery) -> Tensor:
    """Return the rows asked for of a tensor, ``[B, Hq, M, …] -> [R, Hq, …]``."""
    m = x.shape[2]
    return x[query.rows // m, :, query.rows % m]


def relative(found: Tensor, wanted: Tensor) -> float:
    """Return ``‖found − wanted‖ / ‖wanted‖`` in float64.

    The second dimension is taken slice by slice (the first if there is no second), to save memory.
    """
    if found.shape != wanted.shape:
        raise WrongResultError(f"shape {list(found.shape)}, expected {list(wanted.shape)}")
    dim = min(1, found.ndim - 1)
    difference = total = 0.0
    for mine, true in zip(found.unbind(dim), wanted.unbind(dim), strict=True):
        exact = true.double()
        difference += float((mine.double() - exact).square().sum())
        total += float(exact.square().sum())
    return math.sqrt(difference / total) if total else math.nan if difference else 0.0


def tolerance(plain: float | None, dtype: torch.dtype) -> float:
    """Return the tolerance of outputs and gradients, given the error of PyTorch's own kernel.

    ``plain`` is None if that kernel did not run. Two right kernels round at different places, so an
    ε is always allowed; a wrong term or row is off by far more.
    """
    eps = torch.finfo(dtype).eps
    return max(2 * (eps if plain is None else plain), eps) + FLOAT32_FLOOR


def require(errors: Mapping[str, float], allowed: Mapping[str, float]) -> None:
    """Raise :class:`WrongResultError` where an error is not within what is allowed."""
    wrong = [
        f"{name} off by {error:.1e}, at most {allowed[name]:.1e}"
        for name, error in errors.items()
        if not error <= allowed[name]
    ]
    if wrong:
        raise WrongResultError(f"wrong: {'; '.join(wrong)}")


def check(result: SpanAttention, query: SpanQuery, exact: ExactRows, entry: dict[str, Any]) -> None:
    """Write the errors of a result into its entry, and raise an error if the result is wrong.

    Args:
        result: what was computed.
        query: the query that it answers.
        exact: the exact values of the rows asked for.
        entry: the entry that gets ``errors``.
    """
    errors = {
        "out": relative(rows_of(result.out, query), exact.out),
        "mass": relative(result.mass, exact.mass),
        "lse": relative(rows_of(result.lse, query), exact.lse),
    }
    allowed = {
        "out": tolerance(None, result.out.dtype),
        "mass": MASS_TOLERANCE,
        "lse": LSE_TOLERANCE,
    }
    entry["errors"] = dict(errors)
    require(errors, allowed)


def thinned(result: SpanAttention, query: SpanQuery, most: int) -> tuple[SpanAttention, SpanQuery]:
    """Return a result and its query for an even choice of at most so many of the rows."""
    step = -(-len(query.rows) // most)
    few = replace(query, rows=query.rows[::step])
    return SpanAttention(result.out, result.mass[::step], result.lse), few


def fresh(call: Callable[[], SpanAttention]) -> SpanAttention:
    """Return the second result of a call, in the memory of the first, which was filled with NaN.

    An output that the call does not write thus stays NaN.
    """
    first = call()
    for x in (first.out, first.mass, first.lse):
        x.fill_(math.nan)
    del first, x
    return call()
