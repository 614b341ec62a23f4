"""Backend ``lse`` takes attention from a provider, then the mass from its logsumexp.

The provider is the fastest one that serves the call (:mod:`dispatch`), or the one asked for by
name. Sinks come afterwards for the providers that know none. Output and mass are two nodes of
autograd: the output's gradient is that of the kernel that computed it, and the mass's comes from
the rows asked for alone (:mod:`row_gradient`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from . import blocks, mass
from .contract import LogitRule, SpanAttention, SpanMass, SpanQuery
from .dispatch import best_provider, provider_by_name, trusted_kernels
from .merging import Attended, add_sinks
from .plan import Plan, plan
from .providers import AttentionCall, Provider, call_of


def attention(
    q: Tensor, k: Tensor, v: Tensor, query: SpanQuery, rule: LogitRule, mass_grad: bool
) -> SpanAttention:
    """Return attention and mass for the arguments of :func:`sra_fast.span_attention`."""
    return _attention(best_provider, call_of(q, k, v, query, rule), mass_grad)


def mass_only(q: Tensor, k: Tensor, query: SpanQuery, rule: LogitRule) -> SpanMass:
    """Return the mass without the output, for the arguments of :func:`sra_fast.span_mass`."""
    sequences = plan(query, q.shape[0], q.shape[2], k.shape[2])
    return mass.from_scratch(q, k, query, sequences, rule)


@dataclass(frozen=True)
class OfProvider:
    """Backend ``lse`` with attention from one provider, which an error names if it cannot serve."""

    name: str

    def attention(
        self, q: Tensor, k: Tensor, v: Tensor, query: SpanQuery, rule: LogitRule, mass_grad: bool
    ) -> SpanAttention:
        """Return attention and mass for the arguments of :func:`sra_fast.span_attention`."""
        call = call_of(q, k, v, query, rule)
        return _attention(lambda call: provider_by_name(self.name, call), call, mass_grad)

    def mass_only(self, q: Tensor, k: Tensor, query: SpanQuery, rule: LogitRule) -> SpanMass:
        """Return the mass without the output, for which no provider is needed."""
        return mass_only(q, k, query, rule)


def attended(provider: Provider, call: AttentionCall) -> Attended:
    """Return ``out [B, Hq, M, Dv]`` and ``lse [B, Hq, M]`` of a call, its sinks included."""
    if call.rule.sinks is None or provider.own_sinks:
        return provider.attend(call)
    return add_sinks(*provider.attend(call.without_sinks()), call.rule.sinks)


def _attention(
    choose: Callable[[AttentionCall], Provider], call: AttentionCall, mass_grad: bool
) -> SpanAttention:
    """Return attention by the chosen provider, and the mass from its logsumexp."""
    q, k, query, rule = call.q, call.k, call.query, call.rule
    out, lse = attended(choose(call), call)
    if mass_grad and blocks.needs_grad(q, k, rule.sinks) and len(query.rows):
        masses = mass.of_rows(q, k, lse, query, call.sequences, rule)
    else:
        masses = mass_of_lse(q, k, lse, query, call.sequences, rule)
    return SpanAttention(out, masses, lse)


def mass_of_lse(
    q: Tensor, k: Tensor, lse: Tensor, query: SpanQuery, sequences: Plan, rule: LogitRule
) -> Tensor:
    """Return the mass from a known logsumexp, by the Triton kernel where it may be chosen."""
    kernels = trusted_kernels(q, k)
    if kernels is not None:
        masses: Tensor = kernels.mass_of_lse(q, k, lse, query, rule)
        return masses
    return mass.from_lse(q, k, lse, query, sequences, rule)
