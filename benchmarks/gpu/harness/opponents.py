"""Make the calls that are timed against each other: every provider with its mass, PyTorch's own.

A provider's call is a whole call of the op: its attention, and the mass of the rows asked for from
its logsumexp. The fused kernel does both at once. The call is used only after its outputs, masses
and logsumexps were compared with float64.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu.harness import checking, tensors
from benchmarks.gpu.harness.bench import Bench, Entry
from benchmarks.gpu.harness.failures import describe, recover
from benchmarks.gpu.harness.timing import BenchCall
from sra_fast import SpanAttention, span_attention
from sra_fast.kernels.contract import LogitRule
from sra_fast.kernels.dispatch import reason_against
from sra_fast.kernels.providers import PROVIDERS, call_of

SDPA = "sdpa"
FUSED = "fused"


def backend_of(name: str) -> str:
    """Return what ``backend=`` takes for a provider: ``"triton"`` for the fused kernel."""
    return "triton" if name == FUSED else f"lse:{name}"


def usable(
    given: tensors.Attention, rule: LogitRule, bench: Bench, entry: Entry, names: Sequence[str] = ()
) -> dict[str, BenchCall]:
    """Return the calls of the providers that serve these tensors and are right, by name.

    The reason why another does not serve is noted in the entry as ``unserved``, and what was found
    wrong as ``wrong``.

    Args:
        given: the tensors, and the query with rows asked for.
        rule: scale, window and softcap.
        bench: what the section works with.
        entry: the entry that gets the notes and the largest ``errors``.
        names: the providers to try; all if empty.
    """
    q, k, v, query = given.q, given.k, given.v, given.asking
    exact = checking.exact_rows(q, k, v, query, rule)
    found: dict[str, BenchCall] = {}
    for name in names or PROVIDERS:
        call = functools.partial(attend, given, rule, name)
        reason = reason_against(name, call_of(q, k, v, query, rule))
        if reason is not None:
            entry.setdefault("unserved", {})[name] = reason
            continue
        checked: Entry = {}
        try:
            checking.check(checking.fresh(call), query, exact, checked)
            found[name] = call
        except Exception as error:  # the others may be right
            entry.setdefault("wrong", {})[name] = describe(error)
        recover(bench.device)
        for what, off in checked.get("errors", {}).items():
            entry.setdefault("errors", {})[f"{name} {what}"] = off
    return found


def attend(given: tensors.Attention, rule: LogitRule, name: str) -> SpanAttention:
    """Compute attention and mass with a provider."""
    return span_attention(
        given.q,
        given.k,
        given.v,
        given.asking,
        scale=rule.scale,
        window=rule.window,
        softcap=rule.softcap,
        backend=backend_of(name),
    )


def refuse_wrong(entry: Entry) -> None:
    """Note as the entry's error what was found wrong, after the other providers were timed."""
    if "wrong" in entry:
        entry["error"] = "; ".join(f"{name}: {text}" for name, text in entry["wrong"].items())


def pytorch(given: tensors.Attention, sequences: int = 1, *, is_causal: bool = True) -> BenchCall:
    """Return PyTorch's own attention by whatever kernel it chooses, a batch row per sequence."""
    q, k, v = (_unpacked(x, sequences) for x in (given.q, given.k, given.v))

    def call() -> Any:
        return F.scaled_dot_product_attention(q, k, v, is_causal=is_causal, enable_gqa=True)

    return call


def _unpacked(x: Tensor, sequences: int) -> Tensor:
    """Return ``[1, H, T, D]`` as ``[sequences, H, T / sequences, D]``, a view."""
    if sequences == 1:
        return x
    (heads, _, width), length = x.shape[1:], x.shape[2] // sequences
    laid_out = x[0, :, : length * sequences].transpose(0, 1)
    return laid_out.reshape(sequences, length, heads, width).transpose(1, 2)
