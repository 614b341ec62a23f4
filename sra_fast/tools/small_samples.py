"""Compute confidence limits that hold for few dialogues: from leaving out one dialogue at a time.

The G groups, dialogues as a rule, are independent; the points within one are not. θ is a figure of
all of them, θ₍g₎ that of all but group g, and θ̄ the mean of the θ₍g₎. The jackknife gives how far
each group pulls the figure, and from that the standard error and the skewness:

    d_g = (G − 1)·(θ̄ − θ₍g₎),   s² = Σ d_g² / (G·(G − 1)),   γ = √G·Σ d_g³ / (Σ d_g²)^1.5

Limits are θ ± t·s with Student's t of G − 1 degrees of freedom; those of a mean allow for skewness
(P. Hall, "On the removal of skewness by transformation", J. R. Stat. Soc. B 54, 1992), those of a
share are Wilson's. How often they hold what they should is simulated in
``benchmarks/statistics/``.
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

import numpy

from sra_fast.tools.coefficients import Floats

LEVEL = 0.95
"""Share of the intervals that are to hold the true figure."""

Limits = tuple[float, float]

_STRAIGHT = 1e-6  # skewness over √G below which the correction is nothing but rounding
_ROUNDING = 1e-12  # spread of the groups, relative to the figure, that is nothing but rounding
_STEPS = 100  # halvings of a bracket: more than the digits of a float64


def without_each(by_group: Floats) -> Floats:
    """Return the sums of all groups but one, ``[G, C]`` from the sums of each, ``[G, C]``."""
    everything: Floats = by_group.sum(axis=0)
    return everything - by_group


def pulls(without: Floats) -> Floats:
    """Return how far each group pulls a figure, d_g ``[G]``.

    Args:
        without: ``[G]`` the figure of all groups but one.
    """
    found: Floats = (len(without) - 1) * (without.mean() - without)
    return found


def flat(pulled: Floats, value: float) -> bool:
    """Tell whether the groups differ by nothing but rounding."""
    return float(numpy.ptp(pulled)) <= _ROUNDING * len(pulled) * max(abs(value), 1e-300)


def standard_error(pulled: Floats) -> float:
    """Return the jackknife's standard error of a figure from the pulls ``[G]`` of G ≥ 2 groups."""
    groups = len(pulled)
    return math.sqrt(float((pulled**2).sum()) / (groups * (groups - 1)))


def student_limits(value: float, pulled: Floats) -> Limits:
    """Return θ ± t·s, the limits of a figure whose resampled values lie symmetrically.

    Args:
        value: the figure θ.
        pulled: ``[G]`` the pull of each group, G ≥ 2.
    """
    reach = student_quantile(len(pulled) - 1) * standard_error(pulled)
    return value - reach, value + reach


def mean_limits(value: float, pulled: Floats) -> Limits:
    """Return the limits of a mean, θ − s·h(±t), where h undoes the skewness of (θ̂ − θ)/s.

        h(x) = 3/a · (∛(1 + a·(x − a/6)) − 1),   a = γ/√G      (Hall 1992)

    Args:
        value: the mean θ.
        pulled: ``[G]`` the pull of each group, G ≥ 2, not all of them 0.
    """
    quantile = student_quantile(len(pulled) - 1)
    error = standard_error(pulled)
    a = float((pulled**3).sum()) / math.pow(float((pulled**2).sum()), 1.5)

    def undone(x: float) -> float:
        if abs(a) < _STRAIGHT:
            return x
        inside = 1 + a * (x - a / 6)
        return 3 / a * (math.copysign(math.pow(abs(inside), 1 / 3), inside) - 1)

    return value - error * undone(quantile), value - error * undone(-quantile)


def share_limits(share: float, chances: float, pulled: Floats, *, clustered: bool = True) -> Limits:
    """Return Wilson's limits of a share, with the number of chances cut by the design effect.

    With p the share and s its standard error over dialogues, the number of chances n counts as

        n′ = n / max(1, s² / (p·(1 − p)/n)),   and as the number of dialogues G if p is 0 or 1,

    in Wilson's limits with Student's t of G − 1 degrees of freedom in the place of the normal
    quantile; where every point is a group of its own, with that quantile and n′ = n.

    Args:
        share: the share p.
        chances: the number of chances n.
        pulled: ``[G]`` the pull of each group, G ≥ 2.
        clustered: whether some group holds more than one point.
    """
    groups, spread, effective = len(pulled), share * (1 - share), chances
    if clustered:
        error = standard_error(pulled)
        if spread <= 0:
            effective = float(groups)
        elif error > 0:
            effective = min(chances, spread / error**2)
    z = student_quantile(groups - 1) if clustered else NormalDist().inv_cdf((1 + LEVEL) / 2)
    centre = share + z**2 / (2 * effective)
    reach = z * math.sqrt(spread / effective + z**2 / (4 * effective**2))
    scale = 1 + z**2 / effective
    low = 0.0 if share == 0 else max(0.0, (centre - reach) / scale)
    high = 1.0 if share == 1 else min(1.0, (centre + reach) / scale)
    return low, high


def limits_of_share_difference(
    shares: Limits, limits: tuple[Limits, Limits], pulled: tuple[Floats, Floats]
) -> Limits:
    """Return the limits of one share minus another of the same dialogues, from those of each.

    With r the correlation of the pulls on both (R. G. Newcombe, "Improved confidence intervals for
    the difference between binomial proportions based on paired data", Stat. Med. 17, 1998):

        δ − √((p₁ − l₁)² + (u₂ − p₂)² − 2r·(p₁ − l₁)(u₂ − p₂)),   and the upper one alike

    Args:
        shares: p₁ and p₂, of which the difference is δ = p₁ − p₂.
        limits: the limits ``(l₁, u₁)`` and ``(l₂, u₂)``, from :func:`share_limits`.
        pulled: ``[G]`` each, the pulls of the same G groups on the one and on the other.
    """
    (one, other), ((l1, u1), (l2, u2)) = shares, limits
    size = math.sqrt(float((pulled[0] ** 2).sum() * (pulled[1] ** 2).sum()))
    r = float((pulled[0] * pulled[1]).sum()) / size if size > 0 else 0.0

    def reach(up: float, down: float) -> float:
        return math.sqrt(max(0.0, up**2 + down**2 - 2 * r * up * down))

    difference = one - other
    return difference - reach(one - l1, u2 - other), difference + reach(u1 - one, other - l2)


@lru_cache(maxsize=4096)
def student_quantile(freedom: int) -> float:
    """Return the t that a Student variable of that many degrees of freedom stays within ±t of.

    It does so with the probability :data:`LEVEL`. SciPy has it, but scoring goes without SciPy.

    Args:
        freedom: the degrees of freedom, 1 or more.
    """
    low, high = 0.0, math.pi / 2
    for _ in range(_STEPS):  # the angle θ of t = √ν·tan θ
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < LEVEL else (low, middle)
    return math.sqrt(freedom) * math.tan(low)


def _within(angle: float, freedom: int) -> float:
    """Return P(|T| ≤ √ν·tan θ) (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    cosine = math.cos(angle) ** 2
    term, total = 1.0, 0.0
    for i in range(freedom // 2):
        total += term
        term *= cosine * ((2 * i + 2) / (2 * i + 3) if freedom % 2 else (2 * i + 1) / (2 * i + 2))
    if freedom % 2 == 0:
        return math.sin(angle) * total
    return 2 / math.pi * (angle + math.sin(angle) * math.cos(angle) * total)
