"""Draw the three figures of a comparison, as PNG files."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import numpy

from sra_fast.report.comparison import Comparison, MeanSRA
from sra_fast.report.drawing import new_figure, save_figure, title
from sra_fast.report.markdown import MEANING, OWN_MEANING, number
from sra_fast.report.palette import DARK_GREY, GRID, TEMPLATE_STYLES, style_of
from sra_fast.tools.counted import counted
from sra_fast.tools.missing_extra import needed
from sra_fast.tools.printable import printable, shortened
from sra_fast.tools.small_samples import LEVEL

BY_TEMPLATE = "sra_by_template.png"
BY_TURN = "sra_by_turn.png"
BY_STRATEGY = "sra_by_strategy.png"

_MEANINGS = {
    "standard": "everything is chat",
    "hf": "older history first",
    "hl": "older history last",
}
_MANY_TURNS = 20  # from here on the curve is smoothed for the eye
_WINDOW = 7  # turns of the moving average
_DECADE = 10.0  # a curve that falls by more is drawn on a logarithmic axis


def write_plots(comparison: Comparison, folder: Path) -> list[str]:
    """Draw a comparison into ``folder``, and return the names of the files."""
    drawn = {
        BY_TEMPLATE: _by_template(comparison),
        BY_TURN: _by_turn(comparison),
        BY_STRATEGY: _by_strategy(comparison),
    }
    for name, figure in drawn.items():
        save_figure(figure, folder / name)
    return list(drawn)


def _by_template(comparison: Comparison) -> Any:
    entries = list(comparison.by_template.items())
    figure = new_figure(8.0, 1.9 + 0.42 * len(entries))
    axes = figure.axes[0]
    for row, (template, estimate) in enumerate(entries):
        colour, marker, _ = style_of(template, comparison.templates)
        _point(axes, estimate, row, colour, marker)
        axes.annotate(
            number(estimate.sra),
            (1.01, row),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=9,
            color=DARK_GREY,
        )
    axes.set_yticks(range(len(entries)))
    axes.set_yticklabels([_template_label(name) for name, _ in entries], parse_math=False)
    axes.set_ylim(len(entries) - 0.5, -0.5)
    axes.set_xlim(left=0)
    axes.xaxis.get_major_locator().set_params(nbins=7)
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_xlabel(_quantity(comparison) + _bars(estimate for _, estimate in entries))
    most = max((one for _, one in entries), key=lambda one: one.responses)
    same = all(one.responses == most.responses for _, one in entries)
    of = f"{_of(most)} each" if same else f"up to {_of(most)}"
    title(figure, "SRA by prompt template", f"mean of {of}")
    return figure


def _by_turn(comparison: Comparison) -> Any:
    curves: dict[str, list[tuple[int, MeanSRA]]] = {}
    for (template, turn), estimate in comparison.by_turn.items():
        curves.setdefault(template, [])
        if estimate.sra is not None:
            curves[template].append((turn, estimate))
    figure = new_figure(8.6, 4.8)
    axes = figure.axes[0]
    longest = max(len(curve) for curve in curves.values())
    smooth = longest >= _MANY_TURNS
    for template, curve in curves.items():
        colour, marker, line = style_of(template, comparison.templates)
        at = numpy.array([turn for turn, _ in curve])
        values = numpy.array([estimate.sra for _, estimate in curve])
        if len(curves) <= 3:
            low = numpy.array([e.sra if e.mean.low is None else e.mean.low for _, e in curve])
            high = numpy.array([e.sra if e.mean.high is None else e.mean.high for _, e in curve])
            axes.fill_between(at, low, high, color=colour, alpha=0.15, linewidth=0)
        label = _template_label(template)
        if smooth:
            axes.plot(at, values, marker, color=colour, alpha=0.35, markersize=3.5)
            axes.plot(at, _moving_average(values), line, color=colour, linewidth=2, label=label)
        else:
            axes.plot(at, values, line, marker=marker, color=colour, markersize=5, label=label)
    means = [one.sra for one in comparison.by_turn.values() if one.sra is not None]
    logarithmic = bool(means) and 0 < _DECADE * min(means) < max(means)
    if logarithmic:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    turns = [turn for _, turn in comparison.by_turn]
    axes.set_xlim(min(turns) - 0.02 * longest - 0.2, max(turns) + 0.02 * longest + 0.2)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_xlabel("assistant turn of the conversation")
    scale = " (logarithmic axis)" if logarithmic else ""
    axes.set_ylabel("\n".join(textwrap.wrap(_quantity(comparison) + scale, 40)))
    if len(curves) > 1:
        legend = axes.legend(
            loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=9
        )
        for text in legend.get_texts():
            text.set_parse_math(False)
    dialogues = max(estimate.dialogues for estimate in comparison.by_turn.values())
    parts = [f"template {next(iter(curves))}" if len(curves) == 1 else "one line per template"]
    parts.append("1 dialogue" if dialogues == 1 else f"up to {dialogues} dialogues")
    if smooth:
        parts.append(f"dots: single turns, lines: mean of {_WINDOW} turns around")
    elif len(curves) <= 3 and any(e.mean.low is not None for e in comparison.by_turn.values()):
        parts.append(f"shaded: {LEVEL:.0%} interval over dialogues")
    title(figure, "SRA by turn", "; ".join(printable(part) for part in parts))
    return figure


def _by_strategy(comparison: Comparison) -> Any:
    """Draw a table of coloured cells, in which 23 strategies and 7 templates stay readable."""
    with needed("cli", "matplotlib"):
        from matplotlib import colors

    templates = [name for name in comparison.templates if name in comparison.by_template]
    totals: dict[str, list[float]] = {}
    for (_, strategy), estimate in comparison.by_strategy.items():
        totals.setdefault(strategy, [])
        if estimate.sra is not None:
            totals[strategy].append(estimate.sra)
    order = {name: -float(numpy.mean(found)) for name, found in totals.items() if found}
    strategies = sorted(totals, key=lambda name: (order.get(name, numpy.inf), name))
    values = numpy.full((len(strategies), len(templates)), numpy.nan)
    for (template, strategy), estimate in comparison.by_strategy.items():
        if estimate.sra is not None:
            values[strategies.index(strategy), templates.index(template)] = estimate.sra
    figure = new_figure(3.9 + 0.95 * len(templates), max(3.4, 2.0 + 0.45 * len(strategies)))
    axes = figure.axes[0]
    scale = colors.Normalize(0.0, float(numpy.nanmax(values)) if order else 1.0)
    image = axes.imshow(values, aspect="auto", cmap="cividis", norm=scale)
    for row, column in numpy.ndindex(*values.shape):
        value = values[row, column]
        if not numpy.isnan(value):
            colour = "black" if scale(value) > 0.55 else "white"
            axes.text(
                column, row, number(value), ha="center", va="center", color=colour, fontsize=9
            )
    axes.set_xticks(range(len(templates)))
    axes.set_xticklabels([shortened(name, 11) for name in templates], parse_math=False)
    axes.set_yticks(range(len(strategies)))
    axes.set_yticklabels([shortened(name, 34) for name in strategies], parse_math=False)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_xticks(numpy.arange(len(templates) + 1) - 0.5, minor=True)
    axes.set_yticks(numpy.arange(len(strategies) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.tick_params(which="minor", length=0)
    bar = figure.colorbar(image, ax=axes, fraction=0.05, pad=0.02)
    bar.outline.set_visible(False)
    bar.set_label("\n".join(textwrap.wrap(_quantity(comparison), 34)))
    title(figure, "SRA by strategy and prompt template", "mean over responses")
    return figure


def _point(axes: Any, estimate: MeanSRA, row: int, colour: str, marker: str) -> None:
    if estimate.mean.low is not None and estimate.mean.high is not None:
        axes.plot(
            [estimate.mean.low, estimate.mean.high],
            [row, row],
            color=colour,
            linewidth=2,
            alpha=0.6,
        )
    if estimate.sra is not None:
        axes.plot([estimate.sra], [row], marker, color=colour, markersize=8)


def _template_label(template: str) -> str:
    if template not in TEMPLATE_STYLES:
        return shortened(template, 24)
    return f"{template} ({_MEANINGS[template.split('_')[-1]]})"


def _quantity(comparison: Comparison) -> str:
    name = comparison.definition
    return f"SRA ({name} definition), {MEANING.get(name, OWN_MEANING)}"


def _of(estimate: MeanSRA) -> str:
    replies = counted(estimate.responses, "response")
    if estimate.dialogues == 1:
        return f"{replies} of 1 conversation"
    return f"{replies} of {estimate.dialogues:,} dialogues"


def _bars(estimates: Any) -> str:
    known = any(estimate.mean.low is not None for estimate in estimates)
    return f"\nbars: {LEVEL:.0%} interval over dialogues" if known else ""


def _moving_average(values: Any) -> Any:
    """Return the moving average of values; it takes fewer neighbours near both ends."""
    count = len(values)
    halves = [min(_WINDOW // 2, i, count - 1 - i) for i in range(count)]
    return numpy.array([values[i - h : i + h + 1].mean() for i, h in enumerate(halves)])
