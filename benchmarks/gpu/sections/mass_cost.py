"""Measure what the mass costs: attention over a whole prompt with rows asked for, and with none.

Two scenes: a span of 40 keys and the last 256 rows, as a score has them; and a span of half the
prompt with every row asked for, the most that there is to do. Each by the fused kernel and by
backend ``lse`` (the fastest provider, then the mass from its logsumexp), with both in turn.
"""

from __future__ import annotations

import functools

import torch

from benchmarks.gpu.harness import checking, tensors
from benchmarks.gpu.harness.bench import Bench, Entry
from benchmarks.gpu.harness.failures import describe, recover
from benchmarks.gpu.harness.places import HALF, SPAN
from benchmarks.gpu.harness.timing import BenchCall
from sra_fast import SpanAttention, SpanQuery, span_attention

BACKENDS = ("triton", "lse")
RATIOS = (
    ("triton on/off", "triton on", "triton off"),
    ("lse on/off", "lse on", "lse off"),
    ("off/off", "triton off again", "triton off"),
    ("triton/lse", "triton on", "lse on"),
)
CHECKED_ROWS = 256  # of every row: so many are compared with float64


def run(bench: Bench) -> None:
    """Measure both scenes at every length."""
    sizes = bench.sizes
    places: list[Entry] = [{"what": SPAN, "T": tokens} for tokens in sizes.mass]
    bench.each([*places, *({"what": HALF, "T": tokens} for tokens in sizes.half)], _measure)


@torch.no_grad()
def _measure(bench: Bench, entry: Entry, seconds: float) -> None:
    half = entry["what"] == HALF
    given = tensors.attention(bench.sizes, bench.device, bench.dtype, entry["T"], half=half)

    def attend(query: SpanQuery, backend: str) -> SpanAttention:
        return span_attention(given.q, given.k, given.v, query, backend=backend)

    calls: dict[str, BenchCall] = {}
    for backend in BACKENDS:
        on = functools.partial(attend, given.asking, backend)
        off = functools.partial(attend, given.silent, backend)
        try:
            _check(given, on, entry)
        except Exception as error:  # the other backend may be right
            entry.setdefault("failed", {})[backend] = describe(error)
            entry["error"] = f"{backend}: {describe(error)}"
            recover(bench.device)
            continue
        calls |= {f"{backend} on": on, f"{backend} off": off}
        if backend == "triton":
            calls["triton off again"] = off
    turns = bench.turns(calls, seconds)
    turns.record(entry)
    for name, one, other in RATIOS:
        if (ratio := turns.ratio(one, other)) is not None:
            entry[name] = ratio


def _check(given: tensors.Attention, on: BenchCall, entry: Entry) -> None:
    """Compare a result with float64, in all rows asked for or an even choice of them."""
    q, k, v, query = given.q, given.k, given.v, given.asking
    result, few = checking.thinned(checking.fresh(on), query, CHECKED_ROWS)
    checking.check(result, few, checking.exact_rows(q, k, v, few), entry)
