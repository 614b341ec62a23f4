"""Backend ``lse`` takes the platform's flash attention, then the mass from its logsumexp.

There is one call per sequence, or one for the whole batch if every batch row is one full sequence,
so padding costs nothing and no mask is ever made. What the flash kernel cannot do goes through
:mod:`blocks`. Output and mass are two nodes of autograd: the output's gradient is that of the
kernel that computed it, and the mass's comes from the rows asked for alone (:mod:`row_gradient`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import blocks, flash_cpu, flash_cuda, mass
from .contract import (
    LogitRule,
    SpanAttention,
    SpanMass,
    SpanQuery,
    accumulation_dtype,
)
from .dispatch import trusted_kernels
from .plan import Plan, plan


def attention(
    q: Tensor, k: Tensor, v: Tensor, query: SpanQuery, rule: LogitRule, mass_grad: bool
) -> SpanAttention:
    """Return attention and mass for the arguments of :func:`sra_fast.span_attention`."""
    batch, heads, m, _ = q.shape
    sequences = plan(query, batch, m, k.shape[2])
    if flash_cuda.unserved(q, k, v, rule) is None:
        out, lse = flash_cuda.attend(q, k, v, query, sequences, rule)
    elif sequences.whole:
        out, lse = _attend(q, k, v, rule)
    else:
        # [B, M, Hq, Dv] in memory, as the models want it next.
        out = v.new_zeros(batch, m, heads, v.shape[3]).transpose(1, 2)
        lse = torch.full(
            (batch, heads, m), -torch.inf, dtype=accumulation_dtype(q.dtype), device=q.device
        )
        for part in sequences.sequences:
            row, queries, keys = slice(part.batch, part.batch + 1), part.queries, part.keys
            if queries.start == queries.stop:
                continue
            out[row, :, queries], lse[row, :, queries] = _attend(
                q[row, :, queries], k[row, :, keys], v[row, :, keys], rule
            )
    if mass_grad and blocks.needs_grad(q, k, rule.sinks) and len(query.rows):
        masses = mass.of_rows(q, k, lse, query, sequences, rule)
    else:
        masses = _mass_of_lse(q, k, lse, query, sequences, rule)
    return SpanAttention(out, masses, lse)


def mass_only(q: Tensor, k: Tensor, query: SpanQuery, rule: LogitRule) -> SpanMass:
    """Return the mass without the output, for the arguments of :func:`sra_fast.span_mass`."""
    sequences = plan(query, q.shape[0], q.shape[2], k.shape[2])
    return mass.from_scratch(q, k, query, sequences, rule)


def _mass_of_lse(
    q: Tensor, k: Tensor, lse: Tensor, query: SpanQuery, sequences: Plan, rule: LogitRule
) -> Tensor:
    """Return the mass from a known logsumexp, by the Triton kernel where it may be chosen."""
    kernels = trusted_kernels(q, k)
    if kernels is not None:
        masses: Tensor = kernels.mass_of_lse(q, k, lse, query, rule)
        return masses
    return mass.from_lse(q, k, lse, query, sequences, rule)


def _attend(q: Tensor, k: Tensor, v: Tensor, rule: LogitRule) -> tuple[Tensor, Tensor]:
    """Return ``out`` and ``lse`` of one sequence, by the flash kernel for CPU or in blocks."""
    through_lse = rule.sinks is not None and blocks.needs_grad(q, k, v, rule.sinks)
    if rule.softcap is not None or through_lse or q.device.type != "cpu":
        return blocks.attend(q, k, v, rule)
    if rule.window is not None and rule.window < k.shape[2]:
        out, lse = flash_cpu.attend_window(q, k, v, rule.scale, rule.window)
    else:
        out, lse = flash_cpu.attend(q, k, v, rule.scale)
    if rule.sinks is None:
        return out, lse
    sinks = rule.sinks.to(lse.dtype)[:, None]
    return out * torch.sigmoid(lse - sinks)[..., None].to(out.dtype), torch.logaddexp(lse, sinks)
