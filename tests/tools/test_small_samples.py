"""Test the quantiles and limits that small samples need against SciPy."""

from __future__ import annotations

import math

import numpy
import pytest
from scipy import stats

from sra_fast.tools.small_samples import pulls, standard_error, student_quantile, without_each


@pytest.mark.parametrize("freedom", [1, 2, 3, 7, 11, 29, 100, 101, 999])
def test_quantiles_of_student_leave_five_percent_beyond(freedom: int) -> None:
    # Older versions of SciPy invert the distribution to nine digits only, so it is asked itself.
    beyond = 2 * stats.t.sf(student_quantile(freedom), freedom)
    assert beyond == pytest.approx(0.05, abs=1e-13)


def test_quantiles_of_one_and_two_degrees_of_freedom_have_closed_forms() -> None:
    assert student_quantile(1) == pytest.approx(math.tan(0.475 * math.pi), rel=1e-13)
    assert student_quantile(2) == pytest.approx(0.95 * math.sqrt(2 / (1 - 0.95**2)), rel=1e-13)


def test_the_jackknife_of_a_mean_is_the_standard_error() -> None:
    values = numpy.random.default_rng(1).normal(size=11)
    sums = numpy.stack([values, numpy.ones(11)], axis=1)
    rest = without_each(sums)
    pulled = pulls(rest[:, 0] / rest[:, 1])
    assert pulled == pytest.approx(values - values.mean())
    assert standard_error(pulled) == pytest.approx(stats.sem(values))
