"""Measure what watching SRA costs a training step on this CPU.

The command is ``python -m benchmarks.finetuning.cost``; it writes ``training-cost.json`` and
``training-cost.md``. A ratio is given only if losses and SRA of all ways agree; it is the median
over rounds in which the ways take turns. Memory is the peak of a second, short training in a fresh
process, above what was held before it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.finetuning.steps import WAYS, Stepped, Training, TrainingWay, alternate, ratios
from benchmarks.measuring import machine
from benchmarks.measuring.cases import SMALL, SMOLLM2, ModelCase, build_batch, build_model
from benchmarks.measuring.fresh_process import in_fresh_process
from benchmarks.measuring.peak_memory import with_peak
from sra_fast.tools.atomic import write_json, write_text
from sra_fast.tools.markdown_table import markdown_table

RESULTS = Path(__file__).parents[1] / "results"
NAME = "training-cost"

RANK = 16
TOLERANCE = 1e-4  # the largest relative difference of losses and SRA between ways
STEPS = 3  # steps that a way takes in each round; the first is not timed


@dataclass(frozen=True)
class StepCost:
    """A case and what each way of training took at it.

    Attributes:
        case: the model and length in words.
        seconds: the median seconds per step of each way.
        ratio: each way's seconds divided by the plain one's, the median over rounds.
        peak_bytes: the peak memory of each way above what was held before the training.
        loss, sra: what each way computed.
        right: whether losses and SRA agree.
    """

    case: str
    seconds: dict[TrainingWay, float]
    ratio: dict[TrainingWay, float]
    peak_bytes: dict[TrainingWay, int]
    loss: dict[TrainingWay, float]
    sra: dict[TrainingWay, float]
    right: bool


def measure(case: ModelCase, rounds: int) -> StepCost:
    """Measure one case: time in this process, memory in fresh ones."""
    training = _training(case)
    for way in WAYS:
        training.run(way, 2)  # a warm-up that loads code and compiles kernels
    done = alternate(training, tuple(WAYS), rounds, STEPS, lambda: True)
    return _row(case, done, {way: in_fresh_process(_peak, case, way) for way in WAYS})


def agree(values: Sequence[float]) -> bool:
    """Return whether all values lie within :data:`TOLERANCE` of the first."""
    return all(abs(value - values[0]) <= TOLERANCE * abs(values[0]) for value in values)


def as_markdown(rows: Sequence[StepCost], facts: Mapping[str, Any]) -> str:
    """Return the page to read, with one table per case."""
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


def _training(case: ModelCase) -> Training:
    return Training(build_model(case), build_batch(case), RANK, checkpointing=False)


def _peak(case: ModelCase, way: TrainingWay) -> int:
    training = _training(case)
    training.run(way, 2)
    return with_peak(lambda: training.run(way, 2))[0]


def _row(
    case: ModelCase, done: Mapping[TrainingWay, Sequence[Stepped]], peaks: Mapping[TrainingWay, int]
) -> StepCost:
    loss = {way: turns[-1].loss for way, turns in done.items()}
    sra = {way: sra for way, turns in done.items() if (sra := turns[-1].sra) is not None}
    return StepCost(
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
    """Run the command; the exit status is 1 if the ways do not agree."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.finetuning.cost",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=RESULTS,
        metavar="DIR",
        help="The folder that training-cost.json and training-cost.md are written into.",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=3,
        help="Time training steps with and without SRA this many times in turn (default 3).",
    )
    parser.add_argument(
        "--lengths",
        type=int,
        nargs="+",
        default=[1024, 2048],
        metavar="T",
        help="The lengths of the conversation to measure, in tokens (default 1024 2048).",
    )
    parser.add_argument(
        "--quick", action="store_true", help="Measure one small case in a single round."
    )
    given = parser.parse_args(arguments)
    cases = (
        [ModelCase(SMALL, 256)] if given.quick else [ModelCase(SMOLLM2, T) for T in given.lengths]
    )
    rows: list[StepCost] = []
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
