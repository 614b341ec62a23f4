"""Compute Krippendorff's alpha: how far annotators agree beyond chance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy

from sra_fast.tools.bootstrap import REPORT_SEED, Estimate, interval_of_sums
from sra_fast.tools.coefficients import Floats
from sra_fast.tools.missing_extra import needed


def krippendorff_alpha(ratings: Floats, groups: Sequence[str] | None = None) -> Estimate:
    """Compute Krippendorff's alpha at the interval level, with a 95% interval over groups of items.

    With m_i values v of item i, and sums over the n values of items that have two or more:
    alpha = 1 − (n − 1) · Σ_i m_i·S_i/(m_i − 1) / (n·S),   S = Σ v² − (Σ v)²/n, S_i alike.

    Args:
        ratings: the preferences, ``[annotators, items]`` float64, NaN where there is none.
        groups: the group of each item, ``[items]``; the bootstrap draws all items of a group
            together. None draws each item by itself.

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
    drawn = None if groups is None else [groups[at] for at in twice.nonzero()[0]]
    low, high, left_out, why = interval_of_sums(columns, alpha_of_sums, drawn, seed=REPORT_SEED)
    return Estimate(alpha, low, high, items, why, left_out)


def alpha_of_sums(sums: Floats) -> Floats:
    """Compute alpha from the sums of each bootstrap draw.

    Args:
        sums: Σ m, Σ v, Σ v² and Σ_i m_i·S_i/(m_i − 1) of each draw, ``[draws, 4]`` float64.

    Returns:
        Alpha of each draw, ``[draws]`` float64; NaN where it is 0/0.
    """
    n, v, vv, within = sums.T
    spread = n * vv - v * v  # n·S; exact, as preferences are whole numbers
    undefined = spread == 0
    alpha = 1 - (n - 1) * within / numpy.where(undefined, 1.0, spread)
    return numpy.where(undefined, numpy.nan, alpha)
