"""Draw the confusion matrix of a classifier as a PNG file."""

from __future__ import annotations

from pathlib import Path

import numpy

from sra_fast.report.drawing import save_figure
from sra_fast.tools.missing_extra import needed
from sra_fast.tools.printable import shortened

from .quality import Quality

_LONGEST = 30  # most characters of a strategy's name; a longer one is shortened


def write_confusion(measured: Quality, path: Path, title: str) -> None:
    """Draw a confusion matrix: a line for each known strategy, a column for each predicted one.

    Numbers are counts; shades are shares of the responses of a line.

    Args:
        measured: the quality of a classifier, with its confusion matrix.
        path: the PNG file to write.
        title: what the title calls the classifier.

    Raises:
        OSError: the file cannot be written.
    """
    with needed("pipeline", "matplotlib"):
        from matplotlib.figure import Figure

    counts = numpy.array(measured.confusion)
    shares = counts / numpy.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = len(measured.classes)
    figure = Figure(figsize=(3.2 + 0.42 * size, 2.6 + 0.38 * size), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, column in zip(*numpy.nonzero(counts), strict=True):
        colour = "white" if shares[row, column] > 0.5 else "black"
        text = str(counts[row, column])
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
    names = [shortened(name, _LONGEST) for name in measured.classes]
    axes.set_xticks(range(size), names, rotation=45, ha="right", fontsize=8, parse_math=False)
    axes.set_yticks(range(size), names, fontsize=8, parse_math=False)
    axes.set_xlabel("predicted")
    axes.set_ylabel("known strategy")
    axes.set_title(
        f"{title}: {measured.accuracy:.1%} of {measured.responses} right", loc="left", fontsize=10
    )
    save_figure(figure, path)
