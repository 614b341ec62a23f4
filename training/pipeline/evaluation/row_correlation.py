"""The correlation of a score with accuracy over rows, with an interval over dialogues.

The points are rows, few and not drawn from anything. So the interval comes from drawing dialogues
and computing every row's two means anew, not from drawing rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy

from sra_fast.tools.bootstrap import Correlation, Kind, correlation, interval_of_draws
from sra_fast.tools.coefficients import Floats, weighted_pearson
from sra_fast.tools.missing_extra import needed

from .resampling import Means


def row_correlation(
    means: Means, column: int, kind: Kind = "pearson", *, log: bool = False
) -> Correlation:
    """Of column ``column`` with column 0 over the groups that have both.

    Args:
        means: the groups are the rows, column 0 is accuracy.
        column: the score's.
        kind: Pearson, or Spearman (Pearson of the midranks).
        log: take the natural logarithm of the score's mean; a row whose mean is 0 is left out.
    """
    score = _log(means.values[:, column]) if log else means.values[:, column]
    there = ~numpy.isnan(score) & ~numpy.isnan(means.values[:, 0])
    x, y = score[there], means.values[there, 0]
    found = correlation(x, y, kind, draws=1)
    absent = int((~there).sum())
    left = f"{absent} of {len(there)} rows without a value are left out" if absent else None
    if found.r is None:
        why = (found.why or "undefined").replace("x and y", "score and accuracy")
        why = why.replace("x constant", "score constant").replace("y constant", "accuracy constant")
        why = why.replace("points; a correlation takes", "rows; a correlation takes")
        return replace(found, why=why if left is None else f"{why}; {left}", left_out=0)
    if means.dialogues[there][:, [0, column]].min() < 2:
        why = "a row of a single dialogue, so there is no interval"
        return replace(found, low=None, high=None, why=why, left_out=0)
    xs, ys = means.drawn[:, there, column], means.drawn[:, there, 0]
    drawn = drawn_correlations(_log(xs) if log else xs, ys, kind)
    low, high, left_out, no_interval = interval_of_draws(drawn)
    reasons = "; ".join(filter(None, (no_interval, left)))
    return replace(found, low=low, high=high, why=reasons or None, left_out=left_out)


def leave_one_out(
    names: Sequence[str], scores: Sequence[float], accuracy: Sequence[float]
) -> dict[str, float | None]:
    """Pearson's r of all rows but one, by the name of that one; rows with NaN are not among them.

    Rows are few: what hangs on one of them shows here, and not in the interval.
    """
    known = [
        (name, x, y)
        for name, x, y in zip(names, scores, accuracy, strict=True)
        if not (math.isnan(x) or math.isnan(y))
    ]
    found: dict[str, float | None] = {}
    for left_out, _, _ in known:
        others = [(x, y) for name, x, y in known if name != left_out]
        found[left_out] = correlation([x for x, _ in others], [y for _, y in others], draws=1).r
    return found


def drawn_correlations(xs: Floats, ys: Floats, kind: Kind) -> Floats:
    """Coefficients ``[draws]`` of ``xs, ys [draws, rows]``; NaN where undefined or a mean is."""
    if kind == "spearman":
        with needed("pipeline", "scipy"):
            from scipy.stats import rankdata

        xs, ys = rankdata(xs, axis=1), rankdata(ys, axis=1)  # NaN throughout where a mean is NaN
    return weighted_pearson(numpy.ones_like(xs), xs, ys)


def _log(values: Floats) -> Floats:
    positive = values > 0
    return numpy.where(positive, numpy.log(numpy.where(positive, values, 1.0)), numpy.nan)
