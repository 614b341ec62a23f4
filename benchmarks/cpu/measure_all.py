"""Measure the score and its alternatives on this CPU, and redraw the recorded results.

The command is ``python -m benchmarks.cpu``. The package ``flash-colreduce``, which some compare
with, runs on GPUs only and is not part of this.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.cpu import floor, record
from benchmarks.cpu.compare import ComparedAlternative, ComparedCase, Known, compare
from benchmarks.cpu.measure import OURS
from benchmarks.measuring import machine
from benchmarks.measuring.cases import SMALL, SMOLLM2, WIDE, ModelCase

RESULTS = Path(__file__).parents[1] / "results"


@dataclass(frozen=True)
class Planned:
    """A case, its alternatives, and how often each is measured.

    Attributes:
        case: the model and length to run.
        keys: the letters of the alternatives.
        pairs: for each alternative, how many pairs of calls with ``score`` to time.
        repeats: how many fresh processes measure the memory of ``score`` and of the floor.
    """

    case: ModelCase
    keys: Sequence[str]
    pairs: Mapping[str, int]
    repeats: int = 1


def full_plan(bfloat16: bool) -> list[Planned]:
    """Return the cases of a full run, which takes about eighteen minutes on two cores."""
    plan = [Planned(ModelCase(SMOLLM2, tokens), "abcd", _pairs(tokens)) for tokens in LENGTHS]
    if bfloat16:  # its tolerance is eager's own error; eager is too slow at the last length
        plan += [
            Planned(ModelCase(SMOLLM2, tokens, "bfloat16"), "bcd", _pairs(tokens))
            for tokens in LENGTHS[:4]
        ]
    plan += [Planned(ModelCase(SMALL, tokens), "abcd", _pairs(tokens)) for tokens in LENGTHS[:4]]
    plan += [Planned(ModelCase(WIDE, tokens), "abcd", _pairs(tokens)) for tokens in LENGTHS[:2]]
    return plan


def quick_plan(bfloat16: bool) -> list[Planned]:
    """Return the cases of a run under a minute: float32 alone, even if the CPU has bfloat16."""
    pairs = {"a": 1, "b": 1, "c": 3}
    return [
        Planned(ModelCase(SMOLLM2, LENGTHS[0]), "abcd", pairs),
        Planned(ModelCase(SMOLLM2, LENGTHS[1]), "bcd", pairs),
    ]


def execute(plan: Sequence[Planned]) -> list[ComparedCase]:
    """Run the cases in order, and print to standard error how each went."""
    known = Known()
    rows = []
    for planned in plan:
        start = time.perf_counter()
        row = compare(planned.case, planned.keys, planned.pairs, known, planned.repeats)
        rows.append(row)
        print(f"{planned.case} ({time.perf_counter() - start:.0f} s)", file=sys.stderr)
        for key, cell in row.cells.items():
            print(f"  ({key}) {_line(cell)}", file=sys.stderr, flush=True)
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status is 1 if an alternative is wrong, unchecked or failed.

    A run in which the score failed leaves what was recorded before as it is.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="Measure two lengths only, in under a minute."
    )
    parser.add_argument(
        "--floor",
        action="store_true",
        help="Hold the score to the plain forward pass alone: its time at two lengths, and the "
        "memory of a process's first call. Nothing is written.",
    )
    parser.add_argument(
        "--pairs",
        type=int,
        default=15,
        help="How many pairs of calls to time with --floor, per length.",
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="The folder that cpu.json, cpu.md and cpu.png are written into. By default this is "
        "benchmarks/results; with --quick nothing is written.",
    )
    options = parser.parse_args(arguments)
    if options.floor:
        try:
            print(floor.report(options.pairs))
        except floor.WrongAnswerError as error:
            print(error, file=sys.stderr)
            return 1
        return 0
    facts = machine.facts()
    plan = (quick_plan if options.quick else full_plan)(facts["bfloat16"])
    rows = execute(plan)
    print(record.as_markdown(rows, facts))
    statuses = {cell.status for row in rows for cell in row.cells.values()}
    folder = options.out if options.quick else options.out or RESULTS
    if "failed" in {row.cells[OURS].status for row in rows}:
        print("sra_fast.score failed: nothing was recorded", file=sys.stderr)
    elif folder is not None:
        record.write(rows, facts, folder)
    return int(not statuses <= {"ok", "does not fit"})


def _pairs(tokens: int) -> dict[str, int]:
    """Return how many pairs to time per alternative, most for the floor with its ratio near 1."""
    several = 3 if tokens <= 512 else 1
    return {"a": several, "b": several, "c": 5 if tokens <= 1024 else 3}


def _line(cell: ComparedAlternative) -> str:
    if cell.seconds is None or cell.peak_bytes is None:
        return f"{cell.status}: {cell.note}"
    ratio = "" if cell.time_ratio is None else f", score takes {cell.time_ratio:.3f} of it"
    return f"{cell.seconds:.2f} s, {record.memory(cell.peak_bytes)}{ratio}; {cell.note}"


LENGTHS = (512, 1024, 2048, 4096, 8192)
