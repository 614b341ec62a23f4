"""Time the profile of all keys, beside the PyPI package ``flash-colreduce`` where that can do it.

The package sums the attention map over queries, per key. Our masses, summed over the rows asked
for, are the sum of its columns over the span's keys if it is given those rows alone; given all
queries it answers another question at the cost of all. A profile is the mean of the same columns
over these rows, for every key. The package wants as many key heads as query heads,
so these are repeated beforehand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.harness import checking, tensors
from benchmarks.gpu.harness.bench import Bench, Entry
from benchmarks.gpu.harness.timing import BenchCall
from benchmarks.gpu.sections import profile_gradients
from sra_fast import span_attention, span_mass
from sra_fast.kernels.contract import LogitRule, ProfileQuery

SUM_TOLERANCE = 2e-2  # the package's sums are rounded to the inputs' dtype
PROFILE_TOLERANCE = 2e-3


def run(bench: Bench) -> None:
    """Time our profile and its gradient beside the package's column sums, if it is installed."""
    bench.each([{"T": tokens} for tokens in bench.sizes.column_sums], _measure)
    profile_gradients.run(bench)


@torch.no_grad()
def _measure(bench: Bench, entry: Entry, seconds: float) -> None:
    from sra_fast.kernels.triton_kernels import backend

    given = tensors.attention(bench.sizes, bench.device, bench.dtype, entry["T"])
    q, k, v, query = given.q, given.k, given.v, given.asking
    reduce = _package()
    groups = q.shape[1] // k.shape[1]
    many = k.repeat_interleave(groups, dim=1)
    last = q[:, :, -bench.sizes.rows :]
    exact = checking.exact_rows(q, k, v, query)
    fused = checking.fresh(lambda: span_attention(q, k, v, query, backend="triton"))
    checking.check(fused, query, exact, entry)
    rule = LogitRule(bench.sizes.width**-0.5)
    one_group = torch.zeros(len(query.rows), dtype=torch.int32, device=q.device)
    asked = replace(query, profile=ProfileQuery(one_group, 1))
    m = q.shape[2]
    of_rows = fused.lse[query.rows // m, :, query.rows % m]
    profile = backend.profile_of_rows(q, k, of_rows, asked, rule)
    wanted = exact.mass.mean(dim=0)[:, 0]
    entry["errors"]["profile"] = off = checking.relative(_on(profile, query.key_labels), wanted)
    if not off <= PROFILE_TOLERANCE:
        raise checking.WrongResultError(f"the profile is off by {off:.1e}")
    theirs: dict[str, BenchCall] = {}
    if reduce is not None:
        theirs = {
            "columns": lambda: reduce(q, many, reduction="sum", is_causal=True),
            "rows' columns": lambda: reduce(last, many, reduction="sum", is_causal=True),
        }
    calls: dict[str, BenchCall] = {
        **theirs,
        "profile": lambda: backend.profile_of_rows(q, k, of_rows, asked, rule),
        "fused": lambda: span_attention(q, k, v, query, backend="triton"),
        "mass": lambda: span_mass(q, k, query, backend="triton"),
        "epilogue": lambda: backend.mass_of_lse(q, k, fused.lse, query, rule),
    }
    turns = bench.turns(calls, seconds)
    turns.required("fused", "mass", "epilogue", "profile")
    ran = _ran(turns.samples)
    sums = _on(calls["rows' columns"](), query.key_labels) if ran else None
    turns.record(entry)
    if sums is None:
        why = "is not installed" if reduce is None else "does not run here"
        entry["absent"] = f"flash-colreduce {why}"
        return
    off = checking.relative(sums, exact.mass.sum(dim=0)[:, 0])
    entry["errors"]["column sums"] = off
    if not off <= SUM_TOLERANCE:
        entry["absent"] = f"flash-colreduce's sums are off by {off:.1e}: no ratio"
        return
    entry["columns/fused"] = turns.ratio("columns", "fused")
    entry["rows' columns/mass"] = turns.ratio("rows' columns", "mass")
    entry["rows' columns/profile"] = turns.ratio("rows' columns", "profile")
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


def _on(columns: object, labels: Tensor) -> Tensor:
    """Return columns ``[1, Hq, N]`` summed over the span's keys, ``[Hq]``."""
    if not isinstance(columns, Tensor):
        raise TypeError(f"column sums: expected a tensor, got {type(columns).__name__}")
    return columns[0][:, labels[0] == 1].double().sum(dim=1)
