"""Measure one decoding step with mass against a long cache, beside the time to read its bytes.

That time is the floor: the bytes of K and V, read once, over the measured bandwidth of a copy,
which counts bytes read and bytes written alike; reading alone may be a little faster than that.
"""

from __future__ import annotations

import torch

from benchmarks.gpu.harness import tensors
from benchmarks.gpu.harness.bench import Bench, Entry, free_bytes
from benchmarks.gpu.harness.opponents import FUSED, SDPA, pytorch, refuse_wrong, usable
from benchmarks.gpu.harness.timing import BenchCall
from benchmarks.gpu.sections.provider_table import SLOW
from sra_fast import span_attention
from sra_fast.kernels.contract import LogitRule
from sra_fast.kernels.providers import PROVIDERS

ROOM = 2  # the step needs this many times the cache, for what is made beside it


def run(bench: Bench) -> None:
    """Measure M = 1 with K and V as a cache keeps them, every batch row's query asked for."""
    bench.each(
        [
            {"N": keys, "B": batch}
            for keys in bench.sizes.decode_keys
            for batch in bench.sizes.decode_batches
        ],
        _measure,
    )


@torch.no_grad()
def _measure(bench: Bench, entry: Entry, seconds: float) -> None:
    sizes, batch, keys = bench.sizes, entry["B"], entry["N"]
    cache = 2 * batch * keys * sizes.kv_heads * sizes.width * torch.finfo(bench.dtype).bits // 8
    entry["cache_gb"] = cache / 1e9
    if (free := free_bytes(bench.device)) < ROOM * cache:
        entry["absent"] = f"needs {ROOM * cache / 1e9:.0f} GB, {free / 1e9:.0f} GB are free"
        return
    given = tensors.attention(
        sizes, bench.device, bench.dtype, keys, batch=batch, queries=1, layout="cache"
    )
    names = [name for name in PROVIDERS if name not in SLOW]
    ours = usable(given, LogitRule(sizes.width**-0.5), bench, entry, names)
    # The one query sees every key.
    calls: dict[str, BenchCall] = {SDPA: pytorch(given, is_causal=False), **ours}
    if FUSED in ours:
        calls["no mass"] = lambda: span_attention(
            given.q, given.k, given.v, given.silent, backend="triton"
        )
    turns = bench.turns(calls, seconds)
    turns.required(*calls)
    turns.record(entry)
    for name in ours:
        entry[f"{name}/sdpa"] = turns.ratio(name, SDPA)
    if FUSED in ours:
        entry["with/without"] = turns.ratio(FUSED, "no mass")
    if ours:
        entry["fastest"] = min(ours, key=lambda name: turns.seconds(name) or 0.0)
        entry["fastest/sdpa"] = entry[f"{entry['fastest']}/sdpa"]
        if bandwidth := bench.ceilings.get("copy_gbs"):
            entry["floor_ms"] = entry["cache_gb"] / bandwidth * 1e3
            entry["fastest/floor"] = entry[f"{entry['fastest']}_ms"] / entry["floor_ms"]
    refuse_wrong(entry)
