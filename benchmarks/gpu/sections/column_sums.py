"""Compare with the PyPI package ``flash-colreduce``, where it is installed and can do the job.

The package sums the attention map over queries, per key. Our masses, summed over the rows asked
for, are the sum of its columns over the span's keys if it is given those rows alone; given all
queries it answers another question at the cost of all. It wants as many key heads as query heads,
so these are repeated beforehand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.harness import checking, tensors
from benchmarks.gpu.harness.bench import Bench, Entry
from benchmarks.gpu.harness.timing import BenchCall
from sra_fast import span_attention, span_mass
from sra_fast.kernels.contract import LogitRule

SUM_TOLERANCE = 2e-2  # the package's sums are rounded to the inputs' dtype


def run(bench: Bench) -> None:
    """Time the package's column sums and ours, or note that the package is not installed."""
    bench.each([{"T": tokens} for tokens in bench.sizes.column_sums], _measure)


@torch.no_grad()
def _measure(bench: Bench, entry: Entry, seconds: float) -> None:
    reduce = _package()
    if reduce is None:
        entry["absent"] = "flash-colreduce is not installed"
        return
    from sra_fast.kernels.triton_kernels import backend

    given = tensors.attention(bench.sizes, bench.device, bench.dtype, entry["T"])
    q, k, v, query = given.q, given.k, given.v, given.asking
    groups = q.shape[1] // k.shape[1]
    many = k.repeat_interleave(groups, dim=1)
    last = q[:, :, -bench.sizes.rows :]
    exact = checking.exact_rows(q, k, v, query)
    fused = checking.fresh(lambda: span_attention(q, k, v, query, backend="triton"))
    checking.check(fused, query, exact, None, entry)
    rule = LogitRule(bench.sizes.width**-0.5)
    calls: dict[str, BenchCall] = {
        "columns": lambda: reduce(q, many, reduction="sum", is_causal=True),
        "rows' columns": lambda: reduce(last, many, reduction="sum", is_causal=True),
        "fused": lambda: span_attention(q, k, v, query, backend="triton"),
        "mass": lambda: span_mass(q, k, query, backend="triton"),
        "epilogue": lambda: backend.mass_of_lse(q, k, fused.lse, query, rule),
    }
    turns = bench.turns(calls, seconds)
    turns.required("fused", "mass", "epilogue")
    theirs = _sums(calls["rows' columns"], query.key_labels) if _ran(turns.samples) else None
    turns.record(entry)
    if theirs is None:
        entry["absent"] = "flash-colreduce does not run here"
        return
    off = checking.relative(theirs, exact.mass.sum(dim=0)[:, 0])
    entry["errors"]["column sums"] = off
    if not off <= SUM_TOLERANCE:
        entry["absent"] = f"flash-colreduce's sums are off by {off:.1e}: no ratio"
        return
    entry["columns/fused"] = turns.ratio("columns", "fused")
    entry["rows' columns/mass"] = turns.ratio("rows' columns", "mass")
    entry["rows' columns/epilogue"] = turns.ratio("rows' columns", "epilogue")


def _package() -> Callable[..., Any] | None:
    try:
        from flash_colreduce import flash_colreduce  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    reduce: Callable[..., Any] = flash_colreduce
    return reduce


def _ran(samples: Mapping[str, object]) -> bool:
    return "columns" in samples and "rows' columns" in samples


def _sums(columns: BenchCall, labels: Tensor) -> Tensor:
    """Return its columns ``[1, Hq, N]`` summed over the span's keys, ``[Hq]``."""
    found = columns()
    if not isinstance(found, Tensor):
        raise TypeError(f"column sums: expected a tensor, got {type(found).__name__}")
    return found[0][:, labels[0] == 1].double().sum(dim=1)
