"""Choose the colours of all figures, and how each template is drawn.

Colours are Okabe and Ito's, which people with any kind of colour vision can tell apart; what is
told by colour is told by the marker or the line as well.
"""

from __future__ import annotations

from collections.abc import Sequence

Style = tuple[str, str, str]
"""Colour, marker and line, as matplotlib has them."""

BLACK, BLUE, ORANGE, GREEN, PURPLE = "#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7"
SKY, YELLOW = "#56B4E9", "#E69F00"
DARK_GREY, GREY, GRID = "#555555", "#888888", "#dddddd"

# Colour: where the history stands. Marker and line: how many messages stay chat turns.
TEMPLATE_STYLES: dict[str, Style] = {
    "standard": (BLACK, "s", "-"),
    "c1_hf": (BLUE, "o", "-"),
    "c3_hf": (BLUE, "^", "--"),
    "c5_hf": (BLUE, "D", ":"),
    "c1_hl": (ORANGE, "o", "-"),
    "c3_hl": (ORANGE, "^", "--"),
    "c5_hl": (ORANGE, "D", ":"),
}


def further_style(index: int, colours: Sequence[str]) -> Style:
    """Return the style of the ``index``-th template, from 0, that has none of its own.

    Each takes the next colour; when all are used, the next marker.
    """
    return colours[index % len(colours)], "vPX*"[index // len(colours) % 4], "-."
