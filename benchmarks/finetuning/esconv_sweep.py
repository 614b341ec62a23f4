"""Fine-tune SmolLM2-135M on real conversations, once for each weight of SRA in the loss.

The command is ``python -m benchmarks.finetuning.esconv_sweep ESCONV.json``. All LoRA runs start
from the same model on the same conversations, and the report says what came of them. A weight takes
about seven minutes on two cores; after being killed at any moment, the same command goes on. Only
numbers are recorded: the conversations stay where they are (CC BY-NC).
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.finetuning import sweep_report
from benchmarks.finetuning.chosen import choose
from benchmarks.finetuning.sweep import CONFIG, dialogues_of, run_weight
from benchmarks.measuring import machine

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "training-smollm2"
WEIGHTS = (0.0, 0.03, 0.1, 0.3)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status is 1 if a score afterwards is not what was logged."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.finetuning.esconv_sweep",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "esconv", type=Path, metavar="ESCONV.json", help="The file of ESConv's dialogues to read."
    )
    parser.add_argument(
        "--model", default="smollm2", help="The model to fine-tune: a folder or a name."
    )
    parser.add_argument(
        "--weights",
        type=float,
        nargs="+",
        default=WEIGHTS,
        metavar="W",
        help="The weights of SRA in the loss to train with; 0 is always among them.",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=RESULTS,
        metavar="DIR",
        help="The folder that results.json, report.md and the pictures are written into.",
    )
    parser.add_argument(
        "--work",
        type=Path,
        default=ROOT / "build" / "training-smollm2",
        metavar="DIR",
        help="The folder that keeps conversations, checkpoints and adapters between calls.",
    )
    parser.add_argument(
        "--scale",
        type=float,
        default=1.0,
        help="Multiply the number of conversations by this factor (default 1).",
    )
    parser.add_argument(
        "--steps", type=int, help="Train this many steps instead of one pass over the data."
    )
    given = parser.parse_args(arguments)
    config = CONFIG if given.steps is None else replace(CONFIG, max_steps=given.steps)
    chosen = choose(given.esconv, given.work, config.seed, given.scale)
    outcomes = []
    for weight in sorted({0.0, *given.weights}):
        print(f"weight {weight:g}", file=sys.stderr, flush=True)
        folder = given.work / f"weight-{weight:g}"
        outcomes.append(
            run_weight(weight, config, given.model, chosen.training, chosen.held_out, folder)
        )
    text = sweep_report.write(
        outcomes, chosen, dialogues_of(chosen.held_out), config, machine.facts(), given.out
    )
    for weight in {0.0, sweep_report.best(outcomes).weight}:
        curves = given.work / f"weight-{weight:g}" / "curves.png"
        shutil.copyfile(curves, given.out / f"curves-{weight:g}.png")
    print(text)
    return 0 if all(outcome.difference <= 1e-5 for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
