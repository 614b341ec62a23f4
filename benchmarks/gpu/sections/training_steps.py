"""Measure training steps of LoRA on a whole model: unwatched, with the callback, with SRA as loss.

Times are the host's, from the end of a step to that of the next. Memory is the most that tensors
took during a training, above the model with its adapter, and in all: the latter says on which cards
it fits.
"""

from __future__ import annotations

import time
from typing import Any

import torch

from benchmarks.finetuning.steps import Training, TrainingWay, alternate, ratios
from benchmarks.gpu.harness import llama
from benchmarks.gpu.harness.bench import Bench, Entry
from benchmarks.gpu.harness.failures import WrongResultError, recover

WAYS: tuple[TrainingWay, ...] = ("plain", "callback", "regulariser")
STEPS = 2  # steps that a way takes in each round; the first is not timed
LOSS_TOLERANCE = 2e-3  # relative, in bfloat16, because the ways attend by different kernels
SRA_TOLERANCE = 1e-3  # relative, between the two ways that measure SRA


def run(bench: Bench) -> None:
    """Measure every length, for as many rounds as there is time."""
    shape = llama.SHAPES[bench.sizes.training]
    model = llama.build(shape, bench.device, bench.dtype)

    def measure(bench: Bench, entry: Entry, seconds: float) -> None:
        batch = llama.batch(shape, bench.sizes, entry["T"])
        training = Training(model, batch, bench.sizes.rank, checkpointing=True)
        try:
            _measure(training, bench, entry, time.monotonic() + seconds)
        finally:
            training.unload()

    bench.each([{"T": tokens} for tokens in bench.sizes.training_lengths], measure)


def _measure(training: Training, bench: Bench, entry: Entry, ends: float) -> None:
    training.run("plain", STEPS)  # what is allocated or compiled once counts for no way
    for way in WAYS:  # this is also the warm-up of each way
        entry |= _memory(training, way, bench.device)
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
    if errors["loss"] > LOSS_TOLERANCE or errors["SRA of the two ways"] > SRA_TOLERANCE:
        raise WrongResultError(f"wrong: losses {loss}, SRA {sra}")
    entry["rounds"] = len(done["plain"])
    for way, turns in done.items():
        times = [second for turn in turns for second in turn.seconds]
        entry[f"{way}_s"] = float(torch.tensor(times).median())
    for way, ratio in ratios(done).items():
        if way != "plain":
            entry[f"{way}/plain time"] = ratio
            if "plain_peak_gb" in entry:
                entry[f"{way}/plain memory"] = entry[f"{way}_peak_gb"] / entry["plain_peak_gb"]


def _memory(training: Training, way: TrainingWay, device: torch.device) -> dict[str, Any]:
    if device.type != "cuda":
        training.run(way, STEPS)
        return {}
    recover(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    training.run(way, STEPS)
    most = torch.cuda.max_memory_allocated(device)
    return {f"{way}_peak_gb": (most - before) / 1e9, f"{way}_total_gb": most / 1e9}
