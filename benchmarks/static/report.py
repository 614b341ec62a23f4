"""Report on the Triton kernels as compiled, without a GPU.

The command is ``python -m benchmarks.static.report``. It compiles every configuration of the table
ahead of time and reads from the machine code what the hot loops are made of: those that multiply
matrices. The exit status is 0 if all of this holds:

- it compiles, and its shared memory is within what the card gives a program;
- up to heads of width 128 nothing is spilled in a hot loop, and no wgmma waits for the one before;
  beyond, products that are waited for one by one have a reason, in the assembler's words;
- a fence stands between a copy to shared memory and the tensor cores that read it there;
- 16-bit products use the chip's best matrix instruction, float32 ones none that rounds.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path

import torch
import triton

from benchmarks.static.compilation import TARGETS, binaries
from benchmarks.static.judgement import JudgedKernel, judged
from benchmarks.static.kernel_cases import KernelCase, every_case, quick_cases
from benchmarks.static.loop_tables import as_markdown, as_table
from sra_fast.tools.atomic import write_text

PROCESSES = 2
RESULT = Path(__file__).parents[1] / "results" / "static.md"


def report(architectures: Iterable[str], cases: Sequence[KernelCase]) -> list[JudgedKernel]:
    """Compile the cases in a few processes, and return the judged kernels in order."""
    work = [(architecture, case) for architecture in architectures for case in cases]
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


def as_json(rows: Sequence[JudgedKernel], seconds: float) -> str:
    """Return the kernels as JSON, with counts of instructions and the versions used."""
    lines = [
        asdict(row) | {"verdict": row.verdict, "instructions_per_block": row.per_block}
        for row in rows
    ]
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
    parser.add_argument(
        "--quick",
        action="store_true",
        help="Compile each kernel once per architecture: bfloat16, heads of width 128, with spans.",
    )
    parser.add_argument(
        "--write", action="store_true", help=f"Write the table to {RESULT.name} in results/ too."
    )
    options = parser.parse_args(arguments)
    if triton.knobs.runtime.interpret:
        print("TRITON_INTERPRET is set, so nothing would be compiled: unset it", file=sys.stderr)
        return 2
    start = time.perf_counter()
    rows = report(options.arch, quick_cases() if options.quick else every_case())
    seconds = time.perf_counter() - start
    failed = sum(bool(row.problems) for row in rows)
    if options.write:
        write_text(RESULT, as_markdown(rows, "--quick --write" if options.quick else "--write"))
    print(as_json(rows, seconds) if options.json else as_table(rows))
    print(f"{len(rows)} kernels, {failed} fail ({seconds:.0f} s)", file=sys.stderr)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
