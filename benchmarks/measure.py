"""Time and peak memory of one alternative in a process of its own.

**Memory.** A process builds the model, hands freed heap back to the system, notes its resident
memory, and calls the alternative once, with nothing warmed up. Its peak during the call, minus
what was noted, is the memory *above the loaded model*. The kernel's high-water mark (``VmHWM``) is
set back before the call by writing 5 to ``/proc/self/clear_refs``; where that is not allowed the
mark may stem from building the model, which in float32 is no more than the model itself. Away from
Linux ``ru_maxrss`` stands in for both.

glibc keeps freed blocks below a threshold that moves between 128 KiB and 32 MiB with what was freed
before; with that the same call was seen to peak anywhere between 234 and 259 MB. So the threshold
is held at 1 MiB for the memory: a freed tensor leaves at once, the peak is what is held at once,
and repeats agree within 1 %.

**Time.** Another process, with glibc's threshold as it is, runs alternating pairs of the
alternative and ``score``: x d x d … A ratio is the median over the pairs' ratios, so that a
machine that slows down for a while slows both. Warm-up is one short prompt each. Where a call with
maps takes over :data:`SLOW` seconds, the memory's call and one of ``score`` after it, in the same
process, are the one pair.

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
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.alternatives import ALTERNATIVES, Answer
from benchmarks.cases import Case, build_batch, build_model

SLOW = 10.0  # seconds
WARM_UP_TOKENS = 512
OURS = "d"
_M_MMAP_THRESHOLD = -3  # of glibc's malloc.h


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
        peak_bytes: peak of a call above the loaded model; None in a process for time.
        runs: every call that counts.
        pairs: of the alternative and ``score``, in the order they ran.
    """

    peak_bytes: int | None
    runs: tuple[Run, ...]
    pairs: tuple[tuple[Run, Run], ...] = ()

    def answers(self, key: str) -> list[Answer]:
        """Every answer of one alternative."""
        return [run.answer for run in self.runs if run.key == key]


class ProcessFailedError(RuntimeError):
    """A fresh process ended without a result."""


def memory_here(case: Case, key: str) -> Measured:
    """Peak memory, in this process: it means nothing unless that is a fresh one."""
    model, batch = build_model(case), build_batch(case)
    peak, first = _with_peak(key, model, batch)
    if ALTERNATIVES[key].map_bytes(case) == 0:
        # A process's first call also loads code and compiles kernels, some MB once and for all.
        peak, second = _with_peak(key, model, batch)
        return Measured(peak, (first, second))
    if first.seconds < SLOW:
        return Measured(peak, (first,))
    pair = first, _timed(OURS, model, batch)
    return Measured(peak, pair, (pair,))


def _with_peak(key: str, model: Any, batch: dict[str, Any]) -> tuple[int, Run]:
    _give_freed_tensors_back()
    _reset_peak()
    loaded = _resident_bytes()
    run = _timed(key, model, batch)
    return max(_peak_bytes() - loaded, 0), run


def pairs_here(case: Case, key: str, count: int) -> Measured:
    """Alternating pairs with ``score``, in this process."""
    model, batch = build_model(case), build_batch(case)
    short = build_batch(replace(case, tokens=min(case.tokens, WARM_UP_TOKENS)))
    for which in (key, OURS):
        _timed(which, model, short)
    pairs = tuple((_timed(key, model, batch), _timed(OURS, model, batch)) for _ in range(count))
    return Measured(None, tuple(run for pair in pairs for run in pair), pairs)


def memory_fresh(case: Case, key: str) -> Measured:
    """:func:`memory_here` in a fresh process.

    Raises:
        ProcessFailedError: it raised, or the system ended it.
    """
    measured: Measured = _in_fresh_process(memory_here, case, key)
    return measured


def pairs_fresh(case: Case, key: str, count: int) -> Measured:
    """:func:`pairs_here` in a fresh process; raises as :func:`memory_fresh`."""
    measured: Measured = _in_fresh_process(pairs_here, case, key, count)
    return measured


def _timed(key: str, model: Any, batch: dict[str, Any]) -> Run:
    start = time.perf_counter()
    answer = ALTERNATIVES[key].run(model, batch)
    return Run(key, time.perf_counter() - start, answer)


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


def _give_freed_tensors_back() -> None:
    """Those freed so far, and each one of over a MiB as it is freed."""
    gc.collect()
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # glibc only
            libc = ctypes.CDLL(None)
            libc.mallopt(_M_MMAP_THRESHOLD, 2**20)
            libc.malloc_trim(0)


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
