"""Make, title and save figures, the same way for all of them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from sra_fast.report.palette import DARK_GREY
from sra_fast.tools.atomic import replaced_atomically
from sra_fast.tools.missing_extra import needed

_DPI = 150


def new_figure(width: float, height: float, columns: int = 1, *, share_y: bool = False) -> Any:
    """Return an empty figure of that size in inches, with ``columns`` panels side by side."""
    with needed("cli", "matplotlib"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout: Any = ConstrainedLayoutEngine(wspace=0.04)
    figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)  # draws into memory, whatever backend the user's program has chosen
    for axes in figure.subplots(1, columns, sharey=share_y, squeeze=False)[0]:
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        axes.set_axisbelow(True)
    return figure


def title(figure: Any, text: str, subtitle: str) -> None:
    """Write a bold title and a plain line below it."""
    figure.suptitle(text, x=0.01, ha="left", fontsize=13, fontweight="bold")
    figure.axes[0].set_title(
        subtitle, loc="left", fontsize=9.5, color=DARK_GREY, pad=8, parse_math=False
    )


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure as a PNG file, whole or not at all."""
    with warnings.catch_warnings():
        # A script that the font lacks shows as boxes; the tables have it right.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        with replaced_atomically(path) as temporary:
            figure.savefig(temporary, format="png", dpi=_DPI)
