"""Measure how much faster two workers of ray score than one, with a thread each.

``OMP_NUM_THREADS=1 python -m benchmarks.pipeline.ray_speed --model smollm2`` measures and prints
it. Both ways take turns in one cluster of this machine, and their models are loaded before. The
results are compared first, bit for bit. Seconds of the clock are given beside the CPU seconds of
the workers, which tell a slow engine from a busy machine.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from statistics import median
from typing import Any

import psutil
import torch

from benchmarks.measuring import machine
from sra_fast.chat.encoding import encode_prompts
from sra_fast.files.models import find_model
from sra_fast.files.numbered_batches import Batch, batches
from sra_fast.files.ray_workers import RayWorkers
from sra_fast.files.scoring_options import ScoringOptions
from sra_fast.result import SRAResult

THREADS = "1"
CPUS = 8  # that ray counts with, so that all workers have room; how many there are is told apart


def conversations(count: int) -> list[dict[str, Any]]:
    """Return short conversations, each with two replies."""
    return [
        {
            "id": str(number),
            "strategy": "Offer Hope",
            "messages": [
                {"role": "user", "content": f"Since day {number} I cannot sleep."},
                {"role": "assistant", "content": "That wears one out. It gets better with time."},
                {"role": "user", "content": "I do not see how."},
                {"role": "assistant", "content": f"You came through {number} days. Hope is near."},
            ],
        }
        for number in range(count)
    ]


def cpu_seconds() -> float:
    """Return the CPU seconds that all workers of this process have taken so far."""
    total = 0.0
    for process in psutil.Process().children(recursive=True):
        if any("ray::RayWorker" in word for word in process.cmdline()):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def same(one: dict[int, SRAResult], other: dict[int, SRAResult]) -> bool:
    """Tell whether two ways gave the same results, bit for bit."""
    return one.keys() == other.keys() and all(
        torch.equal(one[number].mass, other[number].mass)
        and torch.equal(one[number].sra, other[number].sra)
        for number in one
    )


def measure(model: str, numbered: dict[int, Batch], rounds: int, tokens: int) -> dict[str, Any]:
    """Measure one and two workers; they take turns, and so does who begins."""
    options = ScoringOptions(batch_tokens=tokens, device="cpu")
    clock: dict[int, list[float]] = {1: [], 2: []}
    cpu: dict[int, list[float]] = {1: [], 2: []}
    equal = True
    with RayWorkers(model, options, 1) as one, RayWorkers(model, options, 2) as two:
        ways = {1: one, 2: two}
        for workers in ways.values():
            workers.limits()
        for turn in range(rounds + 1):
            found: dict[int, dict[int, SRAResult]] = {}
            for count in sorted(ways, reverse=bool(turn % 2)):
                began, spent = time.perf_counter(), cpu_seconds()
                found[count] = dict(ways[count].score(numbered))
                if turn:  # the first round checks the models and is not counted
                    clock[count].append(time.perf_counter() - began)
                    cpu[count].append(cpu_seconds() - spent)
            equal = equal and same(found[1], found[2])
    return {
        "same": equal,
        "seconds": {count: median(times) for count, times in clock.items()},
        "cpu_seconds": {count: median(times) for count, times in cpu.items()},
        "speed_up": median(a / b for a, b in zip(clock[1], clock[2], strict=True)),
        "cpu_ratio": median(b / a for a, b in zip(cpu[1], cpu[2], strict=True)),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status is 1 if the results differ."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pipeline.ray_speed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", default="smollm2", help="The name or the folder of the model.")
    parser.add_argument(
        "--conversations", type=int, default=24, help="The number of conversations to score."
    )
    parser.add_argument("--rounds", type=int, default=3, help="How often each way is measured.")
    parser.add_argument(
        "--batch-tokens", type=int, default=512, help="The most tokens of one forward pass."
    )
    given = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = THREADS  # read by the workers when they start
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

    import ray

    prompts = encode_prompts(
        find_model(given.model).tokenizer(), conversations(given.conversations)
    )
    numbered: dict[int, Batch] = dict(enumerate(batches(prompts, given.batch_tokens)))
    mine = not ray.is_initialized()
    if mine:
        ray.init(
            address="local",
            num_cpus=CPUS,
            include_dashboard=False,
            logging_level="ERROR",
            log_to_driver=False,
        )
    try:
        load = os.getloadavg()[0]
        measured = measure(given.model, numbered, given.rounds, given.batch_tokens)
    finally:
        if mine:
            ray.shutdown()
    record = {
        "machine": machine.facts(),
        "load_before": load,
        "batches": len(numbered),
        "tokens": sum(len(prompt.input_ids) for prompt in prompts),
        "rounds": given.rounds,
        **measured,
    }
    print(json.dumps(record, indent=2))
    return 0 if measured["same"] else 1


if __name__ == "__main__":
    sys.exit(main())
