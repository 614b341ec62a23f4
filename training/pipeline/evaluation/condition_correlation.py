"""Correlate a score with accuracy over conditions, with an interval over dialogues.

Each point is a condition. There are few, and they were not drawn from a population, so the interval
says what other dialogues would give, not what other conditions would.

The two means of a condition, x_c and y_c, are noisy, and noise pulls r towards 0. What Σ x̃_c·ỹ_c
(x̃, ỹ: less their mean over the conditions) gains from it is estimated from the D dialogues, and
taken away. With e_dc what dialogue d adds to x_c beyond its share, f_dc alike for y_c:

    s_xy = Σ_c x̃_c·ỹ_c − D/(D − 1) · Σ_d Σ_c ẽ_dc·f̃_dc,   s_xx and s_yy alike
    r of the means without noise = s_xy / √(s_xx·s_yy)

The interval is Fieller's, which holds for a ratio with an uncertain denominator too: all ρ with
|s_xy − ρ·√(s_xx·s_yy)| ≤ t · its standard error, from leaving out one dialogue at a time. Where the
means differ by little but noise, every ρ is among them, and there is no interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy

from sra_fast.tools.coefficients import Floats
from sra_fast.tools.estimates import Correlation, too_few
from sra_fast.tools.grouped import ratio
from sra_fast.tools.intervals import Kind, correlation
from sra_fast.tools.small_samples import Limits, pulls, student_quantile

from .group_means import Means

RANKS = "ranks jump with the noise of the means, so rho has no interval"
OPEN = "the means differ by too little beside their noise to say how they correlate"


def condition_correlation(
    means: Means, column: int, kind: Kind = "pearson", *, log: bool = False
) -> Correlation:
    """Correlate the mean of a score with accuracy over the conditions that have both.

    r is that of the means as they are. The interval is for r of the means without their noise,
    which lies further from 0.

    Args:
        means: means by condition (its groups) and column; column 0 is accuracy.
        column: the number of the score's column.
        kind: "pearson", or "spearman" (Pearson of the midranks), which has no interval.
        log: take the natural logarithm of the score's mean; a condition whose mean is 0 is then
            left out.
    """
    values = means.values
    score = _log(values[:, column]) if log else values[:, column]
    there = ~numpy.isnan(score) & ~numpy.isnan(values[:, 0])
    x, y = score[there], values[there, 0]
    plain = correlation(x, y, kind, names=("score", "accuracy"), points="conditions")
    absent = int((~there).sum())
    left = f"{absent} of {len(there)} conditions without a value are left out" if absent else None
    found = replace(plain, low=None, high=None)
    if found.r is None:
        return replace(found, why="; ".join(filter(None, (found.why, left))))
    why = too_few(int(means.dialogues[there][:, [0, column]].min()))
    if why is not None:
        return replace(found, why=f"a condition of {why}")
    if kind == "spearman":
        return replace(found, why="; ".join(filter(None, (RANKS, left))))
    limits = _limits(
        *(part[:, there][:, :, [column, 0]] for part in (means.sums, means.counts)), log=log
    )
    low, high = limits or (None, None)
    why = "; ".join(filter(None, (None if limits else OPEN, left)))
    return replace(found, low=low, high=high, why=why or None)


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
        found[left_out] = correlation([x for x, _ in others], [y for _, y in others]).r
    return found


def _limits(sums: Floats, counts: Floats, *, log: bool) -> Limits | None:
    """Return the limits of r without noise, or None where they leave every value possible.

    Args:
        sums, counts: ``[D, C, 2]`` of the score and of accuracy, by dialogue and condition.
        log: whether to take the logarithm of the score's means.
    """
    used = counts.any(axis=(1, 2))
    products, sizes = _moments(sums[used], counts[used], log=log)  # [1 + D], the first of all
    if not numpy.isfinite(products).all() or not numpy.isfinite(sizes).all():
        return None
    a, b = pulls(products[1:]), pulls(sizes[1:])
    dialogues = len(a)
    t = student_quantile(dialogues - 1) ** 2 / (dialogues * (dialogues - 1))
    s, p = float(products[0]), float(sizes[0])
    # (s − ρp)² ≤ t·Σ(a − ρb)²: a quadratic in ρ, at most 0 within the interval
    square = p**2 - t * float(b @ b)
    half = s * p - t * float(a @ b)
    constant = s**2 - t * float(a @ a)
    root = half**2 - square * constant
    if square <= 0 or root < 0:
        return None
    low, high = (half - math.sqrt(root)) / square, (half + math.sqrt(root)) / square
    if low > 1 or high < -1 or (low <= -1 and high >= 1):
        return None
    return max(low, -1.0), min(high, 1.0)


def _moments(sums: Floats, counts: Floats, *, log: bool) -> tuple[Floats, Floats]:
    """Return s_xy and √(s_xx·s_yy), ``[1 + D]`` each: of all dialogues, then without each."""
    none = numpy.zeros((1, *sums.shape[1:]))
    left_out, left_counts = numpy.concatenate([none, sums]), numpy.concatenate([none, counts])
    totals, n = sums.sum(axis=0) - left_out, counts.sum(axis=0) - left_counts  # [1 + D, C, 2]
    means = ratio(totals, n)
    dialogues = len(sums) - (numpy.arange(len(left_out)) > 0)
    # Σ_d of products over pairs of conditions, less those of the dialogue that is left out
    stacked = numpy.concatenate([sums, counts], axis=2)  # [D, C, 4]: S_x, S_y, n_x, n_y
    left = numpy.concatenate([left_out, left_counts], axis=2)
    every = numpy.einsum("dci,dkj->ijck", stacked, stacked)
    gram = every - numpy.einsum("dci,dkj->dijck", left, left)  # [1 + D, 4, 4, C, C]
    points = _logged(means) if log else means
    centred = points - points.mean(axis=1, keepdims=True)

    def without_noise(i: int, j: int) -> Floats:
        mi, mj = means[:, :, None, i], means[:, None, :, j]
        noise = gram[:, i, j] - mi * gram[:, 2 + i, j] - mj * gram[:, i, 2 + j]
        noise += mi * mj * gram[:, 2 + i, 2 + j]
        noise /= n[:, :, None, i] * n[:, None, :, j]  # Σ_d e_dc·f_dk
        if log:
            noise /= (mi if i == 0 else 1.0) * (mj if j == 0 else 1.0)
        conditions = noise.shape[1]
        trace = numpy.einsum("dcc->d", noise) - noise.sum(axis=(1, 2)) / conditions
        product = (centred[:, :, i] * centred[:, :, j]).sum(axis=1)
        return numpy.asarray(product - dialogues / (dialogues - 1) * trace)

    with numpy.errstate(divide="ignore", invalid="ignore"):
        sizes = [numpy.maximum(without_noise(i, i), 0.0) for i in (0, 1)]
        return without_noise(0, 1), numpy.sqrt(sizes[0] * sizes[1])


def _logged(means: Floats) -> Floats:
    """Return the means ``[k, C, 2]`` with the logarithm of the first of each pair."""
    return numpy.stack([_log(means[..., 0]), means[..., 1]], axis=-1)


def _log(values: Floats) -> Floats:
    positive = values > 0
    return numpy.where(positive, numpy.log(numpy.where(positive, values, 1.0)), numpy.nan)
