"""Measure attention over a whole prompt: what span masses cost, and how fast it is at all."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from benchmarks.gpu.harness import checking, tensors
from benchmarks.gpu.harness.bench import Bench, Entry
from benchmarks.gpu.harness.failures import describe
from benchmarks.gpu.harness.timing import Call
from sra_fast import SpanAttention, SpanQuery, span_attention
from sra_fast.kernels.contract import LogitRule
from sra_fast.kernels.providers import PROVIDERS, call_of


def run_fused(bench: Bench) -> None:
    """Measure the fused kernel with rows asked for and without, beside PyTorch's kernels."""
    bench.each([{"T": tokens} for tokens in bench.sizes.prefill], _measure_fused)


def run_lse(bench: Bench) -> None:
    """Measure backend ``lse``, flash attention and epilogue, with rows asked for and without."""
    bench.each([{"T": tokens} for tokens in bench.sizes.prefill], _measure_lse)


@torch.no_grad()
def _measure_fused(bench: Bench, entry: Entry, seconds: float) -> None:
    given, on, off = _given(bench, entry["T"], "triton")
    theirs, entry["failed"] = _pytorch(given)
    _check(given, on, theirs.get("flash"), entry)
    calls = {"on": on, "off": off, "off_again": off, **theirs}
    turns = bench.turns(calls, seconds)
    turns.required("on", "off")
    failed = entry["failed"] | dict(turns.failed)
    turns.record(entry)
    entry["failed"] = failed
    entry["on/off"] = turns.ratio("on", "off")
    entry["off/off"] = turns.ratio("off_again", "off")
    work = tensors.flops(bench.sizes, entry["T"]) / 1e12
    for name in ("on", "off", "flash", "cudnn"):
        took = turns.seconds(name)
        entry[f"{name}_tflops"] = None if took is None else work / took
    entry["speed/flash"] = turns.ratio("flash", "on")
    ceiling = bench.ceilings.get("gemm_tflops")
    entry["of_ceiling"] = entry["on_tflops"] / ceiling if ceiling else None


@torch.no_grad()
def _measure_lse(bench: Bench, entry: Entry, seconds: float) -> None:
    given, on, off = _given(bench, entry["T"], "lse")
    rule = LogitRule(bench.sizes.width**-0.5)
    reason = PROVIDERS["varlen"].serves(call_of(given.q, given.k, given.v, given.asking, rule))
    entry["kernel"] = "varlen flash" if reason is None else f"other: {reason}"
    theirs, _ = _pytorch(given)
    _check(given, on, theirs.get("flash"), entry)
    turns = bench.turns({"with": on, "without": off, "without_again": off}, seconds)
    turns.required("with", "without")
    turns.record(entry)
    entry["with/without"] = turns.ratio("with", "without")
    entry["without/without"] = turns.ratio("without_again", "without")


def _given(
    bench: Bench, tokens: int, backend: Literal["triton", "lse"]
) -> tuple[tensors.Attention, Call, Call]:
    given = tensors.attention(bench.sizes, bench.device, bench.dtype, tokens)

    def attend(query: SpanQuery) -> SpanAttention:
        return span_attention(given.q, given.k, given.v, query, backend=backend)

    return given, lambda: attend(given.asking), lambda: attend(given.silent)


def _pytorch(given: tensors.Attention) -> tuple[dict[str, Call], dict[str, str]]:
    """Return PyTorch's kernels by name, and the reason for each one that is missing."""
    calls: dict[str, Call] = {}
    failed: dict[str, str] = {}
    for name, kernel in {"flash": tensors.FLASH, "cudnn": tensors.CUDNN}.items():
        try:
            calls[name] = tensors.pytorch_attention(given.q, given.k, given.v, kernel)
        except RuntimeError as error:
            failed[name] = describe(error)
    return calls, failed


def _check(given: tensors.Attention, on: Call, flash: Call | None, entry: Entry) -> None:
    exact = checking.exact_rows(given.q, given.k, given.v, given.asking)
    plain: Tensor | None = None if flash is None else flash()
    checking.check(checking.fresh(on), given.asking, exact, plain, entry)
