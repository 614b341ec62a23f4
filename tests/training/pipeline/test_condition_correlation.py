"""Test the correlation over conditions, and its interval against leaving dialogues out by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy
import pytest
from scipy import stats

from sra_fast.training.pipeline.evaluation.condition_correlation import (
    OPEN,
    RANKS,
    condition_correlation,
)
from sra_fast.training.pipeline.evaluation.group_means import Means, group_means

CONDITIONS = 5


def made(dialogues: int = 20, spread: float = 1.0, seed: int = 0) -> Any:
    """Make responses of which dialogues answer some conditions more than once, and lack others."""
    generator = numpy.random.default_rng(seed)
    n = 6 * dialogues
    dialogue = numpy.repeat(numpy.arange(dialogues), 6)
    condition = generator.integers(CONDITIONS, size=n)
    effect = generator.normal(size=dialogues)[dialogue]
    chance = 1 / (1 + numpy.exp(-spread * (condition - 2) - effect))
    right = (generator.random(n) < chance).astype(float)
    score = numpy.exp(spread * 0.4 * condition + 0.3 * effect + 0.3 * generator.normal(size=n))
    return numpy.stack([right, score], axis=1), condition, dialogue


def means_of(columns: Any, condition: Any, dialogue: Any) -> Means:
    return group_means(columns, condition, CONDITIONS, dialogue, shares=(0,))


def without_noise(columns: Any, condition: Any, dialogue: Any, *, log: bool) -> tuple[float, float]:
    """Compute s_xy and the root of s_xx·s_yy, straight from their definition."""
    centred, added = [], []
    names = sorted(set(dialogue))
    for column in (columns[:, 1], columns[:, 0]):
        own = [column[condition == c] for c in range(CONDITIONS)]
        means = numpy.array([one.mean() for one in own])
        e = numpy.array(
            [
                [
                    (column[(condition == c) & (dialogue == d)] - means[c]).sum() / len(own[c])
                    for c in range(CONDITIONS)
                ]
                for d in names
            ]
        )
        if log and column is not columns[:, 0] and not added:
            e, means = e / means, numpy.log(means)
        centred.append(means - means.mean())
        added.append(e - e.mean(axis=1, keepdims=True))
    factor = len(names) / (len(names) - 1)
    s = [
        centred[i] @ centred[j] - factor * (added[i] * added[j]).sum()
        for i, j in ((0, 1), (0, 0), (1, 1))
    ]
    return s[0], math.sqrt(max(s[1], 0) * max(s[2], 0))


@pytest.mark.parametrize("log", [False, True])
def test_at_both_ends_r_is_t_errors_away(log: bool) -> None:
    columns, condition, dialogue = made()
    found = condition_correlation(means_of(columns, condition, dialogue), 1, log=log)
    assert found.low is not None
    assert found.high is not None
    assert -1 < found.low < found.high <= 1
    s, p = without_noise(columns, condition, dialogue, log=log)
    left = [
        without_noise(*(part[dialogue != d] for part in (columns, condition, dialogue)), log=log)
        for d in range(20)
    ]
    for rho in (found.low, found.high):
        if rho == 1:
            continue
        error = math.sqrt(19 * numpy.var([one - rho * size for one, size in left]))
        assert abs(s - rho * p) == pytest.approx(stats.t.ppf(0.975, 19) * error)


def test_r_is_that_of_the_means_as_they_are() -> None:
    data = made()
    means = means_of(*data)
    values = means.values
    found = condition_correlation(means, 1)
    assert found.r == pytest.approx(stats.pearsonr(values[:, 1], values[:, 0]).statistic)
    rho = condition_correlation(means, 1, "spearman")
    assert rho.r == pytest.approx(stats.spearmanr(values[:, 1], values[:, 0]).statistic)
    assert (rho.low, rho.why) == (None, RANKS)


def test_conditions_that_differ_by_noise_alone_leave_r_open() -> None:
    found = condition_correlation(means_of(*made(spread=0.0)), 1)
    assert found.r is not None
    assert (found.low, found.high, found.why) == (None, None, OPEN)


def test_few_dialogues_of_a_condition_give_no_interval() -> None:
    columns, condition, dialogue = made()
    kept = (condition != 3) | (dialogue < 9)
    found = condition_correlation(means_of(columns[kept], condition[kept], dialogue[kept]), 1)
    assert found.low is None
    assert found.why == (
        "a condition of fewer than 8 dialogues, too few for an interval that holds"
    )


def test_a_condition_without_a_score_is_left_out_and_told() -> None:
    columns, condition, dialogue = made(dialogues=60)
    columns[condition == 4, 1] = math.nan
    found = condition_correlation(means_of(columns, condition, dialogue), 1)
    assert found.n == 4
    assert found.low is not None
    assert found.why == "1 of 5 conditions without a value are left out"
