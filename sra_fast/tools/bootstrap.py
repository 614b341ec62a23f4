"""Compute correlations, means and rates with their percentile bootstrap intervals.

Whole groups are drawn, with replacement: replies to one item, or cut from one dialogue, resemble
each other. Without groups every point is a group of its own. The draws depend on the seed alone. A
figure that is undefined is None, with the reason beside it; it is never a number. An interval
without a width is None too: where all resamples agree they do not say how far off they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

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

Kind = Literal["pearson", "spearman"]

DRAWS = 10_000
LEVEL = 0.95

_WEIGHTS_AT_ONCE = 1_000_000  # bounds the memory of a bootstrap
_ROUNDING = 1e-12  # width of an interval, relative to its ends, that is nothing but rounding


class StatisticsError(ValueError):
    """Raised when numbers do not allow a statistic; the message names the index."""


@dataclass(frozen=True)
class Correlation:
    """A correlation coefficient of n points, with its 95% interval.

    Attributes:
        r: the coefficient, in [-1, 1]; None where it is undefined.
        low, high: ends of its 95% interval, or None.
        n: number of points.
        why: the reason why ``r`` or its interval is None.
        left_out: number of resamples that the interval leaves out, because a column was constant.
    """

    r: float | None
    low: float | None
    high: float | None
    n: int
    why: str | None = None
    left_out: int = 0


@dataclass(frozen=True)
class Estimate:
    """A mean or a rate of n points, with its 95% interval.

    Attributes:
        value: the mean or rate; None where it is undefined.
        low, high: ends of its 95% interval, or None.
        n: number of points, or the number of chances of a rate.
        why: the reason why ``value`` or its interval is None.
        left_out: number of resamples that the interval leaves out, because they held no chance.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    why: str | None = None
    left_out: int = 0


def correlation(
    x: ArrayLike,
    y: ArrayLike,
    kind: Kind = "pearson",
    *,
    groups: Sequence[object] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Correlation:
    """Compute Pearson's or Spearman's correlation of two columns, with its 95% interval.

    Spearman's is Pearson's of the midranks, which are ranked anew in every resample.

    Args:
        x, y: ``[n]``, finite numbers.
        kind: "pearson" or "spearman".
        groups: ``[n]``, hashable; points of one group are drawn together.
        draws: number of resamples for the interval.
        seed: seed of the draws.

    Raises:
        StatisticsError: a number is NaN or infinite, or the lengths differ.
    """
    if kind not in ("pearson", "spearman"):
        raise ValueError(f"kind must be 'pearson' or 'spearman', found {kind!r}")
    xs, ys = _same_length(_column(x, "x"), _column(y, "y"))
    index, number = _group_index(groups, len(xs))
    if kind == "spearman":
        xs, ys = ordinals(xs), ordinals(ys)
    why = why_undefined(xs, ys)
    if why:
        return Correlation(None, None, None, len(xs), why)
    xs, ys = scaled(xs), scaled(ys)
    coefficients: Callable[[Floats, Floats, Floats], Floats] = (
        weighted_pearson if kind == "pearson" else weighted_spearman
    )
    r = float(coefficients(numpy.ones((1, len(xs))), xs, ys)[0])
    if number < 2:
        return Correlation(r, None, None, len(xs), "a single group, so there is no interval")
    drawn = numpy.concatenate(
        [
            coefficients(counts[:, index], xs, ys)
            for counts in _draw_groups(number, len(xs), draws, seed)
        ]
    )
    low, high, left_out, why = _interval_or_reason(drawn)
    return Correlation(r, low, high, len(xs), why, left_out)


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


def rate_interval(
    hits: ArrayLike,
    chances: ArrayLike,
    groups: Sequence[object] | None = None,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Estimate:
    """Compute the rate Σ hits / Σ chances, e.g. of wins among comparisons, with its 95% interval.

    Args:
        hits: ``[n]``, finite numbers.
        chances: ``[n]``, numbers from 0 on; ``n`` of the result is their sum.
        groups, draws, seed: as for :func:`correlation`.

    Raises:
        StatisticsError: a number is NaN or infinite, a chance is negative, or the lengths differ.
    """
    columns = numpy.stack(_same_length(_column(hits, "hits"), _column(chances, "chances")), axis=1)
    if (columns[:, 1] < 0).any():
        at = int((columns[:, 1] < 0).nonzero()[0][0])
        raise StatisticsError(f"chances[{at}] is negative ({columns[at, 1]})")
    total = float(columns[:, 1].sum())
    if not total:
        return Estimate(None, None, None, 0, "there is nothing to count")
    value = float(columns[:, 0].sum()) / total

    def rates(sums: Floats) -> Floats:
        empty = sums[:, 1] == 0
        return numpy.where(empty, numpy.nan, sums[:, 0] / numpy.where(empty, 1.0, sums[:, 1]))

    low, high, left_out, why = interval_of_sums(columns, rates, groups, draws=draws, seed=seed)
    return Estimate(value, low, high, round(total), why, left_out)


def interval_of_sums(
    columns: Floats,
    statistic: Callable[[Floats], Floats],
    groups: Sequence[object] | None = None,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[float | None, float | None, int, str | None]:
    """Compute the 95% interval of a statistic that depends on column sums alone.

    Args:
        columns: ``[n, C]``, finite numbers.
        statistic: turns sums ``[draws, C]`` into values ``[draws]``, NaN where it is undefined.
        groups, draws, seed: as for :func:`correlation`.

    Returns:
        ``low, high, left_out, why`` as in :class:`Correlation`.
    """
    index, number = _group_index(groups, len(columns))
    if number < 2:
        return None, None, 0, "a single group, so there is no interval"
    by_group = numpy.zeros((number, columns.shape[1]))
    numpy.add.at(by_group, index, columns)
    sums = [counts @ by_group for counts in _draw_groups(number, number, draws, seed)]
    return _interval_or_reason(statistic(numpy.concatenate(sums)))


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


def _group_index(groups: Sequence[object] | None, n: int) -> tuple[NDArray[numpy.int64], int]:
    """Return the number of each point's group, and how many groups there are."""
    if groups is None:
        return numpy.arange(n), n
    if len(groups) != n:
        raise StatisticsError(f"groups has {len(groups)} values for {n} points")
    numbers: dict[Any, int] = {}
    index = [numbers.setdefault(group, len(numbers)) for group in groups]
    return numpy.array(index, dtype=numpy.int64), len(numbers)


def _draw_groups(number: int, width: int, draws: int, seed: int) -> Iterator[Floats]:
    """Yield how often each group was drawn, ``[block, number]``.

    A block is so small that ``width`` numbers for each of its draws fit into the memory bound.
    """
    generator = numpy.random.default_rng(seed)
    at_once = max(1, _WEIGHTS_AT_ONCE // max(width, number))
    for begin in range(0, draws, at_once):
        rows = min(at_once, draws - begin)
        drawn = generator.integers(number, size=(rows, number))
        drawn += number * numpy.arange(rows)[:, None]
        counts = numpy.bincount(drawn.ravel(), minlength=rows * number)
        yield counts.reshape(rows, number).astype(numpy.float64)


def percentile_interval(drawn: Floats) -> tuple[float | None, float | None, int]:
    """Return the 95% interval of drawn values ``[draws]``, and how many NaN were left out."""
    defined = drawn[~numpy.isnan(drawn)]
    left_out = len(drawn) - len(defined)
    if not len(defined):
        return None, None, left_out
    tail = (1 - LEVEL) / 2
    low, high = numpy.quantile(defined, [tail, 1 - tail])
    return float(low), float(high), left_out


def _interval_or_reason(drawn: Floats) -> tuple[float | None, float | None, int, str | None]:
    """Return :func:`percentile_interval`, and the reason if it is missing or has no width."""
    low, high, left_out = percentile_interval(drawn)
    if low is None or high is None:
        return None, None, left_out, "undefined in every resample, so there is no interval"
    if high - low <= _ROUNDING * max(abs(low), abs(high)):
        why = "the same in every resample, so the bootstrap gives no interval"
        return None, None, left_out, why
    return low, high, left_out, None
