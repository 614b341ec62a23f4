"""Draw one model's time and peak memory against the length of the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.cpu.compare import ComparedCase
from benchmarks.measuring.alternatives import ALTERNATIVES
from sra_fast.report.drawing import save_figure
from sra_fast.report.palette import BLUE, DARK_GREY, GRID, ORANGE, YELLOW

STYLES: dict[str, dict[str, Any]] = {
    "a": {"color": ORANGE, "marker": "s", "linestyle": "-"},
    "b": {"color": YELLOW, "marker": "^", "linestyle": "-"},
    "c": {
        "color": DARK_GREY,
        "marker": "o",
        "linestyle": "--",
        "fillstyle": "none",
        "markersize": 9,
    },
    "d": {"color": BLUE, "marker": "o", "linestyle": "-"},
}


def draw(rows: Sequence[ComparedCase], path: Path) -> None:
    """Draw the cases of the first model and dtype among ``rows`` into the image at ``path``."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    first = rows[0].case
    members = [
        row for row in rows if (row.case.shape, row.case.dtype) == (first.shape, first.dtype)
    ]
    lengths = [row.case.tokens for row in members]
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    time_axes, memory_axes = figure.subplots(1, 2)
    for key, alternative in ALTERNATIVES.items():
        cells = [(row.case.tokens, row.cells[key]) for row in members if key in row.cells]
        good = [(tokens, cell) for tokens, cell in cells if cell.status == "ok"]
        label = f"({key}) {alternative.label}"
        style = {"linewidth": 1.8, "markersize": 6, **STYLES[key]}
        at = [tokens for tokens, _ in good]
        time_axes.plot(at, [cell.seconds for _, cell in good], label=label, **style)
        memory_axes.plot(at, [(cell.peak_bytes or 0) / 1e9 for _, cell in good], **style)
        for tokens, cell in cells:
            if cell.status == "does not fit" and cell.peak_bytes is not None:
                _mark_misfit(memory_axes, tokens, cell.peak_bytes / 1e9, style["color"], lengths)
        misfits = [str(tokens) for tokens, cell in cells if cell.status == "does not fit"]
        if misfits and good:
            time_axes.annotate(
                f"does not fit at {', '.join(misfits)}",
                (good[-1][0], good[-1][1].seconds or 0.0),
                xytext=(-9, 6),
                textcoords="offset points",
                ha="right",
                color=style["color"],
            )
    time_axes.set_ylabel("time of one call (s)")
    memory_axes.set_ylabel("peak memory above the model (GB)")
    for axes in (time_axes, memory_axes):
        if not any(len(line.get_xdata()) for line in axes.lines):
            axes.set_ylim(0.1, 10)  # nothing is right: an empty panel still needs a range
        axes.set_xlim(lengths[0] / 1.15, lengths[-1] * 1.15)
        axes.set(xscale="log", yscale="log", xlabel="tokens T")
        axes.set_xticks(lengths, [str(tokens) for tokens in lengths])
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.minorticks_off()
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=20))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.grid(color=GRID, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(
        f"{first.shape.name}, {first.dtype}, CPU: SRA of a response of {first.response} tokens"
    )
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    save_figure(figure, path)


def _mark_misfit(
    axes: Any, tokens: int, needed: float, colour: str, lengths: Sequence[int]
) -> None:
    axes.plot([tokens], [needed], marker="x", markersize=9, markeredgewidth=2.5, color=colour)
    axes.annotate(
        f"does not fit ({needed:.0f} GB)",
        (tokens, needed),
        xytext=(-9, 0) if tokens == max(lengths) else (9, 0),
        textcoords="offset points",
        ha="right" if tokens == max(lengths) else "left",
        va="center",
        color=colour,
    )
