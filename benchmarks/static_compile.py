"""Compiles what the Triton kernels' own functions launch, for a GPU that need not be there.

The functions run on tensors without memory, Triton's driver is a stand-in that names the wanted
target, and every launch stops after compiling. So signature, specialisation and options are those
of a real launch.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from unittest.mock import patch

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget

from sra_fast.kernels.triton_kernels import configurations
from sra_fast.kernels.triton_kernels.backward import backward
from sra_fast.kernels.triton_kernels.decode import decode
from sra_fast.kernels.triton_kernels.epilogue import add_span_mass
from sra_fast.kernels.triton_kernels.forward import forward
from sra_fast.kernels.triton_kernels.launch import Logits, like_heads
from sra_fast.kernels.triton_kernels.layout import GRANULE, Layout

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
BATCH = 2
TOKENS = 4095  # no multiple of anything, as lengths are
ROWS = 257


@dataclass(frozen=True)
class Case:
    """One call of a function that launches kernels.

    Attributes:
        function: which.
        width: D = Dv.
        dtype: of q, k, v.
        spans: G; 0 in ``backward``: no gradient of the mass.
        queries: M; N is ``TOKENS``.
        heads, kv_heads: Hq and Hkv.
        capped: with softcap and sinks.
    """

    function: Literal["forward", "decode", "epilogue", "backward"]
    width: int
    dtype: torch.dtype
    spans: int
    queries: int = TOKENS
    heads: int = 32
    kv_heads: int = 8
    capped: bool = False


@dataclass(frozen=True)
class Binary:
    """One compiled kernel.

    Attributes:
        kernel: its name.
        spans: compiled for so many (backward: for one or more).
        tile: ``BLOCK_M × BLOCK_N``, as far as it has them.
        warps, stages: as it was launched.
        registers: per thread.
        stack: bytes per thread.
        local: loads and stores of local memory: LDL and STL, on AMD spilled vector registers.
        shared: bytes.
        instructions: how many of each kind that multiplies matrices.
        error: what the compiler said, if it failed; then the numbers are 0.
    """

    kernel: str
    spans: int
    tile: str
    warps: int
    stages: int
    registers: int
    stack: int
    local: int
    shared: int
    instructions: dict[str, int]
    error: str | None = None


def binaries(case: Case, architecture: str) -> list[Binary]:
    """The kernels that ``case`` launches on ``architecture`` with the table's tiles, compiled."""
    made: list[Binary] = []
    run = triton.JITFunction.run

    def only_compile(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        try:
            compiled = run(self, *args, grid=grid, warmup=True, **kwargs)
            measured = _of_amd(compiled) if architecture == "gfx942" else _of_nvidia(compiled)
            error = None
        except Exception as failure:  # whatever a compiler raises is a result here
            measured = _Measured(0, 0, 0, 0, {})
            error = f"{type(failure).__name__}: {failure}"
        made.append(_binary(self, kwargs, measured, error))

    triton.runtime.driver.set_active(_Driver(architecture))
    with (
        patch.object(triton.JITFunction, "run", only_compile),
        patch.object(configurations, "architecture", lambda device: architecture),
    ):
        _CALLS[case.function](case)
    return made


@dataclass(frozen=True)
class _Measured:
    registers: int
    stack: int
    local: int
    shared: int
    instructions: dict[str, int]


@dataclass(frozen=True)
class _Driver:
    """As much of Triton's driver as compiling asks for; its device is the architecture's name."""

    architecture: str

    def get_current_target(self) -> GPUTarget:
        return TARGETS[self.architecture]

    def get_current_device(self) -> str:
        return self.architecture

    def get_current_stream(self, device: str) -> int:
        return 0


def _binary(kernel: Any, options: dict[str, Any], measured: _Measured, error: str | None) -> Binary:
    blocks = [options.get(name) for name in ("BLOCK_M", "BLOCK_N", "BLOCK_S")]
    return Binary(
        kernel=kernel.fn.__name__,
        spans=int(options["SPANS"]),
        tile="×".join(str(size) for size in blocks if size is not None),
        warps=options.get("num_warps", 4),
        stages=options.get("num_stages", 3),
        registers=measured.registers,
        stack=measured.stack,
        local=measured.local,
        shared=measured.shared,
        instructions=measured.instructions,
        error=error,
    )


def _of_nvidia(compiled: Any) -> _Measured:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = _cuobjdump("--dump-resource-usage", file.name)
        code = _cuobjdump("-sass", file.name)
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    if found is None:
        raise RuntimeError(f"cuobjdump reported no registers: {usage}")
    return _Measured(
        registers=int(found[1]),
        stack=int(found[2]),
        local=len(re.findall(r"\b(?:LDL|STL)\b", code)),
        shared=compiled.metadata.shared,
        instructions=_count(
            code, {"HGMMA": r"\bHGMMA", "UTCMMA": r"\bUTC\w*MMA", "HMMA": r"\bHMMA"}
        ),
    )


def _cuobjdump(*arguments: str) -> str:
    command = [triton.knobs.nvidia.cuobjdump.path, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _of_amd(compiled: Any) -> _Measured:
    code = compiled.asm["amdgcn"]

    def field(name: str) -> int:
        found = re.search(rf"\.{name}:\s*(\d+)", code)
        if found is None:
            raise RuntimeError(f"no .{name} in the kernel's metadata")
        return int(found[1])

    return _Measured(
        registers=field("vgpr_count"),
        stack=field("private_segment_fixed_size"),
        local=field("vgpr_spill_count"),
        shared=compiled.metadata.shared,
        instructions=_count(code, {"v_mfma": r"\bv_mfma"}),
    )


def _count(code: str, patterns: dict[str, str]) -> dict[str, int]:
    counts = {name: len(re.findall(pattern, code)) for name, pattern in patterns.items()}
    return {name: count for name, count in counts.items() if count}


def _empty(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _heads(case: Case, heads: int, length: int) -> Tensor:
    """``[B, H, L, D]``, the transposed view that models hand over."""
    return _empty(BATCH, length, heads, case.width, dtype=case.dtype).transpose(1, 2)


def _inputs(case: Case) -> tuple[Tensor, Tensor, Tensor, Layout, Logits]:
    granules_m, granules_n = -(-case.queries // GRANULE), -(-TOKENS // GRANULE)
    layout = Layout(
        key_labels=_empty(BATCH, TOKENS, dtype=torch.int32),
        first_key=_empty(BATCH, case.queries, dtype=torch.int32),
        last_query=_empty(BATCH, TOKENS, dtype=torch.int32),
        slots=_empty(BATCH, case.queries, dtype=torch.int32),
        key_runs=_empty(2, BATCH, granules_n, dtype=torch.int32),
        query_runs=_empty(2, BATCH, granules_m, dtype=torch.int32),
        rows=_empty(ROWS, dtype=torch.int64),
    )
    sinks = _empty(case.heads, dtype=case.dtype) if case.capped else None
    return (
        _heads(case, case.heads, case.queries),
        _heads(case, case.kv_heads, TOKENS),
        _heads(case, case.kv_heads, TOKENS),
        layout,
        Logits(case.width**-0.5, 30.0 if case.capped else None, sinks),
    )


def _mass_and_lse(case: Case) -> tuple[Tensor, Tensor]:
    spans = max(case.spans, 1)
    mass = _empty(ROWS, case.heads, spans, dtype=torch.float32)
    return mass, _empty(BATCH, case.heads, case.queries, dtype=torch.float32)


def _forward(case: Case) -> None:
    forward(*_inputs(case), rows=ROWS, spans=max(case.spans, 2), first_spans=case.spans)


def _decode(case: Case) -> None:
    decode(*_inputs(case), rows=ROWS, spans=max(case.spans, 2), first_spans=case.spans)


def _epilogue(case: Case) -> None:
    q, k, _, layout, logits = _inputs(case)
    mass, lse = _mass_and_lse(case)
    add_span_mass(q, k, lse, mass, layout, logits)


def _backward(case: Case) -> None:
    q, k, v, layout, logits = _inputs(case)
    mass, lse = _mass_and_lse(case)
    out = like_heads(q)
    d_mass = torch.empty_like(mass) if case.spans else None
    backward(q, k, v, out, mass, lse, torch.empty_like(out), d_mass, layout, logits)


_CALLS: dict[str, Callable[[Case], None]] = {
    "forward": _forward,
    "decode": _decode,
    "epilogue": _epilogue,
    "backward": _backward,
}
