"""Measure one decoding step with mass against a long cache, beside the time to read its bytes.

That time is the floor: the bytes of K and V, read once, over the measured bandwidth of a copy,
which counts bytes read and bytes written alike; reading alone may be a little faster than that.
"""

from __future__ import annotations

import torch

from benchmarks.gpu.harness import checking, tensors
from benchmarks.gpu.harness.bench import Bench, Entry, free_bytes
from benchmarks.gpu.harness.failures import describe
from benchmarks.gpu.harness.timing import Call
from sra_fast import SpanAttention, SpanQuery, span_attention

ROOM = 2  # the step needs this many times the cache, for what is made beside it
FEWEST_KEYS = 1024


def run(bench: Bench) -> None:
    """Measure M = 1 with K and V as a cache keeps them, every batch row's query asked for."""
    bench.each([{"B": batch} for batch in bench.sizes.decode_batches], _measure)


def fitting_keys(bench: Bench, batch: int) -> int:
    """Return the number of keys wanted, or a half, a quarter, … of it if memory is short."""
    keys, free = bench.sizes.decode_keys, free_bytes(bench.device)
    while keys * _bytes_per_key(bench, batch) * ROOM > free and keys > FEWEST_KEYS:
        keys //= 2
    return keys


def _bytes_per_key(bench: Bench, batch: int) -> int:
    """Return the bytes of K and V per key, over all batch rows and heads."""
    sizes = bench.sizes
    return 2 * batch * sizes.kv_heads * sizes.width * torch.finfo(bench.dtype).bits // 8


@torch.no_grad()
def _measure(bench: Bench, entry: Entry, seconds: float) -> None:
    sizes, batch = bench.sizes, entry["B"]
    entry["N"] = keys = fitting_keys(bench, batch)
    given = tensors.attention(
        sizes, bench.device, bench.dtype, keys, batch=batch, queries=1, layout="cache"
    )

    def attend(query: SpanQuery) -> SpanAttention:
        return span_attention(given.q, given.k, given.v, query, backend="triton")

    calls: dict[str, Call] = {
        "with": lambda: attend(given.asking),
        "without": lambda: attend(given.silent),
        "without_again": lambda: attend(given.silent),
    }
    try:  # the one query sees every key
        calls["flash"] = tensors.pytorch_attention(
            given.q, given.k, given.v, tensors.FLASH, is_causal=False
        )
    except RuntimeError as error:
        entry["failed"] = {"flash": describe(error)}
    exact = checking.exact_rows(given.q, given.k, given.v, given.asking)
    plain = calls["flash"]() if "flash" in calls else None
    checking.check(checking.fresh(calls["with"]), given.asking, exact, plain, entry)
    turns = bench.turns(calls, seconds)
    turns.required("with", "without")
    turns.record(entry)
    entry["with/without"] = turns.ratio("with", "without")
    entry["without/without"] = turns.ratio("without_again", "without")
    entry["speed/flash"] = turns.ratio("flash", "with")
    entry["cache_gb"] = keys * _bytes_per_key(bench, batch) / 1e9
    bandwidth = bench.ceilings.get("copy_gbs")
    if bandwidth:
        entry["floor_ms"] = entry["cache_gb"] / bandwidth * 1e3
        entry["with/floor"] = entry["with_ms"] / entry["floor_ms"]
