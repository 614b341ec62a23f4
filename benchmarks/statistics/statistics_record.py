"""Write the recorded simulations: ``statistics.json``, ``statistics.md`` and ``statistics.png``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks.measuring.compact_json import compact_json
from benchmarks.statistics.coverage import Coverage
from benchmarks.statistics.coverage_figure import draw
from benchmarks.statistics.head_threshold import PLANTED, Found
from sra_fast.tools.atomic import write_text
from sra_fast.tools.estimates import FEWEST, FEWEST_OF_SHARE, METHODS
from sra_fast.tools.markdown_table import markdown_table

NAME = "statistics"


@dataclass(frozen=True)
class Simulated:
    """Everything that was simulated.

    Attributes:
        coverage: the intervals of means, shares, differences, correlations, AUC and alpha.
        conditions: the interval of r over conditions.
        bootstrap: what that interval was before.
        heads: how often the threshold of heads finds one.
    """

    coverage: Sequence[Coverage]
    conditions: Sequence[Coverage]
    bootstrap: Sequence[Coverage]
    heads: Sequence[Found]


def write(simulated: Simulated, machine: Mapping[str, Any], folder: Path) -> None:
    """Write the record, its page and its picture into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = {name: [asdict(one) for one in getattr(simulated, name)] for name in _PARTS}
    record = {"machine": dict(machine), "methods": METHODS, **parts}
    write_text(folder / f"{NAME}.json", compact_json(record))
    write_text(folder / f"{NAME}.md", page(simulated, machine))
    draw(simulated.coverage, simulated.conditions, simulated.bootstrap, folder / f"{NAME}.png")


_PARTS = ("coverage", "conditions", "bootstrap", "heads")


def page(simulated: Simulated, machine: Mapping[str, Any]) -> str:
    """Return the tables as a page of Markdown."""
    most = max(one.simulations for one in simulated.coverage)
    return "\n".join(
        [
            "# How often the intervals hold",
            "",
            f"{most:,} simulations a cell, with the library's own functions; commit "
            f"{machine['commit']}, Python {machine['python']}. What is to be held is 0.95. A "
            "dialogue has from 1 to 8 replies, which correlate by 0.3; log-normal data have a "
            "standard deviation of 1 on the logarithm. A dash: no interval is printed, which takes "
            f"{FEWEST} dialogues, of shares {FEWEST_OF_SHARE}. In brackets: the share of "
            "simulations that got an interval, where that is not all.",
            "",
            f"![How often the intervals hold the true figure]({NAME}.png)",
            "",
            "## Means, shares, differences, correlations",
            "",
            *_coverage_table(simulated.coverage, ("figure", "of")),
            "Of alpha and AUC the columns are items and dialogues.",
            "",
            "## SRA against accuracy over eight conditions",
            "",
            "r of the conditions' true means is to be held. Conditions that are close differ in "
            "log SRA by a standard deviation of 0.15, apart 0.3, far apart 0.6, where replies "
            "differ by 1. Where the means differ by too little beside their noise, no interval is "
            "printed.",
            "",
            *_coverage_table(simulated.conditions, ("figure", "conditions")),
            "What it was before, percentiles of r over resampled dialogues:",
            "",
            *_coverage_table(simulated.bootstrap, ("figure", "conditions")),
            "## Heads beyond chance",
            "",
            "24 heads, four strategies, four rows. Without a planted head, at most 0.05 of the "
            f"data sets should have one beyond chance. Planted: head {PLANTED} has its log mass "
            "(of deviation 0.5 within a dialogue) raised where the label is true. The last column "
            "is what the analysis itself says of its power, for a head of AUC 0.7.",
            "",
            *markdown_table(
                (
                    "dialogues",
                    "effect on mass",
                    "on labels",
                    "raised by",
                    "verdicts",
                    "a head is found",
                    "the planted one",
                    "stated power",
                ),
                [
                    (
                        str(one.dialogues),
                        f"{one.on_mass:g}",
                        f"{one.on_labels:g}",
                        f"{one.raised:g}",
                        f"{one.judged} of {one.simulations}",
                        f"{one.any_head:.3f}",
                        "–" if one.planted_head is None else f"{one.planted_head:.3f}",
                        f"{one.power:.2f}",
                    )
                    for one in simulated.heads
                ],
                names=0,
            ),
            "Simulate again with `python -m benchmarks.statistics`.",
            "",
        ]
    )


def _coverage_table(found: Sequence[Coverage], names: tuple[str, str]) -> list[str]:
    numbers = sorted({one.dialogues for one in found})
    rows = []
    for (figure, data), members in groupby(found, lambda one: (one.figure, one.data)):
        cells = {one.dialogues: _cell(one) for one in members}
        rows.append((figure, data, *(cells.get(number, "") for number in numbers)))
    return markdown_table((*names, *map(str, numbers)), rows, 2)


def _cell(one: Coverage) -> str:
    if not one.printed:
        return "–"
    share = "" if one.printed == 1 else f" ({one.printed:.2f})"
    return ("few" if one.covered is None else f"{one.covered:.3f}") + share
