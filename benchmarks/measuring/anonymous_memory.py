"""Measure the peak of a process's anonymous memory during a call.

Anonymous memory (``RssAnon``) is what the system cannot drop: all but the pages of mapped files.
The kernel keeps no high-water mark of it, so a thread reads it every few milliseconds.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from benchmarks.measuring.peak_memory import give_freed_tensors_back

_SECONDS = 0.002

_Result = TypeVar("_Result")


def with_anonymous_peak(call: Callable[[], _Result]) -> tuple[int, _Result]:
    """Return the bytes of anonymous memory that a call took at its peak, and what it returned.

    The figure means nothing unless the process is a fresh one. Linux only.
    """
    give_freed_tensors_back()
    before = _anonymous_bytes()
    peak, ended = before, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(_SECONDS):
            peak = max(peak, _anonymous_bytes())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        result = call()
    finally:
        ended.set()
        watcher.join()
    return peak - before, result


def _anonymous_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no RssAnon; this measurement needs Linux 4.5 or newer")
