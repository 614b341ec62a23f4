"""The correlation of a score with accuracy over rows, with an interval over dialogues.

The points are rows, few and not drawn from anything. So the interval comes from drawing dialogues
and computing every row's two means anew, not from drawing rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy

from sra_fast.tools.bootstrap import Correlation, Kind, correlation, percentile_interval

from .resampling import Floats, Means


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
    low, high, left_out = percentile_interval(drawn_correlations(_log(xs) if log else xs, ys, kind))
    if low is None:
        left = "undefined in every resample, so there is no interval"
    return replace(found, low=low, high=high, why=left, left_out=left_out)


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
    whole = ~(numpy.isnan(xs) | numpy.isnan(ys)).any(axis=1)
    if kind == "spearman":
        xs, ys = _midranks(xs), _midranks(ys)
    dx, dy = xs - xs.mean(axis=1, keepdims=True), ys - ys.mean(axis=1, keepdims=True)
    # Exact, unlike a variance: a constant column has no correlation.
    varies = (numpy.ptp(xs, axis=1) > 0) & (numpy.ptp(ys, axis=1) > 0)
    squares = (dx * dx).sum(axis=1) * (dy * dy).sum(axis=1)
    defined = whole & varies & (squares > 0)
    r = (dx * dy).sum(axis=1) / numpy.sqrt(numpy.where(defined, squares, 1.0))
    return numpy.where(defined, numpy.clip(r, -1.0, 1.0), numpy.nan)


def _midranks(values: Floats) -> Floats:
    """Ranks along the last axis, ties sharing their mean rank; rows are few."""
    one, other = values[..., :, None], values[..., None, :]
    ranks: Floats = (other < one).sum(axis=-1) + ((other == one).sum(axis=-1) + 1) / 2
    return ranks


def _log(values: Floats) -> Floats:
    positive = values > 0
    return numpy.where(positive, numpy.log(numpy.where(positive, values, 1.0)), numpy.nan)
