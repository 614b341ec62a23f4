"""Describe the machine that the numbers were measured on, and estimate what fits there."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers

from sra_fast.files.provenance import commit

if TYPE_CHECKING:
    from benchmarks.measuring.alternatives import Alternative
    from benchmarks.measuring.cases import ModelCase

GIB = 2**30


def facts() -> dict[str, Any]:
    """Return CPU, cores, memory and versions, but nothing that names the machine or a folder."""
    return {
        "cpu": _cpuinfo("model name") or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB, 1),
        "bfloat16": has_bfloat16(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "commit": commit(),
    }


def has_bfloat16() -> bool:
    """Return whether the CPU itself can multiply bfloat16."""
    flags = (_cpuinfo("flags") or "").split()
    return "avx512_bf16" in flags or "amx_bf16" in flags


def bytes_needed(case: ModelCase, alternative: Alternative) -> int:
    """Estimate the memory of a process that runs the alternative, in bytes.

    The estimate is model, maps, and a GiB for the rest.
    """
    shape = case.shape
    attention = 2 * (shape.heads + shape.kv_heads) * shape.head_width * shape.hidden
    layer = attention + 3 * shape.hidden * shape.intermediate
    model = 4 * (shape.layers * layer + shape.vocabulary * shape.hidden)
    return model + alternative.map_bytes(case) + GIB


def available_bytes() -> int:
    """Return how many bytes the system and the container let a process take without swapping."""
    found = []
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            found.append(int(line.split()[1]) * 1024)
    limit, used = (_lines(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current"))
    if limit and used and limit[0].isdigit():
        found.append(int(limit[0]) - int(used[0]))
    return min(found, default=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2)


def _cpuinfo(field: str) -> str | None:
    lines = (line.partition(":") for line in _lines("/proc/cpuinfo"))
    return next((value.strip() for name, _, value in lines if name.strip() == field), None)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
