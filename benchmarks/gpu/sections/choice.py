"""Find the backend that ``auto`` should take on this card, by kind of work: right and fastest.

The kinds are those of ``sra_fast.kernels.dispatch``: attention over a prompt with mass, the same
forward and backward with a gradient of the mass, and a decoding step.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from benchmarks.gpu.harness import checking, tensors
from benchmarks.gpu.harness.bench import Bench, Entry
from benchmarks.gpu.harness.failures import describe, recover
from benchmarks.gpu.harness.timing import Call
from benchmarks.gpu.sections.decoding import fitting_keys
from benchmarks.gpu.sections.gradients import leaves
from sra_fast import SpanAttention, span_attention
from sra_fast.kernels.dispatch import card

ComparedBackend = Literal["lse", "triton"]
BACKENDS: tuple[ComparedBackend, ...] = ("lse", "triton")


def run(bench: Bench) -> None:
    """Measure both backends at every kind of work."""
    sizes, name = bench.sizes, card(bench.device)
    common = {"architecture": name}
    bench.each(
        [{"work": "prefill", "T": tokens, "B": 1} | common for tokens in sizes.choice_prefill]
        + [
            {"work": "decode", "T": fitting_keys(bench, batch), "B": batch} | common
            for batch in sizes.decode_batches
        ],
        _measure_forward,
    )
    bench.each(
        [{"work": "mass_grad", "T": tokens, "B": 1} | common for tokens in sizes.choice_training],
        _measure_training,
    )


@torch.no_grad()
def _measure_forward(bench: Bench, entry: Entry, seconds: float) -> None:
    decode = entry["work"] == "decode"
    given = tensors.attention(
        bench.sizes,
        bench.device,
        bench.dtype,
        entry["T"],
        batch=entry["B"],
        queries=1 if decode else None,
        layout="cache" if decode else "model",
    )

    def attend(backend: ComparedBackend) -> SpanAttention:
        return span_attention(given.q, given.k, given.v, given.asking, backend=backend)

    exact = checking.exact_rows(given.q, given.k, given.v, given.asking)
    calls: dict[str, Call] = {}
    for backend in BACKENDS:
        call = functools.partial(attend, backend)
        try:
            checking.check(checking.fresh(call), given.asking, exact, None, {})
            calls[backend] = call
        except Exception as error:  # the other backend may serve
            entry.setdefault("unfit", {})[backend] = describe(error)
        recover(bench.device)
    _time(bench, entry, calls, seconds)


def _measure_training(bench: Bench, entry: Entry, seconds: float) -> None:
    given = leaves(bench, entry["T"])

    def step(backend: ComparedBackend) -> Sequence[Tensor | None]:
        gradients: Sequence[Tensor | None] = given.backward(backend, mass=True)()
        return gradients

    calls: dict[str, Call] = {}
    found: dict[str, Sequence[Tensor | None]] = {}
    for backend in BACKENDS:
        try:
            found[backend] = step(backend)
            calls[backend] = functools.partial(step, backend)
        except Exception as error:  # the other backend may serve
            entry.setdefault("unfit", {})[backend] = describe(error)
        recover(bench.device)
    if len(found) == len(BACKENDS):
        allowed = checking.tolerance(None, bench.dtype)
        for mine, theirs in zip(found["triton"], found["lse"], strict=True):
            if mine is not None and theirs is not None:
                off = checking.relative(mine, theirs)
                checking.require({"gradients of the two": off}, {"gradients of the two": allowed})
    found.clear()
    _time(bench, entry, calls, seconds)


def _time(bench: Bench, entry: Entry, calls: dict[str, Call], seconds: float) -> None:
    turns = bench.turns(calls, seconds)
    turns.record(entry)
    for name, reason in turns.failed.items():
        entry.setdefault("unfit", {})[name] = reason
    if not turns.samples:
        raise RuntimeError("neither backend ran")
    entry["triton/lse"] = turns.ratio("triton", "lse")
    entry["fastest"] = min(turns.samples, key=lambda name: turns.seconds(name) or 0.0)
