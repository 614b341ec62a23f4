"""Compile what the Triton kernels' own functions launch, for a GPU that need not be there.

The functions run on tensors without memory, Triton's driver is a stand-in that names the wanted
target, and every launch stops after compiling. So signature, specialisation and options are those
of a real launch.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any
from unittest.mock import patch

import triton
from triton.backends.compiler import GPUTarget

from benchmarks.static.assembly import amdgcn, ptx, sass
from benchmarks.static.control_flow import Instruction
from benchmarks.static.hot_loops import HotLoop, counts, hot_loops
from benchmarks.static.kernel_cases import KernelCase, call
from benchmarks.static.proxy_fences import unfenced_products
from benchmarks.static.serialised_products import why_serialised
from sra_fast.kernels.triton_kernels import configurations
from sra_fast.kernels.triton_kernels.tuning import OPT_IN

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_86": GPUTarget("cuda", 86, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "sm_120": GPUTarget("cuda", 120, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}


@dataclass(frozen=True)
class Binary:
    """The compiler's output for one kernel.

    Attributes:
        kernel: the kernel's name.
        spans: the number of spans that it was compiled for (backward: one or more).
        block_m, block_n: the sizes of the tile, as far as it has one.
        warps, stages: the warps and stages that it was launched with.
        registers: registers per thread.
        stack: bytes of stack per thread.
        spills_outside: instructions outside of the hot loops that load or store local memory.
        shared: bytes of shared memory per program.
        tensor_columns: columns of tensor memory per program.
        instructions: how many there are of each kind that multiplies matrices.
        loops: the hot loops, in the order of the program.
        unfenced: products that may read shared memory before a copy to it can be seen.
        serialised_by: why products are waited for one by one, in the assembler's words.
        error: what the compiler said, if it failed; then the numbers are 0.
    """

    kernel: str
    spans: int
    block_m: int | None
    block_n: int | None
    warps: int
    stages: int
    registers: int = 0
    stack: int = 0
    spills_outside: int = 0
    shared: int = 0
    tensor_columns: int = 0
    instructions: dict[str, int] = field(default_factory=dict)
    loops: tuple[HotLoop, ...] = ()
    unfenced: int = 0
    serialised_by: str | None = None
    error: str | None = None

    @property
    def hot_spills(self) -> int:
        """Return how many instructions of the hot loops load or store local memory."""
        return sum(loop.spills for loop in self.loops)

    @property
    def main_loop(self) -> HotLoop | None:
        """Return the loop over tiles that need no mask: with the most products, the shortest."""
        return min(
            self.loops,
            key=lambda loop: (-loop.by_class.get("products", 0), loop.instructions),
            default=None,
        )


def binaries(target: str, case: KernelCase) -> list[Binary]:
    """Compile the kernels that ``case`` launches on ``target`` with the table's tiles."""
    made: list[Binary] = []
    run = triton.JITFunction.run

    def only_compile(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        launched = Binary(
            kernel=self.fn.__name__,
            spans=int(kwargs.get("SPANS", case.spans)),
            block_m=kwargs.get("BLOCK_M"),
            block_n=kwargs.get("BLOCK_N"),
            warps=kwargs.get("num_warps", 4),
            stages=kwargs.get("num_stages", 3),
        )
        try:
            found = _read(run(self, *args, grid=grid, warmup=True, **kwargs))
        except Exception as failure:  # whatever a compiler raises is a result here
            found = {"error": f"{type(failure).__name__}: {failure}"}
        made.append(replace(launched, **found))

    triton.runtime.driver.set_active(_Driver(target))
    with (
        patch.dict(os.environ, {OPT_IN: "0"}),
        patch.object(triton.JITFunction, "run", only_compile),
        patch.object(configurations, "architecture", lambda device: tiles_of(target)),
    ):
        call(case)
    return made


def tiles_of(target: str) -> str:
    """Return the name of the tiles in the table that serve a target."""
    chip = TARGETS[target].arch
    return configurations.tiles_of(*divmod(chip, 10)) if isinstance(chip, int) else target


@dataclass(frozen=True)
class _Driver:
    """A stand-in for Triton's driver when compiling; its device is the target's name."""

    target: str

    def get_current_target(self) -> GPUTarget:
        return TARGETS[self.target]

    def get_current_device(self) -> str:
        return self.target

    def get_current_stream(self, device: str) -> int:
        return 0


def _read(compiled: Any) -> dict[str, Any]:
    """Return the fields of a :class:`Binary` that say what the compiler made of it."""
    read = _read_amd if compiled.metadata.target.backend == "hip" else _read_nvidia
    return {"shared": compiled.metadata.shared, **read(compiled)}


def _read_nvidia(compiled: Any) -> dict[str, Any]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = _cuobjdump("--dump-resource-usage", file.name)
        program = sass(_cuobjdump("-sass", file.name))
    found = _read_program(program, {"HGMMA": r"HGMMA", "UTCMMA": r"UTC\w*MMA", "HMMA": r"HMMA"})
    alone = any(loop.lone_products for loop in found["loops"])
    return found | {
        "registers": _number(r"REG:(\d+)", usage),
        "stack": _number(r"STACK:(\d+)", usage),
        "tensor_columns": getattr(compiled.metadata, "tmem_size", None) or 0,
        "unfenced": unfenced_products(ptx(compiled.asm["ptx"])),
        "serialised_by": why_serialised(compiled.asm["ptx"]) if alone else None,
    }


def _read_amd(compiled: Any) -> dict[str, Any]:
    code = compiled.asm["amdgcn"]
    return _read_program(amdgcn(code), {"v_mfma": r"v_mfma"}) | {
        "registers": _number(r"\.vgpr_count:\s*(\d+)", code),
        "stack": _number(r"\.private_segment_fixed_size:\s*(\d+)", code),
    }


def _read_program(program: list[Instruction], kinds: dict[str, str]) -> dict[str, Any]:
    """Return what both makers' programs say, with the kinds of products by name and pattern."""
    found = hot_loops(program)
    everywhere = counts(program)["spills"]
    return {
        "loops": tuple(found),
        "spills_outside": everywhere - sum(loop.spills for loop in found),
        "instructions": _count(program, kinds),
    }


def _cuobjdump(*arguments: str) -> str:
    """Return the output of cuobjdump, which comes in Triton's wheel."""
    command = [triton.knobs.nvidia.cuobjdump.path, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    if found is None:
        raise ValueError(f"no {pattern} in what the compiler wrote")
    return int(found[1])


def _count(program: Iterable[Instruction], patterns: dict[str, str]) -> dict[str, int]:
    names = [one.name for one in program]
    counted = {
        kind: sum(map(bool, (re.match(p, n) for n in names))) for kind, p in patterns.items()
    }
    return {kind: count for kind, count in counted.items() if count}
