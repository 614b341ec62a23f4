"""Draw how often intervals hold, against the 0.95 that they promise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.statistics.coverage import Coverage
from sra_fast.report.drawing import new_figure, save_figure, title
from sra_fast.report.palette import BLACK, BLUE, GREEN, GREY, GRID, ORANGE, PURPLE, SKY, YELLOW
from sra_fast.tools.small_samples import LEVEL

STYLES = {
    2: (GREY, "1"),
    3: (SKY, "2"),
    5: (PURPLE, "x"),
    8: (ORANGE, "v"),
    12: (YELLOW, "s"),
    30: (BLUE, "o"),
    100: (GREEN, "D"),
}
"""Colour and marker of each number of dialogues."""

LEAST = 0.88


def draw(
    coverage: Sequence[Coverage],
    conditions: Sequence[Coverage],
    bootstrap: Sequence[Coverage],
    path: Path,
) -> None:
    """Draw the coverage of every case as dots, one for each number of dialogues.

    Args:
        coverage: the intervals of single figures, for the left panel.
        conditions: the interval of r over conditions, for the right panel.
        bootstrap: what that interval was before, drawn hollow.
        path: the file of the picture.
    """
    rows = len({(one.figure, one.data) for one in coverage})
    figure = new_figure(13.0, 1.8 + 0.24 * rows, 2)
    left, right = figure.axes
    _panel(left, coverage, {"fillstyle": "full"})
    _panel(right, conditions, {"fillstyle": "full"})
    _panel(right, bootstrap, {"fillstyle": "none", "alpha": 0.8})
    left.set_xlim(0.8, 1.005)
    right.set_xlim(0.0, 1.02)
    left.set_xlabel("share of intervals that hold the true figure")
    right.set_xlabel(
        "the same, of r over eight conditions\nhollow: bootstrap percentiles, as before"
    )
    handles = [
        left.plot([], [], marker, color=colour, linestyle="", label=f"{number} dialogues")[0]
        for number, (colour, marker) in STYLES.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    simulations = max(one.simulations for one in coverage)
    title(
        figure,
        "How often 95% intervals hold",
        f"{simulations:,} simulations a dot; lines: {LEAST} and {LEVEL}",
    )
    save_figure(figure, path)


def _panel(axes: Any, found: Sequence[Coverage], style: dict[str, Any]) -> None:
    several = len({one.figure for one in found}) > 1
    labels = [f"{one.figure}: {one.data}" if several else one.data for one in found]
    cases = list(dict.fromkeys(labels))
    for one, label in zip(found, labels, strict=True):
        if one.covered is not None:
            colour, marker = STYLES[one.dialogues]
            axes.plot(
                [one.covered], [cases.index(label)], marker, color=colour, markersize=6, **style
            )
    for share, colour in ((LEAST, GREY), (LEVEL, BLACK)):
        axes.axvline(share, color=colour, linewidth=1, linestyle="--", zorder=0)
    axes.set_yticks(range(len(cases)))
    axes.set_yticklabels(cases, fontsize=8.5)
    axes.set_ylim(len(cases) - 0.5, -0.5)
    axes.grid(axis="y", color=GRID, linewidth=0.6)
