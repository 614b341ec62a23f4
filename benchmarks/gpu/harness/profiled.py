"""Watch one call by PyTorch's profiler: which kernels run, how often the host launches and waits.

The trace has a ``kernel`` event per kernel that ran on the card, ``cuda_runtime`` and
``cuda_driver`` events for what the host asked of it, and ``gpu_memcpy`` events with their bytes.
"""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.gpu.harness.timing import BenchCall, synchronize

TraceEvent = Mapping[str, Any]

CALL = "the call that is watched"
RUNTIME = ("cuda_runtime", "cuda_driver")
LAUNCH = "LaunchKernel"  # cudaLaunchKernel, cudaLaunchKernelExC, cuLaunchKernel, cuLaunchKernelEx
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")


@dataclass(frozen=True)
class HostWork:
    """The work of the host during a call.

    Attributes:
        launches: how many kernels it launched.
        syncs: how often it waited for the card.
        copies_to_host: how many copies went from the card to the host.
        bytes_to_host: how many bytes these were.
    """

    launches: int
    syncs: int
    copies_to_host: int
    bytes_to_host: int

    def fields(self, prefix: str) -> dict[str, int]:
        """Return the numbers as fields of an entry, ``{"PREFIX launches": …}``."""
        return {f"{prefix} {name.replace('_', ' ')}": n for name, n in asdict(self).items()}


def watch(call: BenchCall, device: torch.device) -> list[TraceEvent]:
    """Run a call once under the profiler, and return the events of its trace."""
    on_card = [ProfilerActivity.CUDA] if device.type == "cuda" else []
    synchronize(device)
    with profile(activities=[ProfilerActivity.CPU, *on_card]) as watched:
        with record_function(CALL):
            call()
        synchronize(device)
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder, "trace.json")
        watched.export_chrome_trace(str(trace))
        events: list[TraceEvent] = json.loads(trace.read_text("utf-8"))["traceEvents"]
    return events


def host_work(events: Sequence[TraceEvent]) -> HostWork:
    """Count what the host did inside the call; the profiler's own waiting is outside it."""
    inside = next(e for e in events if e.get("name") == CALL and e.get("cat") == "user_annotation")
    begin, end = inside["ts"], inside["ts"] + inside["dur"]
    asked = [
        event["name"]
        for event in events
        if event.get("cat") in RUNTIME and begin <= event["ts"] <= end
    ]
    to_host = [e for e in events if e.get("cat") == "gpu_memcpy" and "DtoH" in e["name"]]
    return HostWork(
        launches=sum(LAUNCH in name for name in asked),
        syncs=sum(name in WAITS for name in asked),
        copies_to_host=len(to_host),
        bytes_to_host=sum(int(event.get("args", {}).get("bytes", 0)) for event in to_host),
    )


def kernels(events: Sequence[TraceEvent], device: torch.device) -> list[str]:
    """Return the names of what ran, that which took longest first.

    On a card these are its kernels, on a CPU PyTorch's operators.
    """
    kind = "kernel" if device.type == "cuda" else "cpu_op"
    took: dict[str, float] = defaultdict(float)
    for event in events:
        if event.get("cat") == kind:
            took[event["name"]] += event.get("dur", 0.0)
    return sorted(took, key=lambda name: -took[name])
