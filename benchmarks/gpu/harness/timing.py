"""Time calls that take turns, A B C A B C …, so that what slows the card slows them all.

On a GPU every call stands between two events, and before it a copy of gigabytes: the copy empties
the L2 cache, and while it runs the host enqueues the call, so that what is measured is the card's
work and not Python's. A ratio is the median over the rounds' ratios. Whole models, and
everything on a CPU, are timed by the host's clock.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.harness.failures import describe, recover

BenchCall = Callable[[], Any]

WARM_UPS = 2
LEAD_BYTES = 2 * 2**30


@dataclass(frozen=True)
class Sample:
    """One call's time, and how long the host took to enqueue it, both in seconds."""

    seconds: float
    host: float


@dataclass(frozen=True)
class TurnTimes:
    """The times of calls that took turns.

    Attributes:
        samples: the samples of each call that ran, round by round.
        failed: the reason for each call that did not run.
    """

    samples: Mapping[str, Sequence[Sample]]
    failed: Mapping[str, str]

    def seconds(self, name: str) -> float | None:
        """Return the median time of a call, or None if it failed."""
        if name not in self.samples:
            return None
        return median(sample.seconds for sample in self.samples[name])

    def ratio(self, name: str, other: str) -> float | None:
        """Return ``name``'s time divided by ``other``'s, the median over the rounds."""
        if name not in self.samples or other not in self.samples:
            return None
        pairs = zip(self.samples[name], self.samples[other], strict=True)
        return median(mine.seconds / theirs.seconds for mine, theirs in pairs)

    def required(self, *names: str) -> None:
        """Raise ``RuntimeError`` if one of these calls failed."""
        for name in names:
            if name in self.failed:
                raise RuntimeError(f"{name}: {self.failed[name]}")

    def record(self, entry: dict[str, Any]) -> None:
        """Write the median times, their spread, and the failures into an entry."""
        entry["times"] = {}
        for name, samples in self.samples.items():
            times = [sample.seconds * 1e3 for sample in samples]
            low, _, high = quantiles(times, n=4) if len(times) > 1 else times * 3
            entry[f"{name}_ms"] = median(times)
            entry["times"][name] = {
                "median_ms": median(times),
                "low_quartile_ms": low,
                "high_quartile_ms": high,
                "rounds": len(times),
                "host_ms": median(sample.host for sample in samples) * 1e3,
            }
        if self.failed:
            entry["failed"] = dict(self.failed)


def take_turns(
    calls: Mapping[str, BenchCall],
    device: torch.device,
    seconds: float,
    *,
    most: int,
    least: int = 3,
    long: bool = False,
) -> TurnTimes:
    """Warm every call up, then time them in turn until ``seconds`` are over.

    Args:
        calls: the calls by name, in the order of their turns. One that fails in its warm-up is
            left out.
        device: the device that they run on.
        seconds: the time for the warm-up and all rounds; the round in which it runs out is the
            last one.
        most: the most rounds.
        least: the fewest rounds, whatever the time.
        long: whether to time by the host's clock and without a warm-up, for calls that were run
            before.
    """
    ends = time.monotonic() + seconds
    failed: dict[str, str] = {}
    samples: dict[str, list[Sample]] = {}
    for name, call in calls.items():
        try:
            for _ in range(0 if long else min(WARM_UPS, most)):
                call()
                synchronize(device)
            samples[name] = []
        except Exception as error:  # whatever went wrong, the other calls may run
            failed[name] = describe(error)
        if name in failed:  # here no traceback holds on to tensors any more
            recover(device)
    timed = _between_events if device.type == "cuda" and not long else _by_the_clock
    rounds = 0
    while samples and (rounds < min(least, most) or (rounds < most and time.monotonic() < ends)):
        for name in samples:
            samples[name].append(timed(calls[name], device))
        rounds += 1
    return TurnTimes(samples, failed)


def synchronize(device: torch.device) -> None:
    """Wait until the device has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _between_events(call: BenchCall, device: torch.device) -> Sample:
    source, target = _lead(device)
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    target.copy_(source)
    begin.record()
    start = time.perf_counter()
    call()
    host = time.perf_counter() - start
    end.record()
    end.synchronize()
    return Sample(begin.elapsed_time(end) / 1e3, host)


def _by_the_clock(call: BenchCall, device: torch.device) -> Sample:
    synchronize(device)
    start = time.perf_counter()
    call()
    host = time.perf_counter() - start
    synchronize(device)
    return Sample(time.perf_counter() - start, host)


@functools.cache
def _lead(device: torch.device) -> tuple[Tensor, Tensor]:
    total = torch.cuda.get_device_properties(device).total_memory
    numbers = min(LEAD_BYTES, total // 32) // 2
    source = torch.randn(numbers, device=device, dtype=torch.bfloat16)
    return source, torch.empty_like(source)
