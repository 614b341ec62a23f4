"""Compute correlations, means and shares with 95% intervals that hold for few dialogues.

Replies to one item, or cut from one dialogue, resemble each other. So what counts as independent is
the group, a dialogue as a rule; without groups every point is one of its own. There is one method
for each kind of figure (:data:`~.estimates.METHODS`), and none draws at random.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy
from numpy.typing import ArrayLike, NDArray

from sra_fast.tools.coefficients import (
    Floats,
    ordinals,
    scaled,
    weighted_pearson,
    weighted_spearman,
    why_undefined,
)
from sra_fast.tools.estimates import (
    Correlation,
    Estimate,
    StatisticsError,
    same_everywhere,
    too_few,
)
from sra_fast.tools.grouped import (
    Integers,
    leave_out_weights,
    mean_of_groups,
    numbered,
    share_of_groups,
)
from sra_fast.tools.small_samples import flat, pulls, student_limits, without_each

Kind = Literal["pearson", "spearman"]
Scale = Literal["plain", "log", "logit", "fisher"]
"""The scale that an interval is computed on: of x itself, log x, log(x/(1 − x)) or artanh x."""


def correlation(
    x: ArrayLike,
    y: ArrayLike,
    kind: Kind = "pearson",
    *,
    groups: Sequence[object] | None = None,
    names: tuple[str, str] = ("x", "y"),
    points: str = "points",
    over: str | None = None,
) -> Correlation:
    """Compute Pearson's or Spearman's correlation of two columns, with its 95% interval.

    Spearman's is Pearson's of the midranks, which are ranked anew without each group.

    Args:
        x, y: ``[n]``, finite numbers.
        kind: "pearson" or "spearman".
        groups: ``[n]``, hashable; points of one group are left out together.
        names: what the reason for an undefined coefficient calls the two columns.
        points: what that reason calls the points, in the plural.
        over: what the reason for a missing interval calls the groups, in the plural; None:
            "dialogues", and as ``points`` where there are no groups.

    Raises:
        StatisticsError: a number is NaN or infinite, or the lengths differ.
    """
    if kind not in ("pearson", "spearman"):
        raise ValueError(f"kind must be 'pearson' or 'spearman', found {kind!r}")
    xs, ys = _same_length(_column(x, "x"), _column(y, "y"))
    index, number = _group_index(groups, len(xs))
    if kind == "spearman":
        xs, ys = ordinals(xs), ordinals(ys)
    why = why_undefined(xs, ys, names, points)
    if why:
        return Correlation(None, None, None, len(xs), why)
    xs, ys = scaled(xs), scaled(ys)
    coefficients: Callable[[Floats, Floats, Floats], Floats] = (
        weighted_pearson if kind == "pearson" else weighted_spearman
    )
    r = float(coefficients(numpy.ones((1, len(xs))), xs, ys)[0])
    over = over or ("dialogues" if groups is not None else points)
    why = too_few(number, over)
    if why:
        return Correlation(r, None, None, len(xs), why)
    without = numpy.concatenate(
        [coefficients(weights, xs, ys) for weights in leave_out_weights(index, number)]
    )
    low, high, why = jackknife_limits(r, without, "fisher", over)
    return Correlation(r, low, high, len(xs), why)


def trimmed(
    x: ArrayLike, y: ArrayLike, low: float = 0.01, high: float = 0.99
) -> NDArray[numpy.bool_]:
    """Tell which points remain when the extremes of both columns are left out.

    Args:
        x, y: ``[n]``, finite numbers.
        low, high: quantiles (linear interpolation); a value that equals one stays.

    Returns:
        ``[n]`` bool: x and y both lie within those quantiles of their column.

    Raises:
        StatisticsError: a number is NaN or infinite, or the lengths differ.
    """
    xs, ys = _same_length(_column(x, "x"), _column(y, "y"))
    kept = numpy.ones(len(xs), dtype=bool)
    for column in (xs, ys) if len(xs) else ():
        least, most = numpy.quantile(column, [low, high])
        kept &= (column >= least) & (column <= most)
    return kept


def mean_interval(
    values: ArrayLike, groups: Sequence[object] | None = None, *, over: str | None = None
) -> Estimate:
    """Compute a mean with its 95% interval, e.g. of the SRA of responses.

    Args:
        values: ``[n]``, finite numbers.
        groups: ``[n]``, hashable; points of one group count as one observation.
        over: what the reason for a missing interval calls the groups, in the plural; None:
            "dialogues", and "points" where there are no groups.

    Raises:
        StatisticsError: a number is NaN or infinite, or the lengths differ.
    """
    column = _column(values, "values")
    by_group = _by_group(numpy.stack([column, numpy.ones(len(column))], axis=1), groups)
    return mean_of_groups(by_group, _called(over, groups))


def rate_interval(
    hits: ArrayLike,
    chances: ArrayLike,
    groups: Sequence[object] | None = None,
    *,
    over: str | None = None,
) -> Estimate:
    """Compute the share Σ hits / Σ chances, e.g. of wins among comparisons, with its 95% interval.

    Args:
        hits: ``[n]``, numbers from 0 to the point's chances.
        chances: ``[n]``, numbers from 0 on; ``n`` of the result is their sum.
        groups: ``[n]``, hashable; points of one group count as one observation.
        over: what the reason for a missing interval calls the groups, in the plural; None:
            "dialogues", and "points" where there are no groups.

    Raises:
        StatisticsError: a number is NaN or infinite, a chance is negative, there are more hits than
            chances, or the lengths differ.
    """
    columns = numpy.stack(_same_length(_column(hits, "hits"), _column(chances, "chances")), axis=1)
    for at in ((columns[:, 1] < 0).nonzero()[0])[:1]:
        raise StatisticsError(f"chances[{at}] is negative ({columns[at, 1]})")
    for at in ((columns[:, 0] < 0) | (columns[:, 0] > columns[:, 1])).nonzero()[0][:1]:
        raise StatisticsError(
            f"hits[{at}] is {columns[at, 0]} of {columns[at, 1]} chances, which is no share; for "
            "other numbers take mean_interval"
        )
    by_group = _by_group(columns, groups)
    clustered = bool((by_group[:, 1] > 0).sum() < (columns[:, 1] > 0).sum())
    return share_of_groups(by_group, clustered=clustered, over=_called(over, groups))


def interval_of_sums(
    columns: Floats,
    statistic: Callable[[Floats], Floats],
    groups: Sequence[object] | None = None,
    *,
    scale: Scale = "plain",
    over: str | None = None,
) -> tuple[float | None, float | None, str | None]:
    """Compute the 95% interval of a statistic that depends on column sums alone.

    Args:
        columns: ``[n, C]``, finite numbers.
        statistic: turns sums ``[k, C]`` into values ``[k]``, NaN where it is undefined.
        groups: ``[n]``, hashable; points of one group are left out together.
        scale: the scale on which the values lie symmetrically.
        over: as in :func:`mean_interval`.

    Returns:
        ``low, high, why`` as in :class:`~.estimates.Estimate`.
    """
    by_group, over = _by_group(columns, groups), _called(over, groups)
    why = too_few(len(by_group), over)
    if why:
        return None, None, why
    value = float(statistic(by_group.sum(axis=0)[None])[0])
    return jackknife_limits(value, statistic(without_each(by_group)), scale, over)


def jackknife_limits(
    value: float, without: Floats, scale: Scale = "plain", over: str = "dialogues"
) -> tuple[float | None, float | None, str | None]:
    """Compute the limits of a figure from the figures without each group.

    Args:
        value: the figure.
        without: ``[G]`` the figure without each of the groups; NaN where it is undefined.
        scale: the scale on which the values lie symmetrically.
        over: what the reason for a missing interval calls the groups, in the plural.

    Returns:
        ``low, high, why`` as in :class:`~.estimates.Estimate`.
    """
    if numpy.isnan(without).any():
        return (
            None,
            None,
            f"undefined without some {over.removesuffix('s')}, so there is no interval",
        )
    forward, back = _SCALES[scale]
    with numpy.errstate(divide="ignore", invalid="ignore"):
        at, moved = float(forward(numpy.array(value))), forward(without)
    if flat(pulls(without), value):
        return None, None, same_everywhere(over)
    if not (math.isfinite(at) and numpy.isfinite(moved).all()):
        return None, None, "at the end of what is possible, so there is no interval"
    low, high = student_limits(at, pulls(moved))
    return float(back(numpy.array(low))), float(back(numpy.array(high))), None


def _expit(x: Floats) -> Floats:
    return numpy.asarray((1 + numpy.tanh(x / 2)) / 2)


_SCALES: dict[Scale, tuple[Callable[[Floats], Floats], Callable[[Floats], Floats]]] = {
    "plain": (lambda x: x, lambda x: x),
    "log": (numpy.log, numpy.exp),
    "logit": (lambda x: numpy.log(x / (1 - x)), _expit),
    "fisher": (numpy.arctanh, numpy.tanh),
}


def _called(over: str | None, groups: Sequence[object] | None) -> str:
    return over or ("points" if groups is None else "dialogues")


def _by_group(columns: Floats, groups: Sequence[object] | None) -> Floats:
    """Return the sums of the columns ``[n, C]`` within each group, ``[G, C]``."""
    index, number = _group_index(groups, len(columns))
    by_group = numpy.zeros((number, columns.shape[1]))
    numpy.add.at(by_group, index, columns)
    return by_group


def _column(values: ArrayLike, name: str) -> Floats:
    column = numpy.asarray(values, dtype=numpy.float64)
    if column.ndim != 1:
        raise StatisticsError(f"{name} must have one axis, found shape {column.shape}")
    wrong = (~numpy.isfinite(column)).nonzero()[0]
    if len(wrong):
        raise StatisticsError(
            f"{name}[{wrong[0]}] is {column[wrong[0]]}; leave out what is unknown"
        )
    return column


def _same_length(one: Floats, other: Floats) -> tuple[Floats, Floats]:
    if len(one) != len(other):
        raise StatisticsError(f"the two columns have {len(one)} and {len(other)} values")
    return one, other


def _group_index(groups: Sequence[object] | None, n: int) -> tuple[Integers, int]:
    """Return the number of each point's group, and how many groups there are."""
    if groups is None:
        return numpy.arange(n), n
    if len(groups) != n:
        raise StatisticsError(f"groups has {len(groups)} values for {n} points")
    index, names = numbered(groups)
    return index, len(names)
