"""Three digits of a number are kept in 16 bits, rounded once."""

from __future__ import annotations

import numpy
import pytest

from sra_fast.report.viewer.three_digits import three_digit_codes


def decoded(codes: numpy.ndarray) -> list[str]:
    """Return what codes stand for, by the formula, as Python writes three digits."""
    found = []
    for code in codes.ravel().tolist():
        m, e = (code - 1) % 900 + 100, (code - 1) // 900 - 45
        found.append(f"{m // 100}.{m % 100:02d}e{e:+03d}" if code else "0.00e+00")
    return found


@pytest.mark.parametrize("low", [-44, -20, -8, -3, 0])
def test_digits_are_those_that_python_writes(low: int) -> None:
    random = numpy.random.default_rng(0)
    values = (10 ** random.uniform(low, low + 5, size=20_000)).astype(numpy.float32)
    assert decoded(three_digit_codes(values)) == [f"{float(value):.2e}" for value in values]


@pytest.mark.parametrize(
    "value", [0.0, 1.0, 0.1, 0.001, 0.9994999, 0.9995001, 9.996e-5, 0.03125, 0.5, 9.99e-4, 1e-40]
)
def test_edges_are_those_that_python_writes(value: float) -> None:
    assert decoded(three_digit_codes(numpy.array([value]))) == [f"{value:.2e}"]


def test_order_is_kept() -> None:
    values = numpy.sort(numpy.random.default_rng(1).gamma(0.1, size=5000))
    codes = three_digit_codes(values).astype(int)
    assert (numpy.diff(codes) >= 0).all()


@pytest.mark.parametrize("value", [-1e-9, numpy.nan, numpy.inf, 1e11])
def test_other_numbers_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="numbers"):
        three_digit_codes(numpy.array([0.5, value]))
