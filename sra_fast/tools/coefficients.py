"""Compute correlation coefficients of weighted points, for many sets of weights at a time.

Leaving out a group is a set of weights: 0 for its points, 1 for all others. SciPy takes one data
set at a time for Spearman's coefficient and no weights for either, so a thousand groups would be a
loop.
"""

from __future__ import annotations

import numpy
from numpy.typing import NDArray

Floats = NDArray[numpy.float64]

_ROUNDING = 1e-13  # spread of a column, relative to its values, that is nothing but rounding
_FEWEST = 3  # points of a correlation; two always lie on a line


def why_undefined(xs: Floats, ys: Floats, names: tuple[str, str], points: str) -> str | None:
    """Return why the points ``xs, ys [n]`` have no correlation, or None if they have one.

    Args:
        xs, ys: the two columns.
        names: what the reason calls the two columns.
        points: what the reason calls the points, in the plural.
    """
    if len(xs) < _FEWEST:
        return f"{len(xs)} {points}; a correlation takes {_FEWEST} or more"
    constant = [
        name
        for name, column in zip(names, (xs, ys), strict=True)
        if numpy.ptp(column) <= _ROUNDING * numpy.abs(column).max()
    ]
    return f"{' and '.join(constant)} constant, so r is undefined" if constant else None


def ordinals(column: Floats) -> Floats:
    """Replace the distinct values by 0, 1, 2, … in their order: ranks need no more.

    Whole numbers are free of rounding errors.
    """
    found: Floats = numpy.unique(column, return_inverse=True)[1].astype(numpy.float64)
    return found


def scaled(column: Floats) -> Floats:
    """Shift and scale a column ``[n]`` to mean 0 and within ±1, so that squares stay in range."""
    within_one = column / numpy.abs(column).max()
    centred = within_one - within_one.mean()
    within: Floats = centred / numpy.abs(centred).max()
    return within


def weighted_pearson(weights: Floats, xs: Floats, ys: Floats) -> Floats:
    """Return Pearson's r for each row of weights ``[D, n]``, NaN where a column is constant.

    r = Σ w·dx·dy / √(Σ w·dx² · Σ w·dy²),   dx = x − Σ w·x / Σ w. x, y: ``[n]`` or ``[D, n]``.
    """
    total = weights.sum(axis=1, keepdims=True)
    dx = xs - (weights * xs).sum(axis=1, keepdims=True) / total
    dy = ys - (weights * ys).sum(axis=1, keepdims=True) / total
    product = (weights * dx * dy).sum(axis=1)
    squares = (weights * dx * dx).sum(axis=1) * (weights * dy * dy).sum(axis=1)
    undefined = _constant(weights, xs) | _constant(weights, ys) | (squares <= 0)
    r = product / numpy.sqrt(numpy.where(undefined, 1.0, squares))
    return numpy.where(undefined, numpy.nan, numpy.clip(r, -1.0, 1.0))


def weighted_spearman(weights: Floats, xs: Floats, ys: Floats) -> Floats:
    """Return Spearman's correlation for each row of weights ``[D, n]``: Pearson's of the midranks.

    Shapes are those of :func:`weighted_pearson`.
    """
    return weighted_pearson(weights, _midranks(weights, xs), _midranks(weights, ys))


def _midranks(weights: Floats, values: Floats) -> Floats:
    """Return ranks ``[D, n]`` of values that count ``weights`` times; equal ones share the mean."""
    _, first, code = numpy.unique(numpy.sort(values), return_index=True, return_inverse=True)
    order = numpy.argsort(values, kind="stable")
    counts = numpy.add.reduceat(weights[:, order], first, axis=1)
    ranks = numpy.cumsum(counts, axis=1) - (counts - 1) / 2
    midranks = numpy.empty_like(weights)
    midranks[:, order] = ranks[:, code]
    return midranks


def _constant(weights: Floats, values: Floats) -> NDArray[numpy.bool_]:
    """Return for each row of weights whether all values with a weight are equal.

    This is exact, unlike a variance, which rounding keeps from 0.
    """
    drawn = weights > 0
    least = numpy.where(drawn, values, numpy.inf).min(axis=1)
    most = numpy.where(drawn, values, -numpy.inf).max(axis=1)
    return numpy.asarray(least == most)
