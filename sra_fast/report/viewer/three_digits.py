"""Write numbers from 0 to 10 billion as 16 bits that keep three significant decimal digits.

Float16 keeps eleven bits: the third digit that it shows may be wrong by one, and below 6e-5 more
is lost. Here the digits themselves are kept:

    x = m · 10^(e − 2),  m = 100 … 999,  e = −45 … 9        code = 1 + (e + 45) · 900 + (m − 100)

and code 0 is the number 0. So what a page shows is the number, rounded once, to the last digit.
"""

from __future__ import annotations

from typing import Any

import numpy
from numpy.typing import NDArray

LOWEST_EXPONENT = -45  # of the smallest float32 above 0
HIGHEST_EXPONENT = 9
_PER_EXPONENT = 900


def three_digit_codes(values: NDArray[Any]) -> NDArray[numpy.uint16]:
    """Return the codes of numbers, uint16 of the same shape; less than 1e-45 becomes 0.

    Raises:
        ValueError: a number is negative, not finite, or too large.
    """
    x = numpy.asarray(values, dtype=numpy.float64)
    if not numpy.isfinite(x).all() or (x < 0).any():
        raise ValueError("three digits can be kept of finite numbers from 0 on only")
    smallest = 10.0**LOWEST_EXPONENT
    kept = numpy.where(x < smallest, 1.0, x)
    exponent = numpy.floor(numpy.log10(kept)).astype(numpy.int64)
    m = _mantissa(kept, exponent)
    exponent += numpy.where(m < 100, -1, numpy.where(m >= 1000, 1, 0))  # log10 is rounded, too
    m = numpy.clip(_mantissa(kept, exponent), 100, 999)
    if exponent.size and exponent.max() > HIGHEST_EXPONENT:
        raise ValueError(f"numbers must be below 1e{HIGHEST_EXPONENT + 1}, found {x.max():.4g}")
    codes = 1 + (exponent - LOWEST_EXPONENT) * _PER_EXPONENT + (m - 100)
    return numpy.where(x < smallest, 0, codes).astype(numpy.uint16)


def _mantissa(x: NDArray[numpy.float64], exponent: NDArray[numpy.int64]) -> NDArray[numpy.int64]:
    """Return the three digits; powers of ten up to 22 are exact, so that ties stay ties."""
    power = 2 - exponent
    scaled = numpy.where(
        power >= 0, x * 10.0 ** numpy.maximum(power, 0), x / 10.0 ** numpy.maximum(-power, 0)
    )
    return numpy.rint(scaled).astype(numpy.int64)
