"""Measure the peak memory of a call, above what the process held before it.

The kernel's high-water mark (``VmHWM``) is set back before the call by writing 5 to
``/proc/self/clear_refs``; where that is not allowed the mark may stem from building a model, which
in float32 is no more than the model itself. On other systems than Linux ``ru_maxrss`` stands in for
both the mark and the present size.

glibc keeps freed blocks below a threshold that moves between 128 KiB and 32 MiB with what was freed
before; with that the same call was seen to peak anywhere between 234 and 259 MB. So the threshold
is fixed at 1 MiB from the first measurement on: a freed tensor leaves at once, the peak is what is
held at one time, and repeats agree within 1 %.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

_M_MMAP_THRESHOLD = -3  # the constant of glibc's malloc.h

_Result = TypeVar("_Result")


def with_peak(call: Callable[[], _Result]) -> tuple[int, _Result]:
    """Return the bytes that a call took at its peak, and what it returned.

    The figure means nothing unless the process is a fresh one.
    """
    give_freed_tensors_back()
    _reset_peak()
    loaded = _resident_bytes()
    result = call()
    return max(_peak_bytes() - loaded, 0), result


def give_freed_tensors_back() -> None:
    """Return freed memory to the system: all of it now, and later each block over a MiB."""
    gc.collect()
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # other C libraries have no such calls
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
