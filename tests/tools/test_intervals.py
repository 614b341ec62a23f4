"""Test correlations, means and shares against SciPy and the published table."""

from __future__ import annotations

import math
from typing import Any

import numpy
import pytest
from scipy import stats

from sra_fast.tools import grouped
from sra_fast.tools.estimates import FEWEST, METHODS, StatisticsError, interval_settings
from sra_fast.tools.grouped import difference_of_groups
from sra_fast.tools.intervals import (
    correlation,
    interval_of_sums,
    jackknife_limits,
    mean_interval,
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
        found = correlation(x, y, kind)  # type: ignore[arg-type]
        assert found.r == pytest.approx(truth(x, y).statistic, abs=1e-12)
        assert found.n == n


def test_a_perfect_line_is_one_and_has_no_interval() -> None:
    x = numpy.arange(9.0)
    up = correlation(x, 2 * x + 1)
    assert up.r == pytest.approx(1)
    assert up.low is up.high is None  # without any point the others lie on the line, too
    assert up.why == "the same without any of the points, which do not say how far off it is"
    assert correlation([1.0, 2.0, 3.0], [3.0, 2.0, 1.0]).r == pytest.approx(-1)


@pytest.mark.parametrize("kind", ["pearson", "spearman"])
@pytest.mark.parametrize("grouped_by", [40, 9], ids=["alone", "in groups"])
def test_intervals_are_those_of_leaving_out_groups_one_by_one(kind: Any, grouped_by: int) -> None:
    x, y = noisy()
    groups = [f"g{i % grouped_by}" for i in range(len(x))]
    found = correlation(x, y, kind, groups=groups)
    truth = stats.pearsonr if kind == "pearson" else stats.spearmanr
    z = [
        math.atanh(truth(x[kept], y[kept]).statistic)
        for name in dict.fromkeys(groups)
        for kept in [[i for i, group in enumerate(groups) if group != name]]
    ]
    assert len(z) == grouped_by
    error = math.sqrt((grouped_by - 1) * numpy.var(z))
    reach = stats.t.ppf(0.975, grouped_by - 1) * error
    centre = math.atanh(truth(x, y).statistic)
    assert (found.low, found.high) == pytest.approx(
        (math.tanh(centre - reach), math.tanh(centre + reach))
    )


def test_many_points_give_the_textbook_interval_of_r() -> None:
    generator = numpy.random.default_rng(4)
    x, e = generator.normal(size=(2, 1500))
    found = correlation(x, x + e)
    truth = stats.pearsonr(x, x + e).confidence_interval()
    assert (found.low, found.high) == pytest.approx((truth.low, truth.high), abs=0.01)


@pytest.mark.parametrize("number", [1, 2, 7])
def test_too_few_groups_give_no_interval_and_the_reason(number: int) -> None:
    x, y = noisy()
    groups = [i % number for i in range(len(x))]
    mean = mean_interval(x, groups)
    r = correlation(x, y, groups=groups)
    assert r.r is not None
    assert mean.value == pytest.approx(x.mean())
    for one in (r, mean):
        assert one.low is one.high is None
        assert one.why == (
            "a single dialogue, so there is no interval"
            if number == 1
            else "fewer than 8 dialogues, too few for an interval that holds"
        )
    by_item = mean_interval(x, groups, over="items")
    assert ("a single item" if number == 1 else "fewer than 8 items") in (by_item.why or "")
    share = rate_interval(x > 0, numpy.ones(len(x)), groups)
    assert (share.low is None) == (number == 1)


def test_what_is_undefined_without_a_point_has_no_interval() -> None:
    x = [0.0] * 8 + [1.0]
    found = correlation(x, numpy.arange(9.0))
    assert found.r is not None
    assert found.low is None
    assert "undefined without some" in (found.why or "")


def test_blocks_of_groups_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = noisy()
    whole = correlation(x, y, "spearman")
    monkeypatch.setattr(grouped, "_WEIGHTS_AT_ONCE", 40 * 3)
    assert correlation(x, y, "spearman") == whole


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_scale_and_offset_change_nothing(scale: float) -> None:
    x, y = noisy()
    expected = stats.pearsonr(x, y).statistic
    assert correlation(x * scale, y).r == pytest.approx(expected)
    assert correlation(x + 1e6, y).r == pytest.approx(expected, abs=1e-8)


def test_ranks_survive_an_extreme_value() -> None:
    x = [1e-20, 2e-20, 3e-20, 1e5]
    assert correlation(x, [1, 2, 3, 4], "spearman").r == pytest.approx(1)


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
    with pytest.raises(StatisticsError, match=r"values\[1\] is"):
        mean_interval([1, bad])


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


def test_a_mean_of_even_values_has_students_interval() -> None:
    values = numpy.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0])  # no skewness
    found = mean_interval(values)
    reach = stats.t.ppf(0.975, 8) * stats.sem(values)
    assert (found.value, found.n) == (5.0, 9)
    assert (found.low, found.high) == pytest.approx((5 - reach, 5 + reach))
    assert mean_interval([]).why == "there is nothing to count"


def test_the_interval_of_a_skewed_mean_reaches_further_to_the_long_side() -> None:
    values = numpy.array([1.0, 1.0, 2.0, 2.0, 2.0, 3.0, 3.0, 4.0, 20.0])
    found = mean_interval(values)
    centre, error, n = values.mean(), stats.sem(values), len(values)
    skewness = stats.skew(values)
    for end, t in ((found.low, stats.t.ppf(0.975, 8)), (found.high, stats.t.ppf(0.025, 8))):
        assert end is not None
        # Hall's transformation of (mean - true mean) / error has the distribution of t.
        x, a = (centre - end) / error, skewness / math.sqrt(n)
        assert x + a * x**2 / 3 + a**2 * x**3 / 27 + a / 6 == pytest.approx(t)
    assert (found.high or 0) - centre > 2 * (centre - (found.low or 0))


def test_equal_groups_of_equal_points_count_as_one_point_each() -> None:
    values = [1.0, 2.0, 4.0, 4.0, 5.0, 7.0, 9.0, 11.0]
    alone = mean_interval(values)
    thrice = mean_interval(values * 3, groups=[*range(8)] * 3)
    assert (alone.low, alone.high) == pytest.approx((thrice.low, thrice.high))
    hits = [1.0, 0.0] * 8
    few = rate_interval(hits, [1] * 16, groups=[*range(16)])
    many = rate_interval(hits * 9, [1] * 144, groups=[*range(16)] * 9)
    assert few.low is not None
    assert (many.low or 0) < few.low  # Student's t in the place of the normal quantile


def test_a_rate_goes_without_what_is_no_chance() -> None:
    found = rate_interval([1, 0, 0, 0], [1, 1, 0, 0])
    assert (found.value, found.n) == (0.5, 2)
    truth = stats.binomtest(1, 2).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((truth.low, truth.high))
    nothing = rate_interval([0, 0], [0, 0])
    assert nothing.value is None
    assert nothing.why == "there is nothing to count"


@pytest.mark.parametrize(
    ("hits", "chances", "says"),
    [
        ([0, 0], [1, -1], r"chances\[1\] is negative"),
        ([0.5, 3], [1, 2], r"hits\[1\] is 3.0 of 2.0 chances.*mean_interval"),
        ([0, -1], [1, 1], r"hits\[1\] is -1.0 of 1.0 chances"),
        ([0, 1], [1, math.inf], r"chances\[1\] is inf"),
    ],
)
def test_what_is_no_share_is_refused_by_its_place(hits: Any, chances: Any, says: str) -> None:
    with pytest.raises(StatisticsError, match=says):
        rate_interval(hits, chances)


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, -1 / 3])
def test_a_mean_that_all_groups_agree_on_has_no_interval(value: float) -> None:
    found = mean_interval([value] * 30)
    assert found.value == pytest.approx(value)
    assert found.low is found.high is None
    assert "the same without any of the points" in (found.why or "")


def test_a_narrow_interval_is_still_one() -> None:
    found = mean_interval([1.0, 1.0 + 1e-9] * 20)
    assert found.low is not None
    assert found.high is not None
    assert 0 < found.high - found.low < 1e-9


@pytest.mark.parametrize(("hits", "n"), [(0, 5), (7, 10), (90, 90), (41, 300), (60, 150)])
def test_a_share_of_independent_points_has_wilsons_interval(hits: int, n: int) -> None:
    found = rate_interval([1] * hits + [0] * (n - hits), [1] * n)
    exact = stats.binomtest(hits, n).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high), abs=1e-12)


def test_copies_within_a_dialogue_add_no_certainty_to_a_share() -> None:
    once = [1.0, 0.0] * 25
    found = rate_interval(once * 10, [1] * 500, groups=[*range(50)] * 10)
    t = stats.t.ppf(0.975, 49)
    assert ((found.high or 0) - (found.low or 1)) / 2 == pytest.approx(
        t * math.sqrt(0.25 / 49 + t**2 / (4 * 49**2)) / (1 + t**2 / 49)
    )
    sure = rate_interval(numpy.ones(500), [1] * 500, groups=[*range(50)] * 10)
    assert (sure.low, sure.high) == (pytest.approx(50 / (50 + t**2)), 1.0)


def by_dialogue(*values: float) -> Any:
    return numpy.stack([values, numpy.full(len(values), 4.0)], axis=1)


def test_a_difference_is_paired_by_dialogue() -> None:
    base = numpy.array([1.0, 5.0, 9.0, 2.0, 7.0, 4.0, 8.0, 3.0])
    gain = numpy.array([0.9, 1.1, 1.0, 1.0, 0.8, 1.2, 1.1, 0.9])
    found = difference_of_groups(by_dialogue(*base + gain), by_dialogue(*base), share=False)
    alone = mean_interval(gain / 4)
    assert (found.value, found.low, found.high) == pytest.approx(
        (alone.value, alone.low, alone.high)
    )
    same = difference_of_groups(by_dialogue(*base), by_dialogue(*base), share=True)
    assert (same.value, same.low) == (0.0, None)


def test_a_difference_of_shares_stays_within_what_shares_can_differ_by() -> None:
    found = difference_of_groups(by_dialogue(*[4.0] * 8), by_dialogue(*[0.0] * 8), share=True)
    assert (found.value, found.high) == (1.0, 1.0)
    one = rate_interval([4.0] * 8, [4.0] * 8, groups=range(8)).low
    assert one is not None
    assert 0.2 < (found.low or 0) < one
    few = difference_of_groups(by_dialogue(1.0, 2.0), by_dialogue(0.0, 1.0), share=True)
    assert (few.value, few.low) == (0.25, None)


def test_the_interval_of_a_ratio_is_that_of_its_logarithm() -> None:
    generator = numpy.random.default_rng(2)
    columns = generator.gamma(3.0, size=(12, 2))

    def quotient(sums: Any) -> Any:
        return sums[:, 0] / sums[:, 1]

    one = interval_of_sums(columns, quotient, scale="log")
    other = interval_of_sums(columns[:, ::-1], quotient, scale="log")
    assert one[0] is not None
    assert other[0] is not None
    assert (one[0], one[1]) == pytest.approx((1 / (other[1] or 0), 1 / other[0]))


def test_a_figure_at_the_end_of_its_scale_has_no_interval() -> None:
    low, high, why = jackknife_limits(1.0, numpy.array([1.0] * 8 + [0.9]), "logit")
    assert low is high is None
    assert why == "at the end of what is possible, so there is no interval"


def test_files_say_how_intervals_are_computed_and_from_how_many() -> None:
    found = interval_settings("share", "correlation", over="items")
    assert list(found["methods"]) == ["share", "correlation"]
    assert all("items" in one and "dialogues" not in one for one in found["methods"].values())
    assert (found["level"], found["fewest"], found["over"]) == (0.95, FEWEST, "items")
    assert set(interval_settings(*METHODS)["methods"]) == set(METHODS)
