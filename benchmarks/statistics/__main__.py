"""``python -m benchmarks.statistics``: simulates whether intervals and the heads' threshold hold.

Takes some ten minutes on one core, and writes ``statistics.json``, ``statistics.md`` and
``statistics.png``. The draws depend on fixed seeds alone.
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy

from benchmarks.statistics import conditions_coverage, coverage, head_threshold
from benchmarks.statistics.statistics_record import Simulated, write
from sra_fast.files.provenance import commit

RESULTS = Path(__file__).parents[1] / "results"


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate everything and write the record."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.statistics")
    parser.add_argument(
        "--simulations",
        type=int,
        default=coverage.SIMULATIONS,
        metavar="N",
        help="How many data sets to draw for each cell.",
    )
    parser.add_argument(
        "--out", type=Path, default=RESULTS, metavar="DIR", help="The folder to write into."
    )
    given = parser.parse_args(arguments)
    single = [
        coverage.coverage(case, number, given.simulations)
        for case in coverage.cases()
        for number in coverage.DIALOGUES
    ]
    _tell("means, shares, differences, correlations")
    pairs = [
        conditions_coverage.coverage_over_conditions(rho, spread, number, given.simulations)
        for rho in conditions_coverage.CORRELATIONS
        for spread in conditions_coverage.SPREADS
        for number in conditions_coverage.DIALOGUES
    ]
    _tell("r over conditions")
    heads = [
        head_threshold.found(*setting, given.simulations) for setting in head_threshold.settings()
    ]
    _tell("heads")
    machine = {
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "commit": commit(),
    }
    ours, before = [one for one, _ in pairs], [one for _, one in pairs]
    write(Simulated(single, ours, before, heads), machine, given.out)
    return 0


def _tell(what: str) -> None:
    print(f"simulated: {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
