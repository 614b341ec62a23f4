"""Correlate a score with accuracy over conditions, with an interval over dialogues.

Each point is a condition. There are few, and they were not drawn from a population. So the interval
comes from drawing dialogues and computing the two means of every condition anew, not from drawing
conditions.
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


def condition_correlation(
    means: Means, column: int, kind: Kind = "pearson", *, log: bool = False
) -> Correlation:
    """Correlate the mean of a score with accuracy over the conditions that have both.

    Args:
        means: means by condition (its groups) and column; column 0 is accuracy.
        column: the number of the score's column.
        kind: "pearson", or "spearman" (Pearson of the midranks).
        log: take the natural logarithm of the score's mean; a condition whose mean is 0 is then
            left out.
    """
    score = _log(means.values[:, column]) if log else means.values[:, column]
    there = ~numpy.isnan(score) & ~numpy.isnan(means.values[:, 0])
    x, y = score[there], means.values[there, 0]
    found = correlation(x, y, kind, draws=1, names=("score", "accuracy"), points="conditions")
    absent = int((~there).sum())
    left = f"{absent} of {len(there)} conditions without a value are left out" if absent else None
    if found.r is None:
        reasons = "; ".join(filter(None, (found.why, left)))
        return replace(found, why=reasons, left_out=0)
    if means.dialogues[there][:, [0, column]].min() < 2:
        why = "a condition of a single dialogue, so there is no interval"
        return replace(found, low=None, high=None, why=why, left_out=0)
    xs, ys = means.drawn[:, there, column], means.drawn[:, there, 0]
    drawn = drawn_correlations(_log(xs) if log else xs, ys, kind)
    low, high, left_out, no_interval = interval_of_draws(drawn)
    reasons = "; ".join(filter(None, (no_interval, left)))
    return replace(found, low=low, high=high, why=reasons or None, left_out=left_out)


def leave_one_out(
    names: Sequence[str], scores: Sequence[float], accuracy: Sequence[float]
) -> dict[str, float | None]:
    """Compute Pearson's r of all conditions but one, leaving out each in turn.

    There are few conditions: how much r depends on a single one shows here, not in the interval.

    Args:
        names: ``[G]`` the names of the conditions.
        scores, accuracy: ``[G]`` their means; a condition where either is NaN takes no part.

    Returns:
        r by the name of the condition left out; None where r is undefined.
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
    """Compute the coefficient of every draw, ``[draws]``, from ``xs, ys [draws, conditions]``.

    It is NaN where it is undefined, or where one of the means is NaN.
    """
    if kind == "spearman":
        with needed("pipeline", "scipy"):
            from scipy.stats import rankdata

        xs, ys = rankdata(xs, axis=1), rankdata(ys, axis=1)  # NaN throughout where a mean is NaN
    return weighted_pearson(numpy.ones_like(xs), xs, ys)


def _log(values: Floats) -> Floats:
    positive = values > 0
    return numpy.where(positive, numpy.log(numpy.where(positive, values, 1.0)), numpy.nan)
