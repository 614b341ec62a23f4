"""Compute Krippendorff's alpha: how far annotators agree beyond chance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy

from sra_fast.tools.coefficients import Floats
from sra_fast.tools.estimates import Estimate
from sra_fast.tools.intervals import interval_of_sums
from sra_fast.tools.missing_extra import needed


def krippendorff_alpha(
    ratings: Floats, groups: Sequence[str] | None = None, *, over: str = "items"
) -> Estimate:
    """Compute Krippendorff's alpha at the interval level, with a 95% interval over groups of items.

    With m_i values v of item i, and sums over the n values of items that have two or more:
    alpha = 1 − (n − 1) · Σ_i m_i·S_i/(m_i − 1) / (n·S),   S = Σ v² − (Σ v)²/n, S_i alike.

    Args:
        ratings: the preferences, ``[annotators, items]`` float64, NaN where there is none.
        groups: the group of each item, ``[items]``; items of one group count as one observation.
            None: each item is a group of its own.
        over: what the reason for a missing interval calls the groups, in the plural.

    Raises:
        MissingExtraError: the package krippendorff is missing.
    """
    with needed("pipeline", "krippendorff"):
        import krippendorff
    if (~numpy.isnan(ratings)).any(axis=1).sum() < 2:
        return Estimate(None, None, None, 0, "a single annotator; alpha compares two or more")
    twice = (~numpy.isnan(ratings)).sum(axis=0) >= 2
    paired = ratings[:, twice]
    items = paired.shape[1]
    if not items:
        return Estimate(None, None, None, 0, "no item was judged by two annotators")
    values = paired[~numpy.isnan(paired)]
    if (values == values[0]).all():
        return Estimate(None, None, None, items, "all preferences are the same: alpha is 0/0")
    alpha = float(krippendorff.alpha(reliability_data=paired, level_of_measurement="interval"))
    m = (~numpy.isnan(paired)).sum(axis=0).astype(numpy.float64)
    v, vv = numpy.nansum(paired, axis=0), numpy.nansum(paired**2, axis=0)
    columns = numpy.stack([m, v, vv, (m * vv - v * v) / (m - 1)], axis=1)
    kept = None if groups is None else [groups[at] for at in twice.nonzero()[0]]
    # 1 − alpha, a ratio of two spreads, is what lies symmetrically on the scale of the logarithm
    low, high, why = interval_of_sums(
        columns, lambda sums: 1 - alpha_of_sums(sums), kept, scale="log", over=over
    )
    if low is None or high is None:
        return Estimate(alpha, None, None, items, why)
    return Estimate(alpha, 1 - high, 1 - low, items)


def alpha_of_sums(sums: Floats) -> Floats:
    """Compute alpha from sums over items, for many sets of items at a time.

    Args:
        sums: Σ m, Σ v, Σ v² and Σ_i m_i·S_i/(m_i − 1) of each set, ``[k, 4]`` float64.

    Returns:
        Alpha of each set, ``[k]`` float64; NaN where it is 0/0.
    """
    n, v, vv, within = sums.T
    spread = n * vv - v * v  # n·S; exact, as preferences are whole numbers
    undefined = spread == 0
    alpha = 1 - (n - 1) * within / numpy.where(undefined, 1.0, spread)
    return numpy.where(undefined, numpy.nan, alpha)
