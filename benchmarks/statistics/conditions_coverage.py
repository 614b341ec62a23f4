"""Simulate the interval of the correlation of SRA with accuracy over conditions.

Eight conditions differ in SRA and in accuracy, and a dialogue that is hard is hard under all of
them. What is to be covered is r of the eight true means. Beside it stands what the interval was
before: the percentiles of r over resampled dialogues, which noise in the means pulls towards 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy
from scipy.special import ndtr

from benchmarks.statistics.coverage import SEED, SIMULATIONS, Case, Coverage, summary
from benchmarks.statistics.simulated_dialogues import WITHIN
from sra_fast.tools.coefficients import Floats, weighted_pearson
from sra_fast.training.pipeline.evaluation.condition_correlation import condition_correlation
from sra_fast.training.pipeline.evaluation.group_means import group_means

CONDITIONS = 8
REPLIES = 2
DIALOGUES = (8, 12, 30, 100)
CORRELATIONS = (0.0, 0.5, 0.9)
SPREADS = {"close": 0.15, "apart": 0.3, "far apart": 0.6}
"""Standard deviation of the conditions' mean log SRA, which replies have one of 1 around."""

RESAMPLES = 200


@dataclass(frozen=True, eq=False)
class _Drawn:
    """The scores and answers ``[D, C, k]`` of some dialogues, and r of the true means."""

    score: Floats
    right: Floats
    truth: float


def coverage_over_conditions(
    rho: float, spread: str, dialogues: int, simulations: int = SIMULATIONS
) -> tuple[Coverage, Coverage]:
    """Simulate the interval of r over conditions, and the percentile bootstrap that it replaced.

    Args:
        rho: the correlation that the conditions' true SRA and accuracy are drawn with.
        spread: how far apart the conditions are, a key of :data:`SPREADS`.
        dialogues: the number of dialogues.
        simulations: how many data sets to draw.
    """
    generator = numpy.random.default_rng([SEED, dialogues, int(10 * rho), *spread.encode()])
    ours, truths, before, all_truths = [], [], [], []
    for _ in range(simulations):
        drawn = _draw(generator, rho, SPREADS[spread], dialogues)
        found = _library(drawn)
        if found is not None:
            ours.append(found)
            truths.append(drawn.truth)
        before.append(_percentiles(generator, drawn))
        all_truths.append(drawn.truth)
    case, old = (
        Case(figure, f"{spread}, drawn with {rho:g}", rho, lambda g, n: None)  # type: ignore[arg-type,return-value]
        for figure in ("r over conditions", "r over conditions, percentile bootstrap")
    )
    return (
        summary(case, dialogues, simulations, ours, truths),
        summary(old, dialogues, simulations, before, all_truths),
    )


def _draw(generator: numpy.random.Generator, rho: float, spread: float, dialogues: int) -> _Drawn:
    a, e = generator.normal(size=(2, CONDITIONS))
    b = rho * a + math.sqrt(1 - rho**2) * e
    sra, accuracy = numpy.exp(spread * a), 1 / (1 + numpy.exp(-1.5 * spread * b))
    size = (dialogues, CONDITIONS, REPLIES)
    x, y = (
        math.sqrt(WITHIN) * generator.normal(size=(dialogues, 1, 1))
        + math.sqrt(1 - WITHIN) * generator.normal(size=size)
        for _ in range(2)
    )
    return _Drawn(
        sra[:, None] * numpy.exp(x),
        (ndtr(y) < accuracy[:, None]).astype(numpy.float64),
        float(numpy.corrcoef(sra, accuracy)[0, 1]),
    )


def _library(drawn: _Drawn) -> tuple[float, float] | None:
    dialogues = len(drawn.score)
    dialogue, condition, _ = numpy.indices(drawn.score.shape).reshape(3, -1)
    columns = numpy.stack([drawn.right.ravel(), drawn.score.ravel()], axis=1)
    means = group_means(columns, condition, CONDITIONS, dialogue, shares=(0,))
    assert len(means.sums) == dialogues
    found = condition_correlation(means, 1)
    return None if found.low is None or found.high is None else (found.low, found.high)


def _percentiles(generator: numpy.random.Generator, drawn: _Drawn) -> tuple[float, float]:
    dialogues = len(drawn.score)
    counts = generator.multinomial(dialogues, numpy.full(dialogues, 1 / dialogues), size=RESAMPLES)
    x, y = (counts @ part.mean(axis=2) for part in (drawn.score, drawn.right))
    low, high = numpy.nanquantile(weighted_pearson(numpy.ones_like(x), x, y), [0.025, 0.975])
    return float(low), float(high)
