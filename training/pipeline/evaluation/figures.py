"""Draw the figures of an evaluation as PNG files: Figures 2, 4 and 11 of the paper and two more."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sra_fast.report.drawing import new_figure, save_figure, title
from sra_fast.report.markdown import MEANING
from sra_fast.report.palette import BLACK, BLUE, DARK_GREY, GREY, GRID, ORANGE, style_of
from sra_fast.tools.estimates import Estimate
from sra_fast.tools.printable import shortened

from .analysis import Analysis, AnalysisError
from .figure_parts import bounds, coefficient, place_labels
from .heads import HeadAnalysis
from .published import PUBLISHED, published_relation

ACCURACY_BY_TURN = "accuracy_by_turn.png"
SRA_BY_TURN = "sra_by_turn.png"
AGAINST_ACCURACY = "sra_against_accuracy.png"
BY_STRATEGY = "by_strategy.png"
HEADS = "heads.png"

_FEW = 3  # the intervals of at most so many conditions can be told apart in one figure


def write_figures(
    folder: Path, analysis: Analysis, definition: str, heads: HeadAnalysis | None = None
) -> list[str]:
    """Draw the figures into a folder and return the names of the files.

    Args:
        folder: the folder, which must exist.
        analysis: the figures to draw.
        definition: the definition of SRA that is drawn, one of ``analysis.scores``.
        heads: how well single heads predict adherence; without it, or where its AUC is undefined,
            the figure of the heads is left out.

    Raises:
        AnalysisError: the records have no scores by that definition.
        OSError: a file cannot be written.
    """
    if definition not in analysis.scores:
        raise AnalysisError(
            f"the records have no SRA by the definition {definition!r}; they have "
            f"{', '.join(analysis.scores)}"
        )
    drawn = {
        ACCURACY_BY_TURN: _by_turn(analysis, None),
        SRA_BY_TURN: _by_turn(analysis, definition),
        AGAINST_ACCURACY: _against_accuracy(analysis, definition),
        BY_STRATEGY: _by_strategy(analysis, definition),
    }
    if heads is not None and heads.median is not None:
        drawn[HEADS] = _heads(heads)
    for name, figure in drawn.items():
        save_figure(figure, folder / name)
    return list(drawn)


def _by_turn(analysis: Analysis, definition: str | None) -> Any:
    """Draw SRA by one definition, or accuracy (None), of every condition over the turns."""
    names = [condition.row for condition in analysis.rows]
    figure = new_figure(8.6, 4.8)
    axes = figure.axes[0]
    for name in names:
        colour, marker, line = style_of(name, names)
        curve = [
            (one.turn, found)
            for one in analysis.turns
            if one.row == name
            and (found := one.accuracy if definition is None else one.scores[definition]).value
            is not None
        ]
        if not curve:
            continue
        turns = [turn for turn, _ in curve]
        values = [one.value for _, one in curve]
        axes.plot(
            turns,
            values,
            line,
            marker=marker,
            color=colour,
            markersize=5,
            label=shortened(name, 24),
        )
        if len(names) <= _FEW:
            low, high = zip(*(bounds(one) for _, one in curve), strict=True)
            axes.vlines(turns, low, high, color=colour, linewidth=1.5, alpha=0.4)
    axes.set_ylim(bottom=0)
    if definition is None:
        axes.set_ylim(0, _top([one.accuracy for one in analysis.turns], intervals=False))
    every = [one.turn for one in analysis.turns]
    axes.set_xlim(min(every) - 0.3, max(every) + 0.3)
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_xlabel("turn of the supporter")
    axes.set_ylabel("accuracy" if definition is None else _quantity(definition))
    if len(names) > 1:
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=9)
    what = "Strategy following by turn" if definition is None else "SRA by turn"
    bars = "; bars: 95% interval over dialogues" if len(names) <= _FEW else ""
    of = f"{analysis.responses:,} responses of {analysis.dialogues:,} dialogues"
    title(figure, what, f"{'one line per condition' if len(names) > 1 else names[0]}; {of}{bars}")
    return figure


def _against_accuracy(analysis: Analysis, definition: str) -> Any:
    figure = new_figure(11.0, 5.0, 2)
    ours, theirs = figure.axes
    names = [condition.row for condition in analysis.rows]
    marks = []
    reach = 0.0
    for condition in analysis.rows:
        sra, accuracy = condition.scores[definition], condition.accuracy
        if sra.value is None or accuracy.value is None:
            continue
        colour, marker, _ = style_of(condition.row, names)
        ours.plot(bounds(sra), [accuracy.value] * 2, color=colour, linewidth=1.5, alpha=0.45)
        ours.plot([sra.value] * 2, bounds(accuracy), color=colour, linewidth=1.5, alpha=0.45)
        ours.plot([sra.value], [accuracy.value], marker, color=colour, markersize=8, clip_on=False)
        reach = max(reach, bounds(sra)[1])
        marks.append((sra.value, accuracy.value, condition.row, colour))
    labelled = 1.22 * max((x for x, *_ in marks), default=1.0)
    ours.set_xlim(0, max(labelled, 1.04 * reach) or 1.0)
    relation = analysis.over_rows[definition]
    parts = (coefficient("r", relation.pearson), coefficient("rho", relation.spearman))
    _panel(ours, "measured (bars: 95% interval over dialogues)", _quantity(definition))
    ours.set_ylim(0, _top([condition.accuracy for condition in analysis.rows]))
    published = []
    for (model, table), marker in zip(PUBLISHED.items(), "os", strict=True):
        theirs.plot(
            [condition.sra for condition in table],
            [condition.accuracy for condition in table],
            marker,
            color=GREY,
            markersize=4.5,
            fillstyle="full" if marker == "o" else "none",
            label=f"{model}, {coefficient('r', published_relation(model).pearson)}, "
            f"{coefficient('rho', published_relation(model).spearman)}",
        )
        published += [
            (condition.sra, condition.accuracy, condition.row, GREY) for condition in table
        ]
    theirs.legend(loc="lower right", frameon=False, fontsize=8)
    _panel(theirs, "published, Table 1 of arXiv 2402.10453", _quantity("table1"))
    theirs.set_xlim(0, 0.0046)
    figure.suptitle(
        f"SRA against accuracy: {', '.join(parts)}",
        x=0.01,
        ha="left",
        fontsize=13,
        fontweight="bold",
    )
    place_labels(figure, ours, marks)
    place_labels(figure, theirs, published)
    return figure


def _top(shares: Sequence[Estimate], *, intervals: bool = True) -> float:
    """Return where an axis of shares ends: a little above the highest share and about 1 at most."""
    known = [one for one in shares if one.value is not None]
    highest = max((bounds(one)[1] if intervals else one.value or 0.0 for one in known), default=1.0)
    return min(1.03, max(0.1, 1.2 * highest))


def _panel(axes: Any, subtitle: str, quantity: str) -> None:
    axes.set_title(subtitle, loc="left", fontsize=9.5, color=DARK_GREY)
    axes.set_ylim(0, 1.03)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_xlabel(quantity)
    axes.set_ylabel("accuracy")


def _by_strategy(analysis: Analysis, definition: str) -> Any:
    """Draw three panels over the strategies: accuracy, SRA, and AUC of SRA within conditions."""
    groups = analysis.strategies
    figure = new_figure(11.0, 2.1 + 0.32 * len(groups), 3, share_y=True)
    panels: Sequence[tuple[str, str, list[Estimate]]] = (
        ("accuracy", BLUE, [one.accuracy for one in groups]),
        (f"SRA ({definition})", ORANGE, [one.scores[definition] for one in groups]),
        ("AUC of SRA, same condition", BLUE, [one.auc[definition] for one in groups]),
    )
    for axes, (label, colour, estimates) in zip(figure.axes, panels, strict=True):
        reach = 0.0
        for at, one in enumerate(estimates):
            if one.value is None:
                axes.annotate(
                    "undefined",
                    (0.02, at),
                    xycoords=("axes fraction", "data"),
                    va="center",
                    fontsize=8,
                    color=GREY,
                )
                continue
            reach = max(reach, bounds(one)[1])
            axes.plot(bounds(one), [at, at], color=colour, linewidth=2, alpha=0.5)
            axes.plot([one.value], [at], "o", color=colour, markersize=6)
        axes.set_xlabel(label)
        axes.grid(axis="x", color=GRID, linewidth=0.8)
        axes.set_xlim(0, 1.08 * reach or 1.0)
    first, middle, last = figure.axes
    first.set_xlim(0, 1.03)
    middle.xaxis.get_major_locator().set_params(nbins=4)
    last.set_xlim(0, 1.03)
    last.axvline(0.5, color=GREY, linewidth=1, linestyle="--")
    first.set_yticks(range(len(groups)))
    first.set_yticklabels([shortened(one.name, 34) for one in groups], parse_math=False)
    first.set_ylim(len(groups) - 0.5, -0.5)
    title(figure, "By strategy", "all conditions together; bars: 95% interval over dialogues")
    return figure


def _heads(found: HeadAnalysis) -> Any:
    """Draw a grid of layers and heads, coloured by how far the AUC of each head is from 0.5."""
    values = [[0.5 if one is None else one for one in layer] for layer in found.measured]
    reach = max(0.05, *(abs(one - 0.5) for layer in values for one in layer))
    figure = new_figure(
        min(14.0, max(6.0, 3.0 + 0.28 * found.heads)), min(14.0, max(3.6, 2.0 + 0.2 * found.layers))
    )
    axes = figure.axes[0]
    # PuOr: orange and purple differ for any kind of colour vision.
    image = axes.imshow(
        values, cmap="PuOr_r", vmin=0.5 - reach, vmax=0.5 + reach, aspect="auto", origin="lower"
    )
    for one in found.best:
        axes.plot([one.head], [one.layer], "s", fillstyle="none", color=BLACK, markersize=9)
    for axis in (axes.xaxis, axes.yaxis):
        axis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    axes.set_xlim(-0.5, found.heads - 0.5)
    axes.set_ylim(-0.5, found.layers - 0.5)
    axes.set_xlabel("head")
    axes.set_ylabel("layer")
    bar = figure.colorbar(image, ax=axes, fraction=0.05, pad=0.02)
    bar.outline.set_visible(False)
    bar.set_label("AUC on held-out dialogues")
    chance = (
        "chance unknown"
        if found.threshold is None
        else f"{found.beyond} beyond chance (0.5 ± {found.threshold:.3f})"
    )
    title(
        figure,
        "Heads whose attention predicts adherence",
        f"{found.layers * found.heads} heads, {chance}; squares: the chosen",
    )
    return figure


def _quantity(definition: str) -> str:
    name = f"SRA ({definition})"
    return f"{name}: {MEANING[definition]}" if definition in MEANING else name
