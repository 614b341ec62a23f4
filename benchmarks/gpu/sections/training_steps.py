"""Measure training steps of LoRA on a whole model: unwatched, with the callback, with SRA as loss.

Times are the host's, from the end of a step to that of the next. Memory is the most that tensors
took during a training, above the model with its adapter, and in all: the latter says on which cards
it fits.
"""

from __future__ import annotations

import functools
import time
from typing import Any

import torch

from benchmarks.finetuning.steps import Stepped, Training, TrainingWay, alternate, ratios
from benchmarks.gpu.harness import checking, llama
from benchmarks.gpu.harness.bench import Bench, Entry
from benchmarks.gpu.harness.failures import recover

WAYS: tuple[TrainingWay, ...] = ("plain", "callback", "regulariser")
STEPS = 2  # steps that a way takes in each round; the first is not timed
LOSS_TOLERANCE = 2e-3  # relative, in bfloat16, because the ways attend by different kernels
SRA_TOLERANCE = 1e-3  # relative, between the two ways that measure SRA


# With checkpointing each layer runs forward twice. The frozen weights need no gradients, so
# backward takes as many products again; attention takes five there where forward has two.
PRODUCT_PASSES, ATTENTION_PASSES = 3.0, 4.5


class WatchedTraining(Training):
    """A training of which the peak memory of every way is kept."""

    def __init__(self, model: Any, batch: Any, rank: int, memory: llama.PeakMemory) -> None:
        super().__init__(model, batch, rank, checkpointing=True)
        self._memory = memory

    def run(self, way: TrainingWay, steps: int) -> Stepped:
        """Train this many steps in one of the ways, under watch."""
        recover(next(self._model.parameters()).device)  # of what the way before has left
        done: Stepped = self._memory.watched(way, functools.partial(super().run, way, steps))()
        return done


def run(bench: Bench) -> None:
    """Measure every length, for as many rounds as there is time."""
    shape = llama.SHAPES[bench.sizes.training]
    model = llama.build(shape, bench.device, bench.dtype)

    def measure(bench: Bench, entry: Entry, seconds: float) -> None:
        batch = llama.batch(shape, bench.sizes, entry["T"])
        batch["response_mask"] = batch["response_mask"].bool()
        memory = llama.PeakMemory(bench.device)
        training = WatchedTraining(model, batch, bench.sizes.rank, memory)
        try:
            if len(bench.entries) == 1:  # what is allocated or compiled once counts for no way
                for way in WAYS:
                    training.run(way, STEPS)
            _measure(training, bench, entry, time.monotonic() + seconds)
        finally:
            training.unload()
        entry |= memory.fields()
        if ceiling := bench.ceilings.get("gemm_tflops"):
            passes = {"products": PRODUCT_PASSES, "attention": ATTENTION_PASSES}
            entry["floor_s"] = llama.flops(shape, entry["T"], **passes) / ceiling / 1e12
            entry["plain/floor"] = entry["plain_s"] / entry["floor_s"]
        for way in WAYS[1:]:
            if f"{way}_peak_gb" in entry:
                entry[f"{way}/plain memory"] = entry[f"{way}_peak_gb"] / entry["plain_peak_gb"]

    bench.each([{"T": tokens} for tokens in bench.sizes.training_lengths], measure)


def _measure(training: Training, bench: Bench, entry: Entry, ends: float) -> None:
    done = alternate(
        training, WAYS, bench.sizes.rounds, STEPS, goes_on=lambda: time.monotonic() < ends
    )
    loss = {way: turns[-1].loss for way, turns in done.items()}
    sra = {way: turns[-1].sra for way, turns in done.items() if turns[-1].sra is not None}
    entry["loss"], entry["sra"] = loss, sra
    errors = {
        "loss": max(abs(one / loss["plain"] - 1) for one in loss.values()),
        "SRA of the two ways": abs(sra["callback"] / sra["regulariser"] - 1),
    }
    entry["errors"] = errors
    checking.require(errors, {"loss": LOSS_TOLERANCE, "SRA of the two ways": SRA_TOLERANCE})
    entry["rounds"] = len(done["plain"])
    for way, turns in done.items():
        times = [second for turn in turns for second in turn.seconds]
        entry[f"{way}_s"] = float(torch.tensor(times).median())
    for way, ratio in ratios(done).items():
        if way != "plain":
            entry[f"{way}/plain time"] = ratio
