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

Integers = NDArray[numpy.int64]

DRAWS = 10_000
"""Resamples behind a single interval."""

REPORT_DRAWS = 2_000
"""Resamples behind each of the many intervals of a report."""

REPORT_SEED = 20240210
"""Seed of the resamples of every report."""

LEVEL = 0.95
"""Share of the resamples that lie within an interval."""

_WEIGHTS_AT_ONCE = 1_000_000  # bounds the memory of a bootstrap
_ROUNDING = 1e-12  # width of an interval, relative to its ends, that is nothing but rounding


class StatisticsError(ValueError):
    """Raised when numbers do not allow a statistic; the message names the index."""


@dataclass(frozen=True)
class Correlation:
    """A correlation coefficient of n points, with its 95% interval.

    It is an :class:`Estimate` in all but the name of its figure: files of results are written from
    these fields, and there a coefficient is ``r`` and any other figure ``value``.

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
    """A mean, a rate or another figure, with its 95% interval.

    A correlation coefficient is a :class:`Correlation`, whose figure is called ``r`` in files.

    Attributes:
        value: the figure; None where it is undefined.
        low, high: ends of its 95% interval, or None.
        n: number of points that the figure is computed from.
        why: the reason why ``value`` or its interval is None.
        left_out: number of resamples that the interval leaves out, because the figure was
            undefined in them.
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
    names: tuple[str, str] = ("x", "y"),
    points: str = "points",
) -> Correlation:
    """Compute Pearson's or Spearman's correlation of two columns, with its 95% interval.

    Spearman's is Pearson's of the midranks, which are ranked anew in every resample.

    Args:
        x, y: ``[n]``, finite numbers.
        kind: "pearson" or "spearman".
        groups: ``[n]``, hashable; points of one group are drawn together.
        draws: number of resamples for the interval.
        seed: seed of the draws.
        names: what the reason for an undefined coefficient calls the two columns.
        points: what that reason calls the points, in the plural.

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
    if number < 2:
        return Correlation(r, None, None, len(xs), "a single group, so there is no interval")
    drawn = numpy.concatenate(
        [
            coefficients(counts[:, index], xs, ys)
            for counts in draw_groups(number, draws, seed, width=len(xs))
        ]
    )
    low, high, left_out, why = interval_of_draws(drawn)
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
        groups, draws, seed: the same as those of :func:`correlation`.

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
    low, high, left_out, why = interval_of_sums(
        columns, lambda sums: ratio(sums[:, 0], sums[:, 1]), groups, draws=draws, seed=seed
    )
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
        groups, draws, seed: the same as those of :func:`correlation`.

    Returns:
        ``low, high, left_out, why`` as in :class:`Correlation`.
    """
    index, number = _group_index(groups, len(columns))
    if number < 2:
        return None, None, 0, "a single group, so there is no interval"
    by_group = numpy.zeros((number, columns.shape[1]))
    numpy.add.at(by_group, index, columns)
    sums = [counts @ by_group for counts in draw_groups(number, draws, seed)]
    return interval_of_draws(statistic(numpy.concatenate(sums)))


def ratio(sums: Floats, counts: Floats) -> Floats:
    """Return sums over counts, element by element; NaN where the count is 0."""
    empty = counts == 0
    return numpy.where(empty, numpy.nan, sums / numpy.where(empty, 1.0, counts))


def numbered(values: Sequence[object]) -> tuple[Integers, list[Any]]:
    """Return each value's number ``[n]``, and the distinct values in the order they appear in."""
    numbers: dict[object, int] = {}
    index = [numbers.setdefault(value, len(numbers)) for value in values]
    return numpy.array(index, dtype=numpy.int64), list(numbers)


def draw_groups(number: int, draws: int, seed: int, *, width: int = 0) -> Iterator[Floats]:
    """Yield how often each group is drawn, ``[block, number]``, in blocks of resamples.

    Args:
        number: the number of groups.
        draws: the number of resamples.
        seed: the seed of the draws, which depend on it alone, not on the blocks.
        width: numbers that the caller holds for each resample; it bounds the memory of a block.
    """
    generator = numpy.random.default_rng(seed)
    at_once = max(1, _WEIGHTS_AT_ONCE // max(width, number))
    for begin in range(0, draws, at_once):
        rows = min(at_once, draws - begin)
        drawn = generator.integers(number, size=(rows, number))
        drawn += number * numpy.arange(rows)[:, None]
        counts = numpy.bincount(drawn.ravel(), minlength=rows * number)
        yield counts.reshape(rows, number).astype(numpy.float64)


def interval_of_draws(drawn: Floats) -> tuple[float | None, float | None, int, str | None]:
    """Return the 95% percentile interval of a figure's resamples.

    Args:
        drawn: ``[draws]``, NaN where the figure is undefined.

    Returns:
        ``low, high, left_out, why`` as in :class:`Estimate`.
    """
    defined = drawn[~numpy.isnan(drawn)]
    left_out = len(drawn) - len(defined)
    if not len(defined):
        return None, None, left_out, "undefined in every resample, so there is no interval"
    tail = (1 - LEVEL) / 2
    low, high = map(float, numpy.quantile(defined, [tail, 1 - tail]))
    if high - low <= _ROUNDING * max(abs(low), abs(high)):
        why = "the same in every resample, so the bootstrap gives no interval"
        return None, None, left_out, why
    return low, high, left_out, None


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
