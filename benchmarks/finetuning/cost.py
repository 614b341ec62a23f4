"""``python -m benchmarks.finetuning.cost``: what watching SRA costs a training step on this CPU.

Writes ``training-cost.json`` and ``training-cost.md``. A ratio is given only if losses and SRA of
all ways agree; it is the median over rounds in which the ways take turns. Memory is the peak of a
second, short training in a fresh process, above what was held before it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.finetuning.steps import WAYS, Stepped, Training, Way, alternate, ratios
from benchmarks.measuring import machine
from benchmarks.measuring.cases import SMALL, SMOLLM2, Case, build_batch, build_model
from benchmarks.measuring.fresh_process import in_fresh_process
from benchmarks.measuring.peak_memory import with_peak
from sra_fast.tools.atomic import write_json, write_text
from sra_fast.tools.markdown_table import markdown_table

RESULTS = Path(__file__).parents[1] / "results"
NAME = "training-cost"

RANK = 16
TOLERANCE = 1e-4  # relative, of losses and SRA
STEPS = 3  # of a turn; the first is not timed


@dataclass(frozen=True)
class Row:
    """A case and what its ways took.

    Attributes:
        case: in words.
        seconds: per step, the median over all steps of a way.
        ratio: of each way's seconds to the plain one's, the median over rounds.
        peak_bytes: above what was held before the training.
        loss, sra: what each way computed.
        right: whether these agree.
    """

    case: str
    seconds: dict[Way, float]
    ratio: dict[Way, float]
    peak_bytes: dict[Way, int]
    loss: dict[Way, float]
    sra: dict[Way, float]
    right: bool


def measure(case: Case, rounds: int) -> Row:
    """Time in this process, memory in fresh ones."""
    training = _training(case)
    for way in WAYS:
        training.run(way, 2)  # loads code, compiles kernels
    done = alternate(training, tuple(WAYS), rounds, STEPS, lambda: True)
    return _row(case, done, {way: in_fresh_process(_peak, case, way) for way in WAYS})


def agree(values: Sequence[float]) -> bool:
    """Whether all lie within :data:`TOLERANCE` of the first."""
    return all(abs(value - values[0]) <= TOLERANCE * abs(values[0]) for value in values)


def as_markdown(rows: Sequence[Row], facts: Mapping[str, Any]) -> str:
    """The table."""
    head = f"""# What watching SRA costs a training step

{facts["cpu"]}, {facts["cores"]} cores ({facts["threads"]} threads), torch {facts["torch"]}, \
transformers {facts["transformers"]}, commit {facts["commit"]}. LoRA of rank {RANK} on all linear \
layers, float32, one conversation of T tokens per step, logged at every step. The ways take \
turns; a ratio is the median over rounds. Memory is the peak of a training above what the process \
held before it. Redraw with `python -m benchmarks.finetuning.cost`.
"""
    lines = [head]
    for row in rows:
        lines += [f"## {row.case}", ""]
        if not row.right:
            lines += [f"**WRONG**: losses {row.loss}, SRA {row.sra}", ""]
            continue
        cells = [
            (
                label,
                f"{row.seconds[way]:.2f}",
                f"{row.ratio[way]:.3f}",
                f"{row.peak_bytes[way] / 1e6:.0f}",
                f"{row.peak_bytes[way] / row.peak_bytes['plain']:.3f}",
            )
            for way, label in WAYS.items()
        ]
        lines += markdown_table(("", "s per step", "time", "peak, MB", "memory"), cells)
        lines += [f"SRA: {', '.join(f'{way} {sra:.9f}' for way, sra in row.sra.items())}.", ""]
    return "\n".join(lines)


def _training(case: Case) -> Training:
    return Training(build_model(case), build_batch(case), RANK, checkpointing=False)


def _peak(case: Case, way: Way) -> int:
    training = _training(case)
    training.run(way, 2)
    return with_peak(lambda: training.run(way, 2))[0]


def _row(case: Case, done: Mapping[Way, Sequence[Stepped]], peaks: Mapping[Way, int]) -> Row:
    loss = {way: turns[-1].loss for way, turns in done.items()}
    sra = {way: sra for way, turns in done.items() if (sra := turns[-1].sra) is not None}
    return Row(
        case=str(case),
        seconds={
            way: median(second for turn in turns for second in turn.seconds)
            for way, turns in done.items()
        },
        ratio=ratios(done),
        peak_bytes=dict(peaks),
        loss=loss,
        sra=sra,
        right=agree(list(loss.values()))
        and len(sra) == len(WAYS) - 1
        and agree(list(sra.values())),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 1 if the ways do not agree."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.finetuning.cost")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR")
    parser.add_argument("--rounds", type=int, default=3, help="of all ways (default 3)")
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 2048], metavar="T")
    parser.add_argument("--quick", action="store_true", help="one small case, one round")
    given = parser.parse_args(arguments)
    cases = [Case(SMALL, 256)] if given.quick else [Case(SMOLLM2, T) for T in given.lengths]
    rows: list[Row] = []
    facts = machine.facts()
    given.out.mkdir(parents=True, exist_ok=True)
    for case in cases:
        rows.append(measure(case, 1 if given.quick else given.rounds))
        print(f"{case}: {rows[-1].ratio}", file=sys.stderr, flush=True)
        record = {"machine": facts, "ways": WAYS, "rows": [asdict(row) for row in rows]}
        write_json(given.out / f"{NAME}.json", record)
        write_text(given.out / f"{NAME}.md", as_markdown(rows, facts))
    print(as_markdown(rows, facts))
    return 0 if all(row.right for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
