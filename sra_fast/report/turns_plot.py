"""Draw how the score changes with the turn of the conversation."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import numpy

from sra_fast.report.markdown import MEANING, OWN_MEANING
from sra_fast.report.palette import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    GRID,
    ORANGE,
    PURPLE,
    SKY,
    YELLOW,
)
from sra_fast.report.paper_axes import figure_and_axes
from sra_fast.tools.intervals import mean_interval
from sra_fast.tools.printable import shortened
from sra_fast.tools.small_samples import LEVEL

if TYPE_CHECKING:
    from sra_fast.result import SRAResult

_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, YELLOW, SKY, BLACK)
_MARKERS = "os^Dv*P"
_BESIDE = "conversations"


def turns_plot(
    result: SRAResult,
    *,
    definition: str | None,
    span: str | None,
    mean: bool | None,
    ax: Any | None,
) -> tuple[Any, Any]:
    """Draw the lines of :meth:`sra_fast.SRAResult.plot_turns`."""
    if not len(result):
        raise ValueError("the result has no responses, so there is nothing to draw")
    scores = result.score(definition, span).double().numpy()
    turns, conversations = result.turn.numpy(), result.conversation.numpy()
    numbers = sorted(set(conversations.tolist()))
    figure, axes = figure_and_axes(ax, 5.6, 3.6)
    as_mean = len(numbers) > len(_COLOURS) if mean is None else mean
    if as_mean:
        said = _draw_mean(axes, turns, conversations, scores)
    else:
        few = len(numbers) <= len(_COLOURS)
        for index, number in enumerate(numbers):
            at = numpy.flatnonzero(conversations == number)
            at = at[numpy.argsort(turns[at], kind="stable")]
            style: dict[str, Any] = {"color": GREY, "linewidth": 0.8, "alpha": 0.6}
            if few:
                style = {"color": _COLOURS[index], "marker": _MARKERS[index], "markersize": 5}
            axes.plot(turns[at], scores[at], label=f"conversation {number}", **style)
        said = "one line per conversation" if len(numbers) > 1 else "1 conversation"
        if few and len(numbers) > 1:
            axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.01, 1.0))
    if not (scores < 0).any():
        axes.set_ylim(bottom=0)
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_xlabel("assistant turn of the conversation")
    name = definition or result.definition
    quantity = f"SRA ({name} definition), {MEANING.get(name, OWN_MEANING)}"
    axes.set_ylabel("\n".join(textwrap.wrap(quantity, 36)))
    what = shortened(span or result.spans[0], 30)
    axes.set_title(f"{what}; {said}", loc="left", fontsize=9.5, parse_math=False)
    return figure, axes


def _draw_mean(axes: Any, turns: Any, conversations: Any, scores: Any) -> str:
    """Draw the mean of each turn, with its interval where there are enough conversations."""
    known = ~numpy.isnan(scores)
    at = sorted(set(turns[known].tolist()))
    estimates = [
        mean_interval(
            scores[known & (turns == turn)],
            conversations[known & (turns == turn)].tolist(),
            over=_BESIDE,
        )
        for turn in at
    ]
    means = [one.value for one in estimates]
    low = [numpy.nan if one.low is None else one.low for one in estimates]
    high = [numpy.nan if one.high is None else one.high for one in estimates]
    axes.fill_between(at, low, high, color=BLUE, alpha=0.2, linewidth=0)
    axes.plot(at, means, color=BLUE, marker="o", markersize=4, label="mean")
    count = len(set(conversations.tolist()))
    said = f"mean of {count} conversation{'s' if count > 1 else ''}"
    if numpy.isfinite(low).any():
        return f"{said}; shaded: {LEVEL:.0%} interval over {_BESIDE}"
    return f"{said}, too few for intervals"
