"""Measure every provider of attention with a logsumexp, in turn with PyTorch's own attention.

PyTorch's attention gives no logsumexp and no mass, and knows neither windows nor softcaps without a
mask; its causal call of the same tensors (one batch row per packed sequence) is what times are
divided by. TFLOP/s count the pairs that a form leaves.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch

from benchmarks.gpu.harness import tensors
from benchmarks.gpu.harness.bench import Bench, Entry
from benchmarks.gpu.harness.opponents import SDPA, pytorch, refuse_wrong, usable
from benchmarks.gpu.harness.timing import BenchCall
from sra_fast.kernels.providers import PROVIDERS

SLOW = ("flex", "blocks")
"""Providers that are compiled for many seconds, or take many launches: they come last."""

SLOW_LENGTH = 16384  # slow providers are measured up to this length


def run(bench: Bench) -> None:
    """Measure all providers but the slow ones, at every width, form and length."""
    sizes = bench.sizes
    places: list[Entry] = [
        {"form": form, "D": width, "T": tokens}
        for width in sizes.widths
        for tokens in sizes.provider_lengths
        for form in sizes.forms
    ]
    names = [name for name in PROVIDERS if name not in SLOW]
    bench.each(places, functools.partial(_measure, names))


def run_slow(bench: Bench) -> None:
    """Measure the slow providers at one width and length, the forms only they may serve first."""
    sizes = bench.sizes
    tokens = max(t for t in sizes.provider_lengths if t <= SLOW_LENGTH)
    places: list[Entry] = [
        {"form": form, "D": sizes.widths[0], "T": tokens} for form in reversed(sizes.forms)
    ]
    bench.each(places, functools.partial(_measure, SLOW))


@torch.no_grad()
def _measure(names: Sequence[str], bench: Bench, entry: Entry, seconds: float) -> None:
    sizes, form, width, tokens = bench.sizes, entry["form"], entry["D"], entry["T"]
    sequences = sizes.sequences if form == "packed" else 1
    given = tensors.attention(
        sizes, bench.device, bench.dtype, tokens, width=width, sequences=sequences
    )
    rule = tensors.rule_of(sizes, form, width)
    ours = usable(given, rule, bench, entry, names)
    calls: dict[str, BenchCall] = {SDPA: pytorch(given, sequences), **ours}
    turns = bench.turns(calls, seconds, least=2)
    turns.required(*calls)
    turns.record(entry)
    per_pair = 4.0 * width * sizes.heads / 1e12
    for name in calls:
        window = None if name == SDPA else rule.window
        work = per_pair * tensors.pairs(tokens, sequences, window)
        entry[f"{name}_tflops"] = work / (turns.seconds(name) or 0.0)
    for name in ours:
        entry[f"{name}/sdpa"] = turns.ratio(name, SDPA)
    if ours:
        entry["fastest"] = min(ours, key=lambda name: turns.seconds(name) or 0.0)
        entry["fastest/sdpa"] = entry[f"{entry['fastest']}/sdpa"]
    refuse_wrong(entry)
