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
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal
from unittest.mock import patch

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget

from sra_fast.kernels.triton_kernels import configurations
from sra_fast.kernels.triton_kernels.backward import backward
from sra_fast.kernels.triton_kernels.decode import decode, serves
from sra_fast.kernels.triton_kernels.epilogue import add_span_mass
from sra_fast.kernels.triton_kernels.forward import forward
from sra_fast.kernels.triton_kernels.launch import Logits, like_heads
from sra_fast.kernels.triton_kernels.layout import GRANULE, Layout
from sra_fast.kernels.triton_kernels.row_backward import row_backward
from sra_fast.kernels.triton_kernels.tuning import OPT_IN

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
TOKENS = 4095  # no multiple of 16, as most lengths are
ROWS = 257


@dataclass(frozen=True)
class KernelCase:
    """One call of a function that launches kernels.

    Attributes:
        function: the name of the function.
        width: the width of a head, D = Dv.
        dtype: the dtype of q, k and v.
        spans: G, the number of spans; 0 in ``backward`` for no gradient of the mass.
        batch, queries, keys: B, M and N. Triton compiles anew for 1 and for multiples of 16.
        heads, kv_heads: Hq and Hkv.
        capped: whether there are a softcap and sinks.
    """

    function: Literal["forward", "decode", "epilogue", "backward", "row_backward"]
    width: int
    dtype: torch.dtype
    spans: int
    batch: int = 2
    queries: int = TOKENS
    keys: int = TOKENS
    heads: int = 32
    kv_heads: int = 8
    capped: bool = False


@dataclass(frozen=True)
class Binary:
    """What the compiler made of one kernel.

    Attributes:
        kernel: the kernel's name.
        spans: the number of spans that it was compiled for (backward: one or more).
        block_m, block_n: the sizes of the tile, as far as it has one.
        warps, stages: the warps and stages that it was launched with.
        registers: registers per thread.
        stack: bytes of stack per thread.
        local: instructions that load or store local memory (LDL, STL; scratch on AMD).
        shared: bytes of shared memory per program.
        tensor_columns: columns of tensor memory per program.
        instructions: how many there are of each kind that multiplies matrices.
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
    local: int = 0
    shared: int = 0
    tensor_columns: int = 0
    instructions: dict[str, int] = field(default_factory=dict)
    error: str | None = None


def binaries(architecture: str, case: KernelCase) -> list[Binary]:
    """Compile the kernels that ``case`` launches on ``architecture`` with the table's tiles."""
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

    triton.runtime.driver.set_active(_Driver(architecture))
    with (
        patch.dict(os.environ, {OPT_IN: "0"}),
        patch.object(triton.JITFunction, "run", only_compile),
        patch.object(configurations, "architecture", lambda device: architecture),
    ):
        _CALLS[case.function](case)
    return made


def decode_serves(case: KernelCase) -> bool:
    """Return whether the decode kernel takes so many queries, or leaves them to the forward one."""
    q, _, v, *_ = _inputs(case)
    return serves(q, v)


@dataclass(frozen=True)
class _Driver:
    """A stand-in for Triton's driver when compiling; its device is the architecture's name."""

    architecture: str

    def get_current_target(self) -> GPUTarget:
        return TARGETS[self.architecture]

    def get_current_device(self) -> str:
        return self.architecture

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
        code = _cuobjdump("-sass", file.name)
    counted = {"HGMMA": r"\bHGMMA", "UTCMMA": r"\bUTC\w*MMA", "HMMA": r"\bHMMA"}
    return {
        "registers": _number(r"REG:(\d+)", usage),
        "stack": _number(r"STACK:(\d+)", usage),
        "local": len(re.findall(r"\b(?:LDL|STL)\b", code)),
        "tensor_columns": getattr(compiled.metadata, "tmem_size", None) or 0,
        "instructions": _count(code, counted),
    }


def _cuobjdump(*arguments: str) -> str:
    """Return the output of cuobjdump, which comes in Triton's wheel."""
    command = [triton.knobs.nvidia.cuobjdump.path, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _read_amd(compiled: Any) -> dict[str, Any]:
    code = compiled.asm["amdgcn"]
    return {
        "registers": _number(r"\.vgpr_count:\s*(\d+)", code),
        "stack": _number(r"\.private_segment_fixed_size:\s*(\d+)", code),
        "local": len(re.findall(r"\bscratch_(?:load|store)", code)),
        "instructions": _count(code, {"v_mfma": r"\bv_mfma"}),
    }


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    if found is None:
        raise ValueError(f"no {pattern} in what the compiler wrote")
    return int(found[1])


def _count(code: str, patterns: dict[str, str]) -> dict[str, int]:
    counts = {name: len(re.findall(pattern, code)) for name, pattern in patterns.items()}
    return {name: count for name, count in counts.items() if count}


def _empty(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _heads(case: KernelCase, heads: int, length: int) -> Tensor:
    """Return ``[B, H, L, D]`` without memory, as the transposed view that models hand over."""
    return _empty(case.batch, length, heads, case.width, dtype=case.dtype).transpose(1, 2)


def _inputs(case: KernelCase) -> tuple[Tensor, Tensor, Tensor, Layout, Logits]:
    granules_m, granules_n = -(-case.queries // GRANULE), -(-case.keys // GRANULE)
    layout = Layout(
        key_labels=_empty(case.batch, case.keys, dtype=torch.int32),
        first_key=_empty(case.batch, case.queries, dtype=torch.int32),
        last_query=_empty(case.batch, case.keys, dtype=torch.int32),
        slots=_empty(case.batch, case.queries, dtype=torch.int32),
        key_runs=_empty(2, case.batch, granules_n, dtype=torch.int32),
        query_runs=_empty(2, case.batch, granules_m, dtype=torch.int32),
        rows=_empty(ROWS, dtype=torch.int64),
    )
    sinks = _empty(case.heads, dtype=case.dtype) if case.capped else None
    return (
        _heads(case, case.heads, case.queries),
        _heads(case, case.kv_heads, case.keys),
        _heads(case, case.kv_heads, case.keys),
        layout,
        Logits(case.width**-0.5, 30.0 if case.capped else None, sinks),
    )


def _mass_and_lse(case: KernelCase) -> tuple[Tensor, Tensor]:
    spans = max(case.spans, 1)
    mass = _empty(ROWS, case.heads, spans, dtype=torch.float32)
    return mass, _empty(case.batch, case.heads, case.queries, dtype=torch.float32)


def _forward(case: KernelCase) -> None:
    forward(*_inputs(case), rows=ROWS, spans=max(case.spans, 2), first_spans=case.spans)


def _decode(case: KernelCase) -> None:
    decode(*_inputs(case), rows=ROWS, spans=max(case.spans, 2), first_spans=case.spans)


def _epilogue(case: KernelCase) -> None:
    q, k, _, layout, logits = _inputs(case)
    mass, lse = _mass_and_lse(case)
    add_span_mass(q, k, lse, mass, layout, logits)


def _backward(case: KernelCase) -> None:
    q, k, v, layout, logits = _inputs(case)
    mass, lse = _mass_and_lse(case)
    out = like_heads(q)
    d_mass = torch.empty_like(mass) if case.spans else None
    backward(q, k, v, out, mass, lse, torch.empty_like(out), d_mass, layout, logits)


def _row_backward(case: KernelCase) -> None:
    q, k, _, layout, logits = _inputs(case)
    mass, _ = _mass_and_lse(case)
    bounds = torch.empty_like(layout.key_runs)
    row_backward(q, k, mass, mass[:, :, 0].contiguous(), mass, layout, bounds, logits)


_CALLS: dict[str, Callable[[KernelCase], None]] = {
    "forward": _forward,
    "decode": _decode,
    "epilogue": _epilogue,
    "backward": _backward,
    "row_backward": _row_backward,
}
