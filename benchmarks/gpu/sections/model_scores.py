"""Measure ``sra_fast.score`` on a whole model, in turn with its plain forward pass by SDPA.

Times are the host's from call to result, as a user sees them. A time counts only after the masses
of rows, in every layer, were compared at that very length (:mod:`exact_scores`); that first call of
both is also the warm-up. Memory is the most that tensors took during the calls that are timed.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.harness import exact_scores, llama
from benchmarks.gpu.harness.bench import Bench, Entry, free_bytes
from benchmarks.gpu.harness.failures import describe, recover
from benchmarks.gpu.harness.places import HALF, MANY, ONE, PARTS_OF_A_SCORE
from benchmarks.gpu.harness.timing import BenchCall, TurnTimes
from benchmarks.gpu.sections.score_parts import count, split
from benchmarks.measuring import alternatives
from benchmarks.measuring.cases import Dtype, ModelCase, Shape
from sra_fast.scoring import score

TRIED = 2.0  # maps that need more than so many times the free memory are not even tried
LONG = 32768  # a length from here on may take half of the time that is left
LENGTH_SECONDS = 6.0  # for the rounds at a shorter length
CALLS = 4  # two calls of each: one that is compared, one that is timed


@dataclass(frozen=True)
class ModelUnderTest:
    """The model that is scored, and its shape."""

    shape: Shape
    model: Any


def run(bench: Bench) -> None:
    """Measure every length, then many replies, a long span, the parts of a score, and maps."""
    sizes = bench.sizes
    shape = llama.SHAPES[sizes.model]
    scored = ModelUnderTest(shape, llama.build(shape, bench.device, bench.dtype))

    def measure(what: Any) -> Any:
        return functools.partial(what, scored)

    bench.each([{"what": ONE, "T": tokens} for tokens in sizes.model_lengths],
               measure(_beside_sdpa))  # fmt: skip
    bench.each([{"what": what, "T": tokens} for what in (MANY, HALF)
                for tokens in sizes.scene_lengths], measure(_beside_sdpa))  # fmt: skip
    bench.each([{"what": PARTS_OF_A_SCORE, "T": tokens} for tokens in sizes.part_lengths],
               measure(_parts))  # fmt: skip
    bench.each([{"beside": "maps", "T": tokens} for tokens in sizes.eager_lengths],
               measure(_beside_maps))  # fmt: skip


def _beside_sdpa(scored: ModelUnderTest, bench: Bench, entry: Entry, seconds: float) -> None:
    if _out_of_time(scored, bench, entry, CALLS):
        return
    tokens, model = entry["T"], scored.model
    batch = _batch(scored, bench, entry)
    entry["rows"] = len(exact_scores.response_rows(batch["response_mask"][0]))
    sdpa = exact_scores.sdpa_masses(model, batch)
    found = score(model, batch, keep_rows=True)
    entry["self-check"] = found.checked
    entry["errors"] = exact_scores.compare(found, sdpa, bench.dtype)
    del sdpa, found
    recover(bench.device)
    calls: dict[str, BenchCall] = {
        "score": lambda: score(model, batch),
        "sdpa": llama.plain_forward(model, batch["input_ids"].to(bench.device)),
    }
    given = bench.left / 2 if tokens >= LONG else LENGTH_SECONDS
    turns = _watched_turns(bench, entry, calls, given)
    entry["score/sdpa time"] = turns.ratio("score", "sdpa")
    _memory_ratios(entry, "sdpa")
    if ceiling := bench.ceilings.get("gemm_tflops"):
        entry["floor_ms"] = llama.flops(scored.shape, tokens) / ceiling / 1e9
        entry["score/floor"] = entry["score_ms"] / entry["floor_ms"]


def _out_of_time(scored: ModelUnderTest, bench: Bench, entry: Entry, calls: int) -> bool:
    """Note in the entry if so many calls at its length would take longer than there is time.

    What they would take is told from a length measured before, by the operations.
    """
    for known in bench.entries:
        if "score_ms" in known:
            more = llama.flops(scored.shape, entry["T"]) / llama.flops(scored.shape, known["T"])
            slowest = max(known["score_ms"], known.get("sdpa_ms", 0.0)) / 1e3
            if (expected := calls * more * slowest) > bench.left:
                entry["skipped"] = f"out of time: wants {expected:.0f} s, {bench.left:.0f} s left"
                return True
            return False
    return False


def _batch(scored: ModelUnderTest, bench: Bench, entry: Entry) -> dict[str, Tensor]:
    replies = bench.sizes.replies if entry["what"] == MANY else 1
    half = entry["what"] == HALF
    return llama.batch(scored.shape, bench.sizes, entry["T"], replies=replies, half=half)


def _parts(scored: ModelUnderTest, bench: Bench, entry: Entry, seconds: float) -> None:
    """Split a score into parts, with one reply and with many; count launches where it is short.

    Their number does not depend on the length.
    """
    counted = entry["T"] < LONG
    if _out_of_time(scored, bench, entry, 6 if counted else 2):
        return
    one, many = (
        llama.batch(scored.shape, bench.sizes, entry["T"], replies=replies)
        for replies in (1, bench.sizes.replies)
    )
    split(scored.model, one, many, bench, entry)
    if counted and bench.device.type == "cuda":
        count(scored.model, one, many, bench, entry)


def _beside_maps(scored: ModelUnderTest, bench: Bench, entry: Entry, seconds: float) -> None:
    tokens, model = entry["T"], scored.model
    width: Dtype = "bfloat16" if bench.dtype == torch.bfloat16 else "float32"
    needed = alternatives.all_maps_bytes(ModelCase(scored.shape, tokens, width))
    free = free_bytes(bench.device)
    entry["maps_gb"], entry["free_gb"] = needed / 1e9, free / 1e9
    if any(one.get("beside") == "maps" and "absent" in one for one in bench.entries[:-1]):
        entry["absent"] = "a shorter length did not fit"
        return
    if needed > TRIED * free:
        entry["absent"] = f"does not fit: needs {needed / 1e9:.0f} GB, {free / 1e9:.0f} GB free"
        return
    batch = llama.batch(scored.shape, bench.sizes, tokens)
    on_device = {name: tensor.to(bench.device) for name, tensor in batch.items()}
    on_device["response_mask"] = on_device["response_mask"].bool()
    calls: dict[str, BenchCall] = {
        "maps": lambda: alternatives.whole_maps(model, on_device),
        "score": lambda: score(model, batch),
    }
    try:
        calls["maps"]()
    except (torch.cuda.OutOfMemoryError, MemoryError) as error:
        entry["absent"] = f"dies: {describe(error)}"
        return
    turns = _watched_turns(bench, entry, calls, min(seconds / 2, LENGTH_SECONDS))
    entry["score/maps time"] = turns.ratio("score", "maps")
    _memory_ratios(entry, "maps")


def _watched_turns(
    bench: Bench, entry: Entry, calls: Mapping[str, BenchCall], seconds: float
) -> TurnTimes:
    memory = llama.PeakMemory(bench.device)
    watched = {name: memory.watched(name, call) for name, call in calls.items()}
    turns = bench.turns(watched, seconds, least=1, long=True)
    turns.record(entry)
    entry["rounds"] = entry["times"]["score"]["rounds"]
    entry |= memory.fields()
    return turns


def _memory_ratios(entry: Entry, other: str) -> None:
    if f"{other}_peak_gb" not in entry:
        return
    entry[f"score/{other} memory"] = entry["score_peak_gb"] / entry[f"{other}_peak_gb"]
    entry[f"score/{other} memory in all"] = entry["score_total_gb"] / entry[f"{other}_total_gb"]
