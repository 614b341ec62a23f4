"""Draw the figures of a steering study: advantage and ranking against strength, and groups."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sra_fast.report.drawing import new_figure, save_figure, title
from sra_fast.report.palette import BLACK, BLUE, GRID, ORANGE

from ..evaluation.figure_parts import bounds
from .setting_results import SettingResult

ADVANTAGE_PNG = "advantage_by_strength.png"
FIRST_PNG = "own_first_by_strength.png"
GROUPS_PNG = "groups.png"

_STYLES = {"strategy": (BLUE, "o", "strategy"), "control": (ORANGE, "s", "situation (control)")}


def write_study_figures(folder: Path, found: Sequence[SettingResult]) -> list[str]:
    """Draw the figures into a folder and return the names of the files.

    Args:
        folder: the folder, which must exist.
        found: the results of each setting. A figure without any is left out.
    """
    drawn: dict[str, Any] = {}
    if any(one.part in _STYLES for one in found):
        drawn[ADVANTAGE_PNG] = _by_strength(
            found, "per_token", "shuffled_per_token", "advantage, log p per token"
        )
        drawn[FIRST_PNG] = _by_strength(
            found, "first", "shuffled_first", "share of replies whose own strategy ranks first"
        )
    if any(one.part == "groups" for one in found):
        drawn[GROUPS_PNG] = _groups(found)
    for name, figure in drawn.items():
        save_figure(figure, folder / name)
    return list(drawn)


def _by_strength(found: Sequence[SettingResult], name: str, baseline: str, label: str) -> Any:
    """Draw a figure against the bias, on the left, and against the share, on the right."""
    figure = new_figure(10.0, 4.4, 2, share_y=True)
    left, right = figure.axes
    biases = [one.bias for one in found if one.bias is not None]
    below = min([0.0, *biases]) - 1.5  # where the knock-out stands, whose bias is minus infinity
    for part, (colour, marker, text) in _STYLES.items():
        some = [one for one in found if one.part == part]
        points = [(below, one) for one in some if one.knock_out]
        points += [(one.bias, one) for one in some if one.bias is not None]
        if points:
            points += [(0.0, one) for one in found if one.part is None]
        _curve(left, points, name, colour, marker, text)
        _curve(left, points, baseline, colour, marker, f"{text}, labels shuffled", quiet=True)
        points = [(one.share, one) for one in some if one.share is not None]
        _curve(right, points, name, colour, marker, text)
        _curve(right, points, baseline, colour, marker, "", quiet=True)
    ticks = sorted({below, 0.0, *biases})
    left.set_xticks(ticks)
    left.set_xticklabels(["knocked\nout" if at == below else f"{at:g}" for at in ticks], fontsize=8)
    left.set_xlabel("bias β on the span's logits (0: unsteered)")
    right.set_xlabel("least share of the attention on the span")
    left.set_ylabel(label)
    for axes in figure.axes:
        axes.grid(axis="y", color=GRID, linewidth=0.8)
    left.legend(frameon=False, fontsize=8)
    title(figure, "Steering and adherence", "bars: 95% interval over dialogues")
    return figure


def _curve(
    axes: Any,
    points: Sequence[tuple[float | None, SettingResult]],
    name: str,
    colour: str,
    marker: str,
    text: str,
    *,
    quiet: bool = False,
) -> None:
    known = [
        (x, one.figures[name])
        for x, one in sorted(points, key=lambda point: point[0] or 0.0)
        if one.figures[name].value is not None
    ]
    if not known:
        return
    axes.plot(
        [x for x, _ in known],
        [one.value for _, one in known],
        ":" if quiet else "-",
        marker=None if quiet else marker,
        color=colour,
        markersize=5,
        label=text or None,
    )
    if not quiet:
        for x, one in known:
            axes.plot([x, x], bounds(one), color=colour, linewidth=1.5, alpha=0.45)


def _groups(found: Sequence[SettingResult]) -> Any:
    """Draw how much steering each group of layers or heads changes the advantage."""
    some = [one for one in found if one.part == "groups" and one.change is not None]
    figure = new_figure(8.0, 1.6 + 0.28 * max(1, len(some)))
    axes = figure.axes[0]
    for at, one in enumerate(some):
        assert one.change is not None
        if one.change.value is not None:
            axes.plot(bounds(one.change), [at, at], color=BLUE, linewidth=2, alpha=0.5)
            axes.plot([one.change.value], [at], "o", color=BLUE, markersize=5)
    axes.axvline(0, color=BLACK, linewidth=0.8)
    axes.set_yticks(range(len(some)))
    axes.set_yticklabels([one.setting for one in some], fontsize=8)
    axes.set_ylim(len(some) - 0.5, -0.5)
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_xlabel("change of the advantage, log p per token")
    title(figure, "Steering groups of layers and heads", "bars: 95% interval over dialogues")
    return figure
