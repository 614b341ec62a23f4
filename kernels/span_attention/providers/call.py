"""Define one call of attention as every provider gets it, and what a provider is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

from torch import Tensor

from ..blocks import needs_grad
from ..contract import LogitRule, SpanQuery
from ..merging import Attended
from ..plan import Plan, plan

DECODE_QUERIES = 16  # a call with at most this many queries counts as decoding
NO_SINK_GRADIENT = "its logsumexp carries no gradient, which sinks need"


@dataclass(frozen=True, eq=False)
class AttentionCall:
    """The arguments of one attention, checked to fit together.

    Attributes:
        q: ``[B, Hq, M, D]``, any strides, ``M ≥ 1``.
        k: ``[B, Hkv, N, D]``, q's dtype and device.
        v: ``[B, Hkv, N, Dv]``, q's dtype and device.
        query: the segments and labels, on q's device.
        rule: scale, window, softcap and sinks.
        grad: whether a gradient of the output is wanted.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    query: SpanQuery
    rule: LogitRule
    grad: bool

    @cached_property
    def sequences(self) -> Plan:
        """The query's segments as plain numbers, worked out once per query."""
        return plan(self.query, self.q.shape[0], self.q.shape[2], self.k.shape[2])

    @property
    def width(self) -> int:
        """The wider of the key width ``D`` and the value width ``Dv``."""
        return max(self.q.shape[3], self.v.shape[3])

    def without_sinks(self) -> AttentionCall:
        """Return the same call for a provider that knows no sinks."""
        return self if self.rule.sinks is None else replace(self, rule=self._sinkless())

    def _sinkless(self) -> LogitRule:
        return replace(self.rule, sinks=None)


def call_of(q: Tensor, k: Tensor, v: Tensor, query: SpanQuery, rule: LogitRule) -> AttentionCall:
    """Return the call for these tensors; a gradient is wanted where autograd would record it."""
    return AttentionCall(q, k, v, query, rule, needs_grad(q, k, v, rule.sinks))


def expect_lse(lse: Tensor, shape: tuple[int, ...], whose: str) -> None:
    """Raise an error if a kernel's logsumexp has another shape than a provider reads.

    Args:
        lse: the kernel's logsumexp.
        shape: the shape that is read.
        whose: the kernel and that shape's letters, for the error.

    Raises:
        RuntimeError: the shapes differ.
    """
    if lse.shape != shape:
        raise RuntimeError(
            f"{whose}: the logsumexp has shape {list(lse.shape)}, expected {list(shape)}"
        )


@dataclass(frozen=True)
class Provider:
    """One way to compute attention that also gives the logsumexp.

    Attributes:
        name: its name in ``backend="lse:NAME"`` and in the table of measurements.
        about: what it is, in a few words.
        serves: returns None if it serves a call, else the reason in words.
        attend: returns ``out [B, Hq, M, Dv]`` in v's dtype, differentiable, and ``lse [B, Hq, M]``,
            float32 (float64 for float64 inputs), natural logarithm, detached; out 0 and lse −inf
            where nothing is seen.
        own_sinks: whether it takes sinks itself. For the others they are added afterwards, which
            is refused where a gradient is wanted.
        platform: whether it is another project's kernel, whose logsumexp is checked before use.
        missing: returns what is not installed, not activated, or too old here; else None.
        present: whether a user would expect it here, so that a warning is due if it is missing.
        parents: whether it serves segments that have a parent.
        splits_keys: whether a call of few queries is split over its keys, so that it fills a card.
    """

    name: str
    about: str
    serves: Callable[[AttentionCall], str | None]
    attend: Callable[[AttentionCall], Attended]
    own_sinks: bool = False
    platform: bool = False
    missing: Callable[[], str | None] = lambda: None
    present: Callable[[], bool] = lambda: True
    parents: bool = False
    splits_keys: Callable[[AttentionCall], bool] = lambda call: False
