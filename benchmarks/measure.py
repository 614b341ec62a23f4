"""Time and peak memory of one alternative in a process of its own.

**Memory.** The process builds the model, hands freed heap back to the system, notes its resident
memory, and calls the alternative once, with nothing warmed up. Its peak during the call, minus
what was noted, is the memory *above the loaded model*. The kernel's high-water mark (``VmHWM``) is
set back before the call by writing 5 to ``/proc/self/clear_refs``; where that is not allowed the
mark may stem from building the model, which in float32 is no more than the model itself. Away from
Linux ``ru_maxrss`` stands in for both.

**Time.** The same process goes on with alternating pairs, alternative and ``score``: x d x d … A
ratio is the median over the pairs' ratios, so that a machine that slows down for a while slows
both. A first call of over :data:`SLOW` seconds counts as the first of the pairs; a shorter one was
the warm-up.

Fresh processes are forked from a server that has imported the libraries and has never run a model.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import multiprocessing
import pickle
import resource
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.alternatives import ALTERNATIVES, Answer
from benchmarks.cases import Case, build_batch, build_model

SLOW = 2.0  # seconds
OURS = "d"


@dataclass(frozen=True)
class Run:
    """One call."""

    key: str
    seconds: float
    answer: Answer


@dataclass(frozen=True)
class Measured:
    """What one process found.

    Attributes:
        peak_bytes: peak of the first call above the loaded model.
        first: the first call.
        pairs: of the alternative and ``score``, in the order they ran.
    """

    peak_bytes: int
    first: Run
    pairs: tuple[tuple[Run, Run], ...] = ()

    def answers(self, key: str) -> list[Answer]:
        """Every answer of one alternative."""
        runs = [self.first, *(run for pair in self.pairs for run in pair)]
        return [run.answer for run in runs if run.key == key]


class ProcessFailedError(RuntimeError):
    """A fresh process ended without a result."""


def measure_here(case: Case, key: str, pairs: int = 0) -> Measured:
    """Measures in this process: peak memory means nothing unless it is a fresh one."""
    model, batch = build_model(case), build_batch(case)

    def timed(which: str) -> Run:
        start = time.perf_counter()
        answer = ALTERNATIVES[which].run(model, batch)
        return Run(which, time.perf_counter() - start, answer)

    _return_freed_memory()
    _reset_peak()
    loaded = _resident_bytes()
    first = timed(key)
    peak = max(_peak_bytes() - loaded, 0)
    if pairs == 0:
        return Measured(peak, first)
    if first.seconds > SLOW:
        done = [(first, timed(OURS))]
    else:
        timed(OURS)
        done = []
    while len(done) < pairs:
        done.append((timed(key), timed(OURS)))
    return Measured(peak, first, tuple(done))


def measure_fresh(case: Case, key: str, pairs: int = 0) -> Measured:
    """:func:`measure_here` in a fresh process.

    Raises:
        ProcessFailedError: it raised, or the system ended it.
    """
    measured: Measured = _in_fresh_process(measure_here, case, key, pairs)
    return measured


def _in_fresh_process(function: Callable[..., Any], *args: Any) -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.measure", "transformers.models.llama"])
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(theirs, function, args), daemon=True)
    process.start()
    theirs.close()
    try:
        ended_well, value = pickle.loads(ours.recv_bytes())
    except EOFError:
        process.join()
        raise ProcessFailedError(f"ended with exit status {process.exitcode}") from None
    process.join()
    if not ended_well:
        raise ProcessFailedError(value)
    return value


def _child(connection: Connection, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    with contextlib.suppress(
        OSError
    ):  # if memory runs out after all, this process is the one to go
        Path("/proc/self/oom_score_adj").write_text("1000")
    try:
        outcome = (True, function(*args))
    except Exception:
        outcome = (False, traceback.format_exc())
    # as bytes: torch would hand tensors over by shared memory, which ends with the process
    connection.send_bytes(pickle.dumps(outcome))


def _return_freed_memory() -> None:
    gc.collect()
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # glibc only
            ctypes.CDLL(None).malloc_trim(0)


def _reset_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _resident_bytes() -> int:
    return _status("VmRSS") or _ru_maxrss()


def _peak_bytes() -> int:
    return _status("VmHWM") or _ru_maxrss()


def _status(field: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(x.split()[1]) * 1024 for x in lines if x.startswith(f"{field}:")), None)


def _ru_maxrss() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
