"""Axes of a figure for a paper: given ones or new ones, and text in fonts that can show it."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from sra_fast.report.drawing import new_figure
from sra_fast.tools.missing_extra import needed
from sra_fast.tools.printable import shortened

_LONGEST = 18  # characters of a label


def figure_and_axes(axes: Any | None, width: float, height: float) -> tuple[Any, Any]:
    """Return the figure of ``axes`` and these, or a new figure of that size in inches."""
    with needed("cli", "matplotlib"):
        if axes is not None:
            return axes.figure, axes
        figure = new_figure(width, height)
        return figure, figure.axes[0]


def labels_and_fonts(texts: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return texts as labels, and the font families that show them, matplotlib's own first.

    A label is one line of 18 characters at most. Characters that no installed font has are written
    as escapes, so that no label shows empty boxes.
    """
    labels = [shortened(text, _LONGEST) for text in texts]
    fonts = _fonts(frozenset("".join(labels)))
    lost = set("".join(labels)) - fonts.keys()
    table = {ord(c): c.encode("unicode_escape").decode() for c in lost}
    shown = [label.translate(table) for label in labels]
    return shown, list(dict.fromkeys(["sans-serif", *fonts.values()]))


@lru_cache(maxsize=64)
def _fonts(characters: frozenset[str]) -> dict[str, str]:
    """Return a font family that has it for each of the characters that some font has."""
    with needed("cli", "matplotlib"):
        from matplotlib import font_manager

    found: dict[str, str] = {}
    own = font_manager.findfont(font_manager.FontProperties(family=["sans-serif"]))
    entries = sorted(
        (one for one in font_manager.fontManager.ttflist if one.style == "normal"),
        key=lambda one: abs(int(one.weight) - 400) if isinstance(one.weight, int) else 0,
    )
    # Sans faces first: they are what stands beside matplotlib's own.
    ordered = sorted(entries, key=lambda one: "Sans" not in one.name)
    for path, family in [(own, "sans-serif"), *((one.fname, one.name) for one in ordered)]:
        left = characters - found.keys()
        if not left:
            break
        face = font_manager.get_font(path)
        found |= {c: family for c in left if face.get_char_index(ord(c))}
    return found
