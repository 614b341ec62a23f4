"""Test the quantiles and limits that small samples need against SciPy."""

from __future__ import annotations

import numpy
import pytest
from scipy import stats

from sra_fast.tools.small_samples import pulls, standard_error, student_quantile, without_each


@pytest.mark.parametrize("freedom", [1, 2, 3, 7, 11, 29, 100, 101, 999])
def test_quantiles_of_student_are_scipys(freedom: int) -> None:
    assert student_quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-12)


def test_the_jackknife_of_a_mean_is_the_standard_error() -> None:
    values = numpy.random.default_rng(1).normal(size=11)
    sums = numpy.stack([values, numpy.ones(11)], axis=1)
    rest = without_each(sums)
    pulled = pulls(rest[:, 0] / rest[:, 1])
    assert pulled == pytest.approx(values - values.mean())
    assert standard_error(pulled) == pytest.approx(stats.sem(values))
