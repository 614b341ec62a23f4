"""Report on the Triton kernels as compiled, without a GPU.

The command is ``python -m benchmarks.static.report``. It compiles every configuration of the table
ahead of time and reads registers, spills, shared memory and matrix instructions from the result.
The exit status is 0 if all of this holds:

- it compiles, and its shared memory is within what the card gives a program;
- up to heads of width 128 nothing is spilled on NVIDIA's chips: no stack, no load or store of
  local memory (on AMD's it is only reported);
- 16-bit products use the chip's best matrix instruction, float32 ones none that rounds.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context

import torch
import triton

from benchmarks.static.compilation import TARGETS, Binary, KernelCase, binaries, decode_serves

WIDTHS = (64, 128, 256)
DTYPES = (torch.bfloat16, torch.float32)
WIDEST_CLEAN = 128  # heads up to this width spill nothing
PROCESSES = 2
EVEN_TOKENS = 4096

# Bytes per program. The tiles of sm_80 serve sm_86, 89 and 120 too, whose limit this is.
SHARED = {"sm_80": 101_376, "sm_90": 232_448, "sm_100": 232_448, "gfx942": 65_536}
TENSOR_COLUMNS = 512  # columns of tensor memory per multiprocessor
# The best matrix instruction (HGMMA is wgmma, UTC…MMA is tcgen05), and how many rows it takes.
BEST = {
    "sm_80": ("HMMA", 16),
    "sm_90": ("HGMMA", 64),
    "sm_100": ("UTCMMA", 64),
    "gfx942": ("v_mfma", 16),
}
NAMES = {
    "forward_kernel": "forward",
    "split_kernel": "decode",
    "join_kernel": "decode join",
    "span_mass_kernel": "epilogue",
    "delta_kernel": "delta",
    "dk_dv_kernel": "dk_dv",
    "dq_kernel": "dq",
    "row_dq_kernel": "row_dq",
    "row_dk_kernel": "row_dk",
}
WITHOUT_PRODUCTS = {"delta", "decode join"}


@dataclass(frozen=True)
class JudgedKernel:
    """One compiled kernel and what is to be said of it.

    Attributes:
        architecture, width, dtype: what it was compiled for.
        kernel: its name among the values of ``NAMES``.
        variant: what sets the case apart from the usual one, or "".
        binary: what was read from the compiled kernel.
        instruction: the instruction that its products run on.
        problems: what must not be, a phrase each.
        remark: what is unusual for a good reason.
    """

    architecture: str
    kernel: str
    width: int
    dtype: str
    variant: str
    binary: Binary
    instruction: str
    problems: tuple[str, ...]
    remark: str

    @property
    def verdict(self) -> str:
        """Return "ok" or "FAILS", with the problems and the remark."""
        said = "; ".join([*self.problems, self.remark]).strip("; ")
        return f"FAILS: {said}" if self.problems else f"ok ({said})" if said else "ok"


def plan() -> list[KernelCase]:
    """Return the cases compiled per architecture: each line of the table, with most switched on.

    Where it counts they are also compiled with less switched on, because fewer spans do not always
    take fewer registers.
    """
    cases = []
    for dtype in DTYPES:
        for width in WIDTHS:
            often = dtype == torch.bfloat16 and width <= WIDEST_CLEAN
            usual = KernelCase("forward", width, dtype, spans=3)
            few = replace(usual, function="decode", heads=8, kv_heads=1)
            most = [replace(few, queries=queries) for queries in (16, 8, 4)]
            cases += [replace(usual, spans=spans) for spans in ((0, 2, 3) if often else (0, 3))]
            cases += [replace(few, queries=1, spans=spans) for spans in ((0, 3) if often else (3,))]
            cases += [case for case in most if decode_serves(case)][:1]  # the largest tile
            cases += [replace(usual, function=name) for name in ("epilogue", "row_backward")]
            steps = (0, 3) if width <= WIDEST_CLEAN else (3,)
            cases += [replace(usual, function="backward", spans=spans) for spans in steps]
    usual = KernelCase("forward", 128, torch.bfloat16, spans=3)
    for more in (
        replace(usual, width=96),  # no power of two: the tile is wider than the head
        replace(usual, capped=True),
        replace(usual, batch=1, queries=EVEN_TOKENS, keys=EVEN_TOKENS),
    ):
        cases += [replace(more, function=name) for name in ("forward", "backward", "row_backward")]
    return cases


def report(architectures: Iterable[str]) -> list[JudgedKernel]:
    """Compile all cases in a few processes, and return the judged kernels in order."""
    work = [(architecture, case) for architecture in architectures for case in plan()]
    # What takes longest comes first, so that no process is left with it at the end.
    order = sorted(range(len(work)), key=lambda at: _effort(work[at][1]), reverse=True)
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("fork")) as pool:
        results = dict(zip(order, pool.map(_rows, (work[at] for at in order)), strict=True))
    return [row for at in range(len(work)) for row in results[at]]


def _effort(case: KernelCase) -> float:
    """Return a number that grows with the seconds that a case takes to compile."""
    return case.width * case.dtype.itemsize * (3 if "backward" in case.function else 1 + case.spans)


def _rows(work: tuple[str, KernelCase]) -> list[JudgedKernel]:
    architecture, case = work
    return [judged(architecture, case, binary) for binary in binaries(architecture, case)]


def judged(architecture: str, case: KernelCase, binary: Binary) -> JudgedKernel:
    """Return a compiled kernel together with what is wrong with it."""
    kernel = NAMES[binary.kernel]
    problems, remark = [], ""
    expected, rows = BEST[architecture]
    found = "+".join(binary.instructions)
    if kernel in WITHOUT_PRODUCTS:
        expected, found = "-", found or "-"
    elif case.dtype == torch.float32 and architecture != "gfx942":
        # What NVIDIA's matrix instructions take as float32 is rounded to 10 bits first.
        expected, found = "FFMA", found or "FFMA"
    elif kernel == "decode" and (binary.block_m or 0) < rows:
        expected, remark = "HMMA", f"{expected} takes {rows} rows, {binary.block_m} are packed"

    if binary.error is not None:
        problems.append(binary.error)
    elif found != expected:
        problems.append(f"{found or 'no matrix instruction'}, not {expected}")
    if binary.shared > SHARED[architecture]:
        problems.append("shared memory")
    if binary.tensor_columns > TENSOR_COLUMNS:
        problems.append("tensor memory")
    if binary.stack or binary.local:
        if case.width <= WIDEST_CLEAN and architecture.startswith("sm_"):
            problems.append("spills")
        else:
            remark = f"spills, as it may; {remark}".strip("; ")
    return JudgedKernel(
        architecture=architecture,
        kernel=kernel,
        width=case.width,
        dtype=str(case.dtype).removeprefix("torch."),
        variant=_variant(case),
        binary=binary,
        instruction=found,
        problems=tuple(problems),
        remark=remark,
    )


def _variant(case: KernelCase) -> str:
    if case.capped:
        return "softcap, sinks"
    return f"B=1, N={case.keys}" if case.keys == EVEN_TOKENS else ""


def as_table(rows: Sequence[JudgedKernel]) -> str:
    """Return the table as text: one line per kernel, with aligned columns."""
    head = "arch,kernel,width,dtype,spans,tile,warps,stages,registers,stack,local,shared,limit"
    lines = [[*head.split(","), "products", "verdict"], *map(_cells, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _cells(row: JudgedKernel) -> list[str]:
    made = row.binary
    spans = made.spans
    if row.kernel in ("delta", "dk_dv", "dq", "row_dq", "row_dk"):
        spans = "on" if made.spans else "off"
    tile = "×".join(str(size) for size in (made.block_m, made.block_n) if size is not None)
    numbers = (made.warps, made.stages, made.registers, made.stack, made.local, made.shared)
    return [
        row.architecture,
        row.kernel,
        str(row.width),
        row.dtype,
        f"{spans}, {row.variant}".rstrip(", "),
        tile or "-",
        *map(str, numbers),
        str(SHARED[row.architecture]),
        row.instruction or "-",
        row.verdict,
    ]


def as_json(rows: Sequence[JudgedKernel], seconds: float) -> str:
    """Return the kernels as JSON, with counts of instructions and the versions used."""
    lines = [asdict(row) | {"verdict": row.verdict} for row in rows]
    versions = {"torch": torch.__version__, "triton": triton.__version__}
    return json.dumps({"versions": versions, "seconds": round(seconds, 1), "rows": lines}, indent=1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status is 1 if anything fails, 2 if nothing is compiled at all."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.static.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="Print JSON instead of a table.")
    parser.add_argument(
        "--arch",
        nargs="+",
        choices=TARGETS,
        default=list(TARGETS),
        help="Compile for these architectures only (default: all of them).",
    )
    options = parser.parse_args(arguments)
    if triton.knobs.runtime.interpret:
        print("TRITON_INTERPRET is set, so nothing would be compiled: unset it", file=sys.stderr)
        return 2
    start = time.perf_counter()
    rows = report(options.arch)
    seconds = time.perf_counter() - start
    failed = sum(bool(row.problems) for row in rows)
    print(as_json(rows, seconds) if options.json else as_table(rows))
    print(f"{len(rows)} kernels, {failed} fail ({seconds:.0f} s)", file=sys.stderr)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
