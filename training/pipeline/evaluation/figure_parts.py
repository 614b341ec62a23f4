"""Parts that the figures of an evaluation share: intervals, and labels that do not overlap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sra_fast.tools.estimates import Correlation, Estimate
from sra_fast.tools.missing_extra import needed
from sra_fast.tools.printable import shortened

# Where a label may stand, in points from its mark, the nearest first.
_PLACES = [
    (dx * step, dy * step)
    for step in (8, 16, 26, 38, 52)
    for dx, dy in (
        (0.7, 1),
        (-0.7, 1),
        (0.7, -1),
        (-0.7, -1),
        (1, 0.3),
        (-1, 0.3),
        (0.2, 1),
        (0.2, -1),
    )
]


def bounds(one: Estimate) -> tuple[float, float]:
    """Return the interval of a defined estimate, or its value twice where there is none."""
    if one.low is None or one.high is None:
        assert one.value is not None
        return one.value, one.value
    return one.low, one.high


def coefficient(name: str, one: Correlation) -> str:
    """Write a coefficient with its name and interval, such as "r = 0.91 [0.80, 0.95]"."""
    if one.r is None:
        return f"{name} undefined"
    interval = "" if one.low is None else f" [{one.low:.2f}, {one.high:.2f}]"
    return f"{name} = {one.r:.2f}{interval}"


def place_labels(figure: Any, axes: Any, marks: Sequence[tuple[float, float, str, str]]) -> None:
    """Write a label near each mark where it covers neither a mark nor another label.

    This fixes the layout of the figure, so it must be called last.

    Args:
        figure: the matplotlib figure.
        axes: the axes of the figure that the marks are in.
        marks: ``(x, y, text, colour)`` of each mark, x and y in units of the axes.
    """
    with needed("pipeline", "matplotlib"):
        from matplotlib.transforms import Bbox

    figure.canvas.draw()
    figure.set_layout_engine("none")
    renderer = figure.canvas.get_renderer()
    scale = figure.dpi / 72
    points = axes.transData.transform([(x, y) for x, y, _, _ in marks]) if marks else []
    taken = [Bbox.from_bounds(x - 5, y - 5, 10, 10) for x, y in points]
    for (x, y, text, colour), (at_x, at_y) in zip(marks, points, strict=True):
        label = axes.annotate(
            shortened(text, 24),
            (x, y),
            xytext=(0, 0),
            textcoords="offset points",
            fontsize=8.5,
            color=colour,
            va="center",
            parse_math=False,
        )
        for dx, dy in _PLACES:
            label.set_position((dx, dy))
            label.set_ha("left" if dx > 0 else "right")
            box = label.get_window_extent(renderer).padded(1.5)
            clear = not any(box.overlaps(other) for other in taken)
            if (
                clear
                and axes.bbox.x0 <= box.x0
                and box.x1 <= figure.bbox.x1
                and axes.bbox.y0 <= box.y0
            ):
                break
        taken.append(box)
        if max(abs(dx), abs(dy)) > 16:
            ends = [(at_x, at_y), (at_x + dx * scale, at_y + dy * scale)]
            (x0, y0), (x1, y1) = axes.transData.inverted().transform(ends)
            axes.plot([x0, x1], [y0, y1], color=colour, linewidth=0.6, alpha=0.6, zorder=1)
