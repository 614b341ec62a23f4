"""Choose the colours of all figures, and how templates and other conditions are drawn.

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


_STYLES: dict[str, Style] = {**TEMPLATE_STYLES, "fine-tuned": (GREEN, "*", "-")}
_OTHERS = (PURPLE, SKY, YELLOW)


def style_of(name: str, names: Sequence[str]) -> Style:
    """Return how a template or another condition is drawn, the same in every figure.

    Args:
        name: one of ``names``.
        names: the names of everything that the figure shows. Those without a style of their own
            take colours in turn, then markers.
    """
    if name in _STYLES:
        return _STYLES[name]
    index = [one for one in names if one not in _STYLES].index(name)
    return _OTHERS[index % len(_OTHERS)], "vPX*"[index // len(_OTHERS) % 4], "-."
