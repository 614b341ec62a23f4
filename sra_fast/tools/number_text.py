"""Read numbers from text as people and spreadsheets write them, and nothing else.

Python's own ``int`` and ``float`` also take ``1_0``, digits of other scripts, ``nan`` and ``inf``.
In a cell of a table or an option such a text is a slip, and its value would be a guess.
"""

from __future__ import annotations

import math
import re

_WHOLE = re.compile(r"[+-]?[0-9]+")
_DECIMAL = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_MOST_DIGITS = 4_000  # Python refuses to read more


def whole_number(text: str) -> int | None:
    """Return the whole number that a text says, with white space around it; None if it says none.

    Args:
        text: a text such as ``"12"``, ``"-3"`` or ``"+4"``.
    """
    plain = text.strip()
    if len(plain) > _MOST_DIGITS or not _WHOLE.fullmatch(plain):
        return None
    return int(plain)


def finite_number(text: str) -> float | None:
    """Return the finite number that a text says, with white space around it; None if it says none.

    Args:
        text: a text such as ``"1.5"``, ``".5"``, ``"-2"`` or ``"1e-4"``.
    """
    plain = text.strip()
    if not _DECIMAL.fullmatch(plain):
        return None
    number = float(plain)
    return number if math.isfinite(number) else None
