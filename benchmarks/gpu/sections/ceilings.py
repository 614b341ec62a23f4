"""Measure what this card can do at most: a dense product and a copy, with random data."""

from __future__ import annotations

import torch

from benchmarks.gpu.harness.bench import Bench, Entry, free_bytes


def run(bench: Bench) -> None:
    """Measure a square matrix product in TFLOP/s and a copy in GB/s (bytes read and written)."""
    size = bench.sizes.gemm
    copied = min(bench.sizes.copy_bytes, free_bytes(bench.device) // 8)
    bench.each(
        [
            {"what": f"dense product {size}³", "dtype": str(bench.dtype).removeprefix("torch.")},
            {"what": f"copy of {copied / 2**30:.3g} GiB", "bytes": 2 * copied // 4 * 4},
        ],
        _measure,
    )


def _measure(bench: Bench, entry: Entry, seconds: float) -> None:
    if "bytes" in entry:
        source = torch.randn(entry["bytes"] // 4, device=bench.device, dtype=torch.bfloat16)
        target = torch.empty_like(source)
        turns = bench.turns({"copy": lambda: target.copy_(source)}, seconds)
        turns.required("copy")
        turns.record(entry)
        entry["copy_gbs"] = entry["bytes"] / (turns.seconds("copy") or 0.0) / 1e9
        return
    size = bench.sizes.gemm
    a, b = (torch.randn(size, size, device=bench.device).to(bench.dtype) for _ in range(2))
    turns = bench.turns({"product": lambda: a @ b}, seconds)
    turns.required("product")
    turns.record(entry)
    entry["gemm_tflops"] = 2 * size**3 / (turns.seconds("product") or 0.0) / 1e12
