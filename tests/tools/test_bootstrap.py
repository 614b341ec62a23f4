"""Test correlations, means and rates against SciPy and the published table."""

from __future__ import annotations

import math
from typing import Any

import numpy
import pytest
from scipy import stats

from sra_fast.tools import bootstrap
from sra_fast.tools.bootstrap import (
    StatisticsError,
    correlation,
    rate_interval,
    trimmed,
)

# arXiv 2402.10453, Table 1: accuracy, SRA, log SRA of the eight rows.
LLAMA3 = (
    [0.594, 0.658, 0.711, 0.736, 0.798, 0.811, 0.821, 0.940],
    [0.00117, 0.00156, 0.00203, 0.00139, 0.00163, 0.00348, 0.00255, 0.00332],
    [-6.916, -6.607, -6.337, -6.711, -6.549, -5.758, -6.082, -5.760],
)
LLAMA2 = (
    [0.144, 0.178, 0.294, 0.202, 0.295, 0.765, 0.715, 0.933],
    [0.00086, 0.00121, 0.00178, 0.00127, 0.00166, 0.00230, 0.00223, 0.00226],
    [-7.294, -6.802, -6.394, -6.781, -6.504, -6.112, -6.164, -6.126],
)


def noisy(n: int = 40, seed: int = 3) -> tuple[Any, Any]:
    generator = numpy.random.default_rng(seed)
    x = generator.normal(size=n)
    return x, numpy.round(x + generator.normal(size=n))


# Three decimals of what the table prints. Its SRA has few digits: rounding alone lets the raw
# coefficients lie anywhere from 0.912 to 0.917, and from 0.793 to 0.800.
@pytest.mark.parametrize(
    ("table", "raw", "log"), [(LLAMA2, 0.914, 0.848), (LLAMA3, 0.796, 0.834)], ids=["2", "3"]
)
def test_the_published_table_gives_its_correlations(table: Any, raw: float, log: float) -> None:
    accuracy, sra, log_sra = table
    for scores, expected in ((sra, raw), (log_sra, log)):
        r = correlation(scores, accuracy).r
        assert r == pytest.approx(stats.pearsonr(scores, accuracy).statistic, abs=1e-12)
        assert round(r or 0, 3) == expected


@pytest.mark.parametrize("n", [3, 8, 40, 301])
def test_coefficients_are_scipys(n: int) -> None:
    x, y = noisy(n)
    for kind, truth in (("pearson", stats.pearsonr), ("spearman", stats.spearmanr)):
        found = correlation(x, y, kind, draws=10)  # type: ignore[arg-type]
        assert found.r == pytest.approx(truth(x, y).statistic, abs=1e-12)
        assert found.n == n


def test_a_perfect_line_is_one() -> None:
    up = correlation([1.0, 2.0, 3.0, 4.0], [2.0, 4.0, 6.0, 8.0])
    assert up.r == pytest.approx(1)
    assert up.low is up.high is None  # every resample lies on the line, too
    assert "the same in every resample" in (up.why or "")
    assert correlation([1.0, 2.0, 3.0], [3.0, 2.0, 1.0]).r == pytest.approx(-1)


@pytest.mark.parametrize("kind", ["pearson", "spearman"])
def test_intervals_are_those_of_resampling_one_by_one(kind: Any) -> None:
    x, y = noisy()
    found = correlation(x, y, kind, draws=400, seed=5)
    drawn = numpy.random.default_rng(5).integers(len(x), size=(400, len(x)))
    truth = stats.pearsonr if kind == "pearson" else stats.spearmanr
    each = [truth(x[rows], y[rows]).statistic for rows in drawn]
    assert (found.low, found.high) == pytest.approx(numpy.quantile(each, [0.025, 0.975]))


def test_intervals_are_near_scipys_own_bootstrap() -> None:
    x, y = noisy(150)
    found = correlation(x, y)
    scipys = stats.bootstrap(
        (x, y),
        lambda a, b, axis: stats.pearsonr(a, b, axis=axis).statistic,
        paired=True,
        method="percentile",
        n_resamples=2000,
        rng=numpy.random.default_rng(0),
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((scipys.low, scipys.high), abs=0.02)


@pytest.mark.parametrize("kind", ["pearson", "spearman"])
def test_whole_groups_are_drawn(kind: Any) -> None:
    x, y = noisy()
    groups = [f"g{i % 7}" for i in range(len(x))]
    found = correlation(x, y, kind, groups=groups, draws=300, seed=1)
    of = {name: [i for i, group in enumerate(groups) if group == name] for name in groups}
    members = list(of.values())
    truth = stats.pearsonr if kind == "pearson" else stats.spearmanr
    each = []
    for drawn in numpy.random.default_rng(1).integers(7, size=(300, 7)):
        rows = [i for group in drawn for i in members[group]]
        each.append(truth(x[rows], y[rows]).statistic)
    assert (found.low, found.high) == pytest.approx(numpy.quantile(each, [0.025, 0.975]))


def test_points_of_one_group_give_no_interval() -> None:
    x, y = noisy()
    found = correlation(x, y, groups=["same"] * len(x))
    assert found.r is not None
    assert found.low is found.high is None
    assert "single group" in (found.why or "")


def test_constant_resamples_are_left_out_and_counted() -> None:
    x, y = [0.0, 0.0, 0.0, 1.0], [1.0, 2.0, 3.0, 4.0]
    found = correlation(x, y, draws=4000)
    # All four from the three zeros, or all four the one: (3/4)^4 + (1/4)^4 = 82/256; or y alone
    # is constant: that is within the former.
    assert found.left_out / 4000 == pytest.approx(82 / 256, abs=0.03)
    assert -1 <= (found.low or 0) <= (found.high or 0) <= 1


def test_blocks_of_draws_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = noisy()
    whole = correlation(x, y, "spearman", draws=500)
    monkeypatch.setattr(bootstrap, "_WEIGHTS_AT_ONCE", 40 * 16)
    assert correlation(x, y, "spearman", draws=500) == whole


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_scale_and_offset_change_nothing(scale: float) -> None:
    x, y = noisy()
    expected = stats.pearsonr(x, y).statistic
    assert correlation(x * scale, y, draws=10).r == pytest.approx(expected)
    assert correlation(x + 1e6, y, draws=10).r == pytest.approx(expected, abs=1e-8)


def test_ranks_survive_an_extreme_value() -> None:
    x = [1e-20, 2e-20, 3e-20, 1e5]
    assert correlation(x, [1, 2, 3, 4], "spearman", draws=10).r == pytest.approx(1)


@pytest.mark.parametrize(
    ("x", "y", "why"),
    [
        ([], [], "0 points"),
        ([1, 2], [1, 3], "2 points"),
        ([2, 2, 2], [1, 2, 3], "x constant"),
        ([1, 2, 3], [0, 0, 0], "y constant"),
        ([0.3, 0.1 + 0.2, 0.3], [1, 2, 3], "x constant"),
        ([1, 1, 1], [2, 2, 2], "x and y constant"),
    ],
)
def test_what_is_undefined_is_none_with_the_reason(x: Any, y: Any, why: str) -> None:
    found = correlation(x, y)
    assert found.r is found.low is found.high is None
    assert why in (found.why or "")


def test_the_reason_calls_columns_and_points_as_the_caller_does() -> None:
    names = ("score", "accuracy")
    both = correlation([1, 1, 1], [2, 2, 2], names=names)
    assert both.why == "score and accuracy constant, so r is undefined"
    few = correlation([1], [2], names=names, points="rows")
    assert few.why == "1 rows; a correlation takes 3 or more"


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_and_infinity_are_named(bad: float) -> None:
    with pytest.raises(StatisticsError, match=r"x\[1\] is"):
        correlation([1, bad, 3], [1, 2, 3])
    with pytest.raises(StatisticsError, match=r"y\[2\] is"):
        trimmed([1, 2, 3], [1, 2, bad])
    with pytest.raises(StatisticsError, match=r"hits\[0\] is"):
        rate_interval([bad], [1])


def test_lengths_must_agree() -> None:
    with pytest.raises(StatisticsError, match="3 and 2"):
        correlation([1, 2, 3], [1, 2])
    with pytest.raises(StatisticsError, match="groups has 1"):
        correlation([1, 2, 3], [1, 2, 3], groups=["a"])
    with pytest.raises(ValueError, match="kendall"):
        correlation([1, 2, 3], [1, 2, 3], "kendall")  # type: ignore[arg-type]


def test_trimming_keeps_what_lies_within_both_columns_percentiles() -> None:
    x = numpy.arange(101.0)  # its 1st and 99th percentile are 1 and 99, which stay
    y = numpy.zeros(101)
    assert trimmed(x, y).nonzero()[0].tolist() == list(range(1, 100))
    y[50] = 9.0
    assert trimmed(x, y).nonzero()[0].tolist() == [*range(1, 50), *range(51, 100)]
    assert trimmed(y, x, low=0.0, high=1.0).all()
    assert trimmed([], []).tolist() == []


def test_a_mean_and_its_interval() -> None:
    values = [1.0, 2.0, 3.0, 6.0]
    found = rate_interval(values, [1] * 4, draws=4000)
    drawn = numpy.random.default_rng(0).integers(4, size=(4000, 4))
    means = numpy.array(values)[drawn].mean(axis=1)
    assert found.value == 3.0
    assert (found.low, found.high) == pytest.approx(numpy.quantile(means, [0.025, 0.975]))
    assert rate_interval([5.0], [1]).low is None
    assert rate_interval([], []).value is None


def test_equal_groups_of_equal_points_count_as_one_point_each() -> None:
    alone = rate_interval([1.0, 2.0, 4.0], [1] * 3, draws=500)
    thrice = rate_interval([1.0, 2.0, 4.0] * 3, [1] * 9, groups=[0, 1, 2] * 3, draws=500)
    assert (alone.low, alone.high) == pytest.approx((thrice.low, thrice.high))


def test_a_rate_goes_without_what_is_no_chance() -> None:
    won, decided = [1, 0, 0, 0], [1, 1, 0, 0]
    found = rate_interval(won, decided, draws=4000)
    assert found.value == 0.5
    assert found.n == 2
    assert found.left_out / 4000 == pytest.approx(0.5**4, abs=0.02)
    nothing = rate_interval([0, 0], [0, 0])
    assert nothing.value is None
    assert nothing.why == "there is nothing to count"
    with pytest.raises(StatisticsError, match=r"chances\[1\]"):
        rate_interval([0, 0], [1, -1])


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, -1 / 3])
def test_an_interval_without_a_width_is_none_with_the_reason(value: float) -> None:
    found = rate_interval([value] * 30, [1] * 30)
    assert found.value == pytest.approx(value)
    assert found.low is found.high is None
    assert found.why == "the same in every resample, so the bootstrap gives no interval"
    whole = rate_interval([1, 2, 4], [1, 2, 4])
    assert (whole.value, whole.low, whole.n) == (1.0, None, 7)


def test_a_narrow_interval_is_still_one() -> None:
    found = rate_interval([1.0, 1.0 + 1e-9] * 20, [1] * 40)
    assert found.low is not None
    assert found.high is not None
    assert 0 < found.high - found.low < 1e-9


def test_a_rate_is_near_the_exact_binomial_interval() -> None:
    found = rate_interval([1] * 60 + [0] * 90, [1] * 150)
    exact = stats.binomtest(60, 150).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high), abs=0.01)
