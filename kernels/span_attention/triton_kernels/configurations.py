"""List tile sizes, warps and pipeline stages in one small table per architecture.

They were chosen from what the compiler makes of them (``python -m benchmarks.static.report``): the
tiles with the fewest instructions per key in the loops that multiply, of those that spill nothing
there. What is spilled before or after these loops costs next to nothing. The tiles of ``sm_80``
stay within 99 KB of shared memory, so that they serve its relatives with smaller multiprocessors.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from enum import Enum

import torch
from torch import Tensor

from .launch import block


class Kernel(Enum):
    """The kernels that have tiles to choose."""

    FORWARD = "forward"
    FORWARD_WITH_SPANS = "forward with spans"
    DECODE = "decode"
    EPILOGUE = "epilogue"
    STEERING = "steering"
    DELTA = "delta"
    DK_DV = "dk_dv"
    DQ = "dq"
    ROW_DQ = "row_dq"
    ROW_DK = "row_dk"
    PROFILE = "profile"


@dataclass(frozen=True)
class Configuration:
    """The tile sizes and launch options of one kernel.

    Attributes:
        block_m: queries per tile.
        block_n: keys per tile.
        warps: warps per program.
        stages: pipeline stages of a program's loads.
        registers: the most that a thread may take; None sets no limit. Without a limit NVIDIA's
            assembler spills a little rather than take so many that one program less fits.
    """

    block_m: int
    block_n: int
    warps: int
    stages: int
    registers: int | None = None

    def blocks(self) -> dict[str, int]:
        """Return the tile's compile-time arguments for a launch."""
        return {"BLOCK_M": self.block_m, "BLOCK_N": self.block_n}

    def options(self) -> dict[str, int]:
        """Return the compiler's options for a launch: warps, stages and, if set, registers."""
        options = {"num_warps": self.warps, "num_stages": self.stages}
        return options if self.registers is None else options | {"maxnreg": self.registers}


Class = tuple[int, int]  # (largest head width, bytes per number)
Line = tuple[tuple[int, int, int, int], ...]  # BLOCK_M, BLOCK_N, warps, stages of each class

HALF: tuple[Class, ...] = ((64, 2), (128, 2), (256, 2))  # bfloat16, float16
SINGLE: tuple[Class, ...] = ((64, 4), (128, 4), (256, 4))  # float32

# Each entry keeps its hot loops in registers with everything switched on: softcap, the gradient of
# the mass, and three spans (the plain forward kernel has none, so its tiles are larger). Products
# of the backward pass want at least 64 columns, loads at least two stages, and kernels that read
# more than they compute (decode, epilogue) three or four. Decode packs as many rows as it needs, up
# to 128, which take 8 warps, so its first number is not used; nor is delta's second one. Heads of
# width 256 spill a little.
# fmt: off
_HALF: dict[str, dict[Kernel, Line]] = {
    "sm_80": {  # the operands of products pass through registers, so tiles are smaller
        Kernel.FORWARD:            ((128, 128, 8, 2),  (128, 64, 8, 2),   (64, 32, 8, 2)),
        Kernel.FORWARD_WITH_SPANS: ((128, 128, 8, 2),  (128, 64, 8, 3),   (64, 32, 8, 2)),
        Kernel.DECODE:             ((16, 128, 8, 3),   (16, 32, 8, 4),    (16, 16, 8, 3)),
        Kernel.EPILOGUE:           ((64, 64, 4, 3),    (64, 64, 4, 3),    (64, 64, 8, 2)),
        Kernel.STEERING:           ((64, 64, 4, 3),    (64, 64, 4, 3),    (32, 32, 8, 2)),
        Kernel.DELTA:              ((64, 16, 4, 1),    (64, 16, 4, 1),    (64, 16, 4, 1)),
        Kernel.DK_DV:              ((32, 128, 8, 3),   (64, 64, 8, 2),    (16, 64, 8, 2)),
        Kernel.DQ:                 ((128, 64, 8, 3),   (128, 64, 8, 2),   (32, 32, 8, 2)),
        Kernel.ROW_DQ:             ((64, 32, 4, 3),    (64, 32, 4, 3),    (32, 32, 8, 2)),
        Kernel.ROW_DK:             ((32, 128, 8, 3),   (64, 64, 8, 2),    (16, 64, 8, 2)),
        Kernel.PROFILE:            ((64, 128, 8, 2),   (64, 64, 4, 2),    (64, 64, 8, 2)),
    },
    "sm_90": {  # wgmma: 64 rows per four warps, operands from shared memory
        Kernel.FORWARD:            ((128, 128, 8, 3),  (128, 128, 8, 2),  (128, 32, 8, 2)),
        Kernel.FORWARD_WITH_SPANS: ((128, 128, 8, 3),  (128, 64, 8, 3),   (128, 32, 8, 2)),
        Kernel.DECODE:             ((16, 128, 8, 3),   (16, 64, 8, 4),    (16, 32, 8, 3)),
        Kernel.EPILOGUE:           ((64, 64, 4, 3),    (64, 64, 4, 3),    (64, 64, 8, 2)),
        Kernel.STEERING:           ((64, 64, 4, 3),    (64, 64, 4, 3),    (64, 64, 8, 2)),
        Kernel.DELTA:              ((64, 16, 4, 1),    (64, 16, 4, 1),    (64, 16, 4, 1)),
        Kernel.DK_DV:              ((64, 128, 8, 3),   (32, 128, 8, 3),   (32, 64, 8, 2)),
        Kernel.DQ:                 ((128, 64, 8, 3),   (128, 64, 8, 3),   (64, 32, 8, 2)),
        Kernel.ROW_DQ:             ((64, 64, 4, 3),    (64, 32, 4, 3),    (64, 32, 8, 2)),
        Kernel.ROW_DK:             ((64, 128, 8, 3),   (32, 128, 8, 3),   (32, 64, 8, 2)),
        Kernel.PROFILE:            ((64, 128, 8, 2),   (64, 64, 4, 2),    (64, 64, 8, 2)),
    },
    # tcgen05: sums are in tensor memory, but forward scales them in registers. dq and the gradient
    # of the mass have one stage: with more, triton 3.7.1 leaves out the fence between a copy to
    # shared memory and the product that reads it.
    "sm_100": {
        Kernel.FORWARD:            ((128, 128, 8, 3),  (128, 128, 8, 2),  (64, 32, 8, 2)),
        Kernel.FORWARD_WITH_SPANS: ((128, 64, 8, 3),   (128, 64, 8, 3),   (64, 32, 8, 2)),
        Kernel.DECODE:             ((16, 64, 8, 3),    (16, 32, 8, 4),    (16, 16, 8, 3)),
        Kernel.EPILOGUE:           ((64, 64, 4, 3),    (64, 64, 8, 3),    (64, 64, 8, 2)),
        Kernel.STEERING:           ((64, 64, 4, 3),    (64, 64, 8, 3),    (64, 64, 8, 2)),
        Kernel.DELTA:              ((64, 16, 4, 1),    (64, 16, 4, 1),    (64, 16, 4, 1)),
        Kernel.DK_DV:              ((64, 128, 8, 3),   (64, 128, 8, 3),   (32, 64, 8, 2)),
        Kernel.DQ:                 ((128, 64, 8, 1),   (128, 64, 8, 1),   (64, 64, 8, 1)),
        Kernel.ROW_DQ:             ((64, 64, 4, 1),    (64, 32, 4, 1),    (64, 32, 8, 1)),
        Kernel.ROW_DK:             ((32, 128, 8, 1),   (32, 128, 8, 1),   (32, 64, 8, 1)),
        Kernel.PROFILE:            ((64, 128, 8, 1),   (64, 64, 8, 1),    (64, 64, 8, 1)),
    },
    "gfx942": {  # 512 registers with four warps; 64 KB of shared memory
        Kernel.FORWARD:            ((128, 64, 4, 2),   (128, 64, 4, 2),   (64, 32, 4, 2)),
        Kernel.FORWARD_WITH_SPANS: ((128, 64, 4, 2),   (128, 64, 4, 2),   (64, 32, 4, 2)),
        Kernel.DECODE:             ((16, 64, 4, 2),    (16, 64, 4, 2),    (16, 32, 4, 2)),
        Kernel.EPILOGUE:           ((64, 64, 4, 2),    (64, 64, 4, 2),    (64, 64, 4, 2)),
        Kernel.STEERING:           ((64, 64, 4, 2),    (64, 64, 4, 2),    (32, 32, 8, 2)),
        Kernel.DELTA:              ((64, 16, 4, 1),    (64, 16, 4, 1),    (64, 16, 4, 1)),
        Kernel.DK_DV:              ((32, 128, 4, 2),   (32, 128, 4, 1),   (16, 64, 4, 2)),
        Kernel.DQ:                 ((128, 64, 4, 2),   (64, 64, 4, 2),    (64, 32, 4, 2)),
        Kernel.ROW_DQ:             ((128, 64, 4, 2),   (64, 64, 4, 2),    (64, 32, 4, 2)),
        Kernel.ROW_DK:             ((32, 128, 4, 2),   (32, 128, 4, 1),   (16, 64, 4, 2)),
        Kernel.PROFILE:            ((64, 128, 4, 2),   (64, 64, 4, 2),    (64, 64, 4, 2)),
    },
}
# The same instructions as on sm_80, but the assembler needs more registers for some kernels.
_HALF["sm_86"] = _HALF["sm_80"] | {
    Kernel.DQ: ((128, 64, 8, 3), (128, 32, 8, 3), (32, 32, 8, 2)),
}
_HALF["sm_120"] = _HALF["sm_86"] | {
    Kernel.FORWARD_WITH_SPANS: ((128, 64, 8, 3), (128, 64, 8, 3), (64, 32, 8, 2)),
    Kernel.DECODE: ((16, 64, 8, 3), (16, 32, 8, 4), (16, 16, 8, 3)),
}
# IEEE float32 runs on plain FMAs, whose operands all pass through registers.
_SINGLE_NVIDIA: dict[Kernel, Line] = {
    Kernel.FORWARD:            ((64, 32, 8, 2),    (32, 32, 8, 2),    (16, 16, 8, 2)),
    Kernel.FORWARD_WITH_SPANS: ((64, 32, 8, 2),    (32, 32, 8, 2),    (16, 16, 8, 2)),
    Kernel.DECODE:             ((16, 16, 8, 3),    (16, 16, 16, 2),   (16, 16, 16, 2)),
    Kernel.EPILOGUE:           ((64, 32, 8, 2),    (64, 32, 8, 2),    (32, 32, 8, 2)),
    Kernel.STEERING:           ((64, 32, 8, 2),    (64, 32, 8, 2),    (16, 16, 8, 2)),
    Kernel.DELTA:              ((64, 16, 4, 1),    (64, 16, 4, 1),    (64, 16, 8, 1)),
    Kernel.DK_DV:              ((32, 32, 8, 2),    (16, 16, 8, 2),    (16, 16, 8, 1)),
    Kernel.DQ:                 ((32, 32, 8, 2),    (16, 16, 8, 2),    (16, 16, 8, 1)),
    Kernel.ROW_DQ:             ((32, 32, 8, 2),    (16, 16, 8, 2),    (16, 16, 8, 1)),
    Kernel.ROW_DK:             ((32, 32, 8, 2),    (16, 16, 8, 2),    (16, 16, 8, 1)),
    Kernel.PROFILE:            ((32, 64, 8, 2),    (16, 32, 8, 2),    (16, 16, 8, 2)),
}
_SINGLE: dict[str, dict[Kernel, Line]] = dict.fromkeys(_HALF, _SINGLE_NVIDIA) | {
    "gfx942": {  # has matrix instructions for float32
        Kernel.FORWARD:            ((64, 64, 4, 1),    (64, 32, 4, 1),    (32, 32, 4, 1)),
        Kernel.FORWARD_WITH_SPANS: ((64, 64, 4, 1),    (64, 32, 4, 1),    (32, 32, 4, 1)),
        Kernel.DECODE:             ((16, 32, 4, 2),    (16, 32, 4, 2),    (16, 32, 4, 1)),
        Kernel.EPILOGUE:           ((64, 32, 4, 2),    (64, 32, 4, 2),    (64, 32, 4, 1)),
        Kernel.STEERING:           ((64, 32, 4, 2),    (64, 32, 4, 2),    (64, 32, 4, 1)),
        Kernel.DELTA:              ((64, 16, 4, 1),    (64, 16, 4, 1),    (64, 16, 4, 1)),
        Kernel.DK_DV:              ((32, 64, 4, 1),    (32, 32, 4, 1),    (16, 32, 4, 1)),
        Kernel.DQ:                 ((64, 32, 4, 2),    (64, 32, 4, 2),    (32, 16, 4, 1)),
        Kernel.ROW_DQ:             ((64, 32, 4, 2),    (64, 32, 4, 2),    (32, 16, 4, 1)),
        Kernel.ROW_DK:             ((32, 64, 4, 1),    (32, 32, 4, 1),    (16, 32, 4, 1)),
        Kernel.PROFILE:            ((64, 32, 4, 2),    (64, 32, 4, 2),    (64, 32, 4, 1)),
    },
}
# fmt: on


def _configurations(name: str, kernel: Kernel) -> dict[Class, Configuration]:
    """Return one kernel's configurations on one architecture, by class of head width and dtype."""
    tiles = [*_HALF[name][kernel], *_SINGLE[name][kernel]]
    capped = name != "gfx942"
    return {
        of: Configuration(m, n, warps, stages, min(255, 2048 // warps) if capped else None)
        for of, (m, n, warps, stages) in zip(HALF + SINGLE, tiles, strict=True)
    }


TABLE: dict[str, dict[Kernel, dict[Class, Configuration]]] = {
    name: {kernel: _configurations(name, kernel) for kernel in Kernel} for name in _HALF
}

# The interpreter's tiles are small, so that short tests cross every edge of a tile.
INTERPRETED = {kernel: Configuration(32, 16, 4, 1) for kernel in Kernel} | {
    Kernel.DK_DV: Configuration(16, 32, 4, 1),
    Kernel.ROW_DK: Configuration(16, 32, 4, 1),
    Kernel.PROFILE: Configuration(16, 32, 4, 1),
}


def configuration(kernel: Kernel, q: Tensor, width: int) -> Configuration:
    """Return what ``kernel`` is launched with for tensors like q and heads of ``width``."""
    name = architecture(q.device)
    if name == "interpreter":
        return INTERPRETED[kernel]
    chosen = TABLE[name][kernel][max(64, block(width)), q.element_size()]
    return chosen if width in (block(width), *range(1, 64)) else narrower(kernel, chosen)


def narrower(kernel: Kernel, chosen: Configuration) -> Configuration:
    """Halve the tile that a program walks: masked loads of odd widths take registers."""
    if kernel in (Kernel.DK_DV, Kernel.ROW_DK):
        return replace(chosen, block_m=max(16, chosen.block_m // 2))
    return replace(chosen, block_n=max(16, chosen.block_n // 2))


@functools.cache
def architecture(device: torch.device) -> str:
    """Return the name in the table of the architecture that serves ``device``."""
    if device.type != "cuda":
        return "interpreter"
    if torch.version.hip is not None:
        return "gfx942"
    return tiles_of(*torch.cuda.get_device_capability(device))


def tiles_of(major: int, minor: int) -> str:
    """Return the name in the table of what serves NVIDIA's chips of a compute capability."""
    if (major, minor) > (8, 0) and major == 8:
        return "sm_86"
    return {9: "sm_90", 10: "sm_100", 12: "sm_120"}.get(major, "sm_80")
