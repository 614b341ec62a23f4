"""Tile sizes, warps and pipeline stages: one small table per architecture.

Chosen from registers and shared memory as the compiler reports them (``python -m
benchmarks.static_report``): the largest tiles that spill nothing. The rows of ``sm_80`` stay within
99 KB of shared memory, so that they serve its relatives with smaller multiprocessors too.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from sra_fast.kernels.triton_kernels.launch import block


class Kernel(Enum):
    """The kernels that have tiles to choose."""

    FORWARD = "forward"
    DECODE = "decode"
    EPILOGUE = "epilogue"
    DELTA = "delta"
    DK_DV = "dk_dv"
    DQ = "dq"


@dataclass(frozen=True)
class Configuration:
    """Tile of queries, tile of keys, warps of a program, stages of its loads."""

    block_m: int
    block_n: int
    warps: int
    stages: int

    def blocks(self) -> dict[str, int]:
        """The tile's compile-time arguments."""
        return {"BLOCK_M": self.block_m, "BLOCK_N": self.block_n}

    def options(self) -> dict[str, int]:
        """The compiler's options."""
        return {"num_warps": self.warps, "num_stages": self.stages}


# Architecture -> kernel -> (head width up to, bytes per number) -> configuration.
TABLE: dict[str, dict[Kernel, dict[tuple[int, int], Configuration]]] = {}

# Small, so that short tests cross every edge of a tile.
INTERPRETED = {kernel: Configuration(32, 16, 4, 1) for kernel in Kernel} | {
    Kernel.DK_DV: Configuration(16, 32, 4, 1)
}


def configuration(kernel: Kernel, q: Tensor, width: int) -> Configuration:
    """What ``kernel`` is launched with for tensors like q and heads of ``width``."""
    name = architecture(q.device)
    if name == "interpreter":
        return INTERPRETED[kernel]
    return TABLE[name][kernel][max(64, block(width)), q.element_size()]


@functools.cache
def architecture(device: torch.device) -> str:
    """The row of the table that serves ``device``."""
    if device.type != "cuda":
        return "interpreter"
    if torch.version.hip is not None:
        return "gfx942"
    major, _ = torch.cuda.get_device_capability(device)
    return {9: "sm_90", 10: "sm_100"}.get(major, "sm_80")
