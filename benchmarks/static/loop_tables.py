"""Show judged kernels as tables: as text for a terminal, and as Markdown for the kept results."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
import triton

from benchmarks.static.judgement import SHARED, JudgedKernel
from sra_fast.tools.markdown_table import markdown_table

HEAD = (
    "arch",
    "kernel",
    "width",
    "dtype",
    "spans",
    "tile",
    "warps",
    "stages",
    "registers",
    "shared",
    "instructions",
    "per block",
    "products",
    "exp",
    "fma/add/mul",
    "shared ops",
    "barriers",
    "spills",
    "outside",
    "by",
    "verdict",
)
SHOWN = ("products", "exponentials", "arithmetic", "shared memory", "barriers")
EXPLAINED = (
    "Registers are per thread, shared memory is in bytes per program. *Instructions* are those "
    "of one turn of each hot loop, one tile per turn: over tiles that need no mask, over tiles "
    "on an edge, and over tiles that add to a span. *Per block* are those of the first, of all "
    "warps together, for 16 queries × 64 keys, so that tiles can be compared. The columns after"
    " it say what the first is made of: matrix products (none in float32, which takes plain "
    "FMAs), exponentials and reciprocals, FMA, ADD and MUL of floats, loads and stores of "
    "shared memory, and barriers, fences and waits. *Spills* are the instructions that load or "
    "store local memory in the hot loops, *outside* the others. *By* is the instruction that "
    "the products run on."
)


def as_table(rows: Sequence[JudgedKernel]) -> str:
    """Return the table as text: one line per kernel, with aligned columns."""
    lines = [list(HEAD), *map(_cells, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def as_markdown(rows: Sequence[JudgedKernel], options: str = "--write") -> str:
    """Return a page with the versions, the failures and a table per architecture.

    ``options`` are those of the command that made the rows.
    """
    python = ".".join(map(str, sys.version_info[:3]))
    failed = [row for row in rows if row.problems]
    lines = [
        "# The Triton kernels as compiled",
        "",
        f"Compiled without a GPU; Python {python}, torch {torch.__version__}, "
        f"triton {triton.__version__}. {len(rows)} kernels, {len(failed)} fail.",
        "",
        EXPLAINED,
        "",
        f"Redraw with `python -m benchmarks.static.report {options}`.",
    ]
    for architecture in dict.fromkeys(row.architecture for row in rows):
        here = [_cells(row)[1:] for row in rows if row.architecture == architecture]
        lines += ["", f"## {architecture}", "", *markdown_table(HEAD[1:], here, names=5)]
    return "\n".join(lines) + "\n"


def _cells(row: JudgedKernel) -> list[str]:
    made, loop = row.binary, row.binary.main_loop
    spans = str(made.spans)
    if row.kernel in ("delta", "dk_dv", "dq"):
        spans = "on" if made.spans else "off"
    tile = "×".join(str(size) for size in (made.block_m, made.block_n) if size is not None)
    kinds = ["-"] * len(SHOWN)
    if loop is not None:
        kinds = [str(loop.by_class.get(kind, 0)) for kind in SHOWN]
    return [
        row.architecture,
        row.kernel,
        str(row.width),
        row.dtype,
        f"{spans}, {row.variant}".rstrip(", "),
        tile or "-",
        *map(str, (made.warps, made.stages, made.registers)),
        f"{made.shared} of {SHARED[row.architecture]}",
        "/".join(str(each.instructions) for each in made.loops) or "-",
        "-" if row.per_block is None else str(row.per_block),
        *kinds,
        str(made.hot_spills),
        str(made.spills_outside),
        row.instruction or "-",
        row.verdict,
    ]
