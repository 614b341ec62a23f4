"""Measure time and peak memory of one alternative in a process of its own.

**Memory.** A process builds the model and calls the alternative once, with nothing warmed up. What
that call takes at its peak is the memory *above the loaded model*
(:mod:`benchmarks.measuring.peak_memory`).

**Time.** Another process, with unchanged settings of glibc, runs pairs of the alternative and
``score`` in turn: x d x d … A ratio is the median over the pairs' ratios, so that a machine that
slows down for a while slows both. Warm-up is one short prompt each. If a call with maps takes over
:data:`SLOW` seconds, there is one pair: the call that measured memory, and a call of ``score``
after it in the same process.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.measuring.alternatives import ALTERNATIVES, AlternativeAnswer
from benchmarks.measuring.cases import ModelCase, build_batch, build_model
from benchmarks.measuring.fresh_process import in_fresh_process
from benchmarks.measuring.peak_memory import with_peak

SLOW = 10.0  # seconds
WARM_UP_TOKENS = 512
OURS = "d"


@dataclass(frozen=True)
class TimedCall:
    """One call of an alternative: its time in seconds and what it computed.

    ``processor_seconds`` is the time that all threads of the process worked.
    """

    key: str
    seconds: float
    processor_seconds: float
    answer: AlternativeAnswer


@dataclass(frozen=True)
class Measured:
    """The measurements of one process.

    Attributes:
        peak_bytes: the peak memory of a call above the loaded model; None if the process measured
            time alone.
        first_peak_bytes: the same of the process's first call, which loads code and checks a model
            as no later call does; equal to ``peak_bytes`` where one call was measured.
        runs: every call but the warm-up.
        pairs: the pairs of the alternative's call and ``score``'s, in the order they ran.
    """

    peak_bytes: int | None
    first_peak_bytes: int | None
    runs: tuple[TimedCall, ...]
    pairs: tuple[tuple[TimedCall, TimedCall], ...] = ()

    def answers(self, key: str) -> list[AlternativeAnswer]:
        """Return every answer of one alternative."""
        return [run.answer for run in self.runs if run.key == key]


def memory_here(case: ModelCase, key: str) -> Measured:
    """Measure peak memory in this process, which must be a fresh one."""
    model, batch = build_model(case), build_batch(case)
    first_peak, first = with_peak(lambda: _timed(key, model, batch))
    if ALTERNATIVES[key].map_bytes(case) == 0:
        # A process's first call also loads code and compiles kernels, some MB once and for all.
        peak, second = with_peak(lambda: _timed(key, model, batch))
        return Measured(peak, first_peak, (first, second))
    if first.seconds < SLOW:
        return Measured(first_peak, first_peak, (first,))
    pair = first, _timed(OURS, model, batch)
    return Measured(first_peak, first_peak, pair, (pair,))


def pairs_here(case: ModelCase, key: str, count: int) -> Measured:
    """Time pairs of the alternative and ``score`` in turn, in this process."""
    model, batch = build_model(case), build_batch(case)
    short = build_batch(replace(case, tokens=min(case.tokens, WARM_UP_TOKENS)))
    for which in (key, OURS):
        _timed(which, model, short)
    pairs = tuple((_timed(key, model, batch), _timed(OURS, model, batch)) for _ in range(count))
    return Measured(None, None, tuple(run for pair in pairs for run in pair), pairs)


def memory_fresh(case: ModelCase, key: str) -> Measured:
    """Run :func:`memory_here` in a fresh process.

    Raises:
        ProcessFailedError: the process raised an error, or the system ended it.
    """
    measured: Measured = in_fresh_process(memory_here, case, key)
    return measured


def pairs_fresh(case: ModelCase, key: str, count: int) -> Measured:
    """Run :func:`pairs_here` in a fresh process.

    Raises:
        ProcessFailedError: the process raised an error, or the system ended it.
    """
    measured: Measured = in_fresh_process(pairs_here, case, key, count)
    return measured


def _timed(key: str, model: Any, batch: dict[str, Any]) -> TimedCall:
    start, worked = time.perf_counter(), time.process_time()
    answer = ALTERNATIVES[key].run(model, batch)
    worked = time.process_time() - worked
    return TimedCall(key, time.perf_counter() - start, worked, answer)
