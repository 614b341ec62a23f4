"""Simulate how often the library's 95% intervals hold the true figure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

import numpy
from numpy.random import Generator

from benchmarks.statistics import simulated_dialogues as simulated
from benchmarks.statistics.simulated_dialogues import Drawn
from sra_fast.tools.estimates import FEWEST, FEWEST_OF_SHARE, Correlation, Estimate
from sra_fast.tools.intervals import correlation, mean_interval, rate_interval
from sra_fast.training.pipeline.annotation.alpha import krippendorff_alpha
from sra_fast.training.pipeline.evaluation.group_means import group_means
from sra_fast.training.pipeline.evaluation.ranking import auc

DIALOGUES = (2, 3, 5, 8, 12, 30)
SIMULATIONS = 1000
SEED = 20240210
FEWEST_PRINTED = 50
"""Fewest printed intervals that a coverage is given for: from fewer it is not known to 0.1."""

Simulate = Callable[[Generator, int], Estimate | Correlation]
"""Draws so many dialogues, and returns the library's estimate from them."""


@dataclass(frozen=True)
class Case:
    """A figure of data of one kind.

    Attributes:
        figure: the kind of figure, such as "mean".
        data: the data it is of.
        truth: the true figure.
        simulate: draws the data and estimates the figure.
    """

    figure: str
    data: str
    truth: float
    simulate: Simulate


@dataclass(frozen=True)
class Coverage:
    """The coverage of one case: how often its intervals hold the true figure.

    Attributes:
        figure, data, truth: those of the :class:`Case`.
        dialogues: the number of dialogues.
        simulations: how many data sets were drawn.
        printed: the share of them that got an interval.
        covered: the share of these intervals that hold the true figure; None with few of them.
        width: the median width of these intervals, or None.
    """

    figure: str
    data: str
    truth: float
    dialogues: int
    simulations: int
    printed: float
    covered: float | None
    width: float | None


def coverage(case: Case, dialogues: int, simulations: int = SIMULATIONS) -> Coverage:
    """Simulate one case with so many dialogues, always with the same seed.

    Where the rule prints no interval, a single simulation shows it.
    """
    if dialogues < (FEWEST_OF_SHARE if case.figure == "share" else FEWEST):
        simulations = 1
    generator = numpy.random.default_rng([SEED, dialogues, *case.figure.encode()])
    intervals = []
    for _ in range(simulations):
        found = case.simulate(generator, dialogues)
        if found.low is not None and found.high is not None:
            intervals.append((found.low, found.high))
    return summary(case, dialogues, simulations, intervals, [case.truth] * len(intervals))


def summary(
    case: Case,
    dialogues: int,
    simulations: int,
    intervals: Sequence[tuple[float, float]],
    truths: Sequence[float],
) -> Coverage:
    """Count how many of the intervals hold the true figure that belongs to each."""
    enough = len(intervals) >= FEWEST_PRINTED
    held = [
        low <= truth + 1e-12 and truth - 1e-12 <= high
        for (low, high), truth in zip(intervals, truths, strict=True)
    ]
    return Coverage(
        case.figure,
        case.data,
        case.truth,
        dialogues,
        simulations,
        round(len(intervals) / simulations, 3),
        round(sum(held) / len(held), 3) if enough else None,
        round(median(high - low for low, high in intervals), 4) if enough else None,
    )


def cases() -> Iterator[Case]:
    """Yield every case of the table."""
    yield Case("mean", "normal", 0.0, _mean(lambda x: x))
    yield Case("mean", "log-normal", math.exp(0.5), _mean(numpy.exp))
    for p in (0.1, 0.5, 0.9):
        yield Case("share", f"{p:g}", p, _share(p))
    yield Case("difference of means", "normal", 0.0, _difference(lambda x: x, 1.0))
    yield Case(
        "difference of means", "log-normal", 0.5 * math.exp(0.5), _difference(numpy.exp, 1.5)
    )
    for p, q in ((0.1, 0.1), (0.5, 0.1), (0.5, 0.5), (0.9, 0.1), (0.9, 0.5), (0.9, 0.9)):
        yield Case("difference of shares", f"{p:g} less {q:g}", p - q, _share_difference(p, q))
    for rho in (0.0, 0.5, 0.9):
        yield Case("correlation", f"normal, r {rho:g}", rho, _correlation(rho))
        r = (math.exp(rho) - 1) / (math.e - 1)
        yield Case("correlation", f"log-normal, r {r:.2g}", r, _correlation(rho, numpy.exp))
    for value in (0.5, 0.7, 0.9):
        yield Case("AUC", f"{value:g}", value, _auc(value))
    for value in (0.3, 0.7):
        yield Case("alpha", f"{value:g}", value, _alpha(value))


def _mean(shape: Callable[..., numpy.ndarray]) -> Simulate:
    def simulate(generator: Generator, dialogues: int) -> Estimate:
        drawn = simulated.two_conditions(generator, dialogues)
        return mean_interval(shape(drawn.x), drawn.dialogue.tolist())

    return simulate


def _share(p: float) -> Simulate:
    def simulate(generator: Generator, dialogues: int) -> Estimate:
        dialogue = simulated.dialogues_of(generator, dialogues)
        right = simulated.one_share(generator, dialogue, p)
        return rate_interval(right, numpy.ones(len(right)), dialogue.tolist())

    return simulate


def _difference(shape: Callable[..., numpy.ndarray], factor: float) -> Simulate:
    def simulate(generator: Generator, dialogues: int) -> Estimate:
        drawn = simulated.two_conditions(generator, dialogues)
        return _less(Drawn(drawn.dialogue, factor * shape(drawn.x), shape(drawn.y)), share=False)

    return simulate


def _share_difference(p: float, q: float) -> Simulate:
    def simulate(generator: Generator, dialogues: int) -> Estimate:
        return _less(simulated.two_shares(generator, dialogues, p, q), share=True)

    return simulate


def _less(drawn: Drawn, *, share: bool) -> Estimate:
    """Return the mean of x less that of y, as an evaluation computes it."""
    n = len(drawn.x)
    means = group_means(
        numpy.concatenate([drawn.x, drawn.y])[:, None],
        numpy.repeat([0, 1], n),
        2,
        numpy.tile(drawn.dialogue, 2),
        shares=(0,) if share else (),
    )
    return means.difference(0, 1, 0)


def _correlation(rho: float, shape: Callable[..., numpy.ndarray] = lambda x: x) -> Simulate:
    def simulate(generator: Generator, dialogues: int) -> Correlation:
        drawn = simulated.normal_pair(generator, dialogues, rho)
        return correlation(shape(drawn.x), shape(drawn.y), groups=drawn.dialogue.tolist())

    return simulate


def _auc(value: float) -> Simulate:
    def simulate(generator: Generator, dialogues: int) -> Estimate:
        drawn = simulated.scores_and_labels(generator, dialogues, value)
        n = len(drawn.x)
        everyone, one = numpy.ones(n, dtype=bool), numpy.zeros(n, dtype=numpy.int64)
        return auc(drawn.x, drawn.y > 0, one, drawn.dialogue, everyone)

    return simulate


def _alpha(value: float) -> Simulate:
    def simulate(generator: Generator, dialogues: int) -> Estimate:
        return krippendorff_alpha(simulated.ratings(generator, dialogues, value))

    return simulate
