"""Hold a figure with its 95% interval, and how the intervals are computed.

A figure or an interval that is undefined is None, with the reason beside it; it is never a number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sra_fast.tools.small_samples import LEVEL

FEWEST = 8
"""The fewest dialogues for an interval of anything but a share, simulated to hold from there on."""
FEWEST_OF_SHARE = 2
"""The fewest dialogues for an interval of a share."""

REPORT_SEED = 20240210
"""Seed of everything that a report draws at random."""

METHODS: dict[str, str] = {
    "mean": "Student's t over dialogues (jackknife), corrected for skewness",
    "share": "Wilson with the design effect of dialogues and Student's t",
    "difference": "of means as a mean, paired over dialogues; of shares from both Wilson intervals",
    "correlation": "Student's t over dialogues (jackknife) on Fisher's z",
    "over_conditions": "r of the means without their noise, by Fieller's method over dialogues",
    "other": "Student's t over dialogues (jackknife), on the scale of the logarithm or the logit",
}
"""How the interval of each kind of figure is computed, as files of results say it."""


class StatisticsError(ValueError):
    """Raised when numbers do not allow a statistic; the message names the index."""


@dataclass(frozen=True)
class Correlation:
    """A correlation coefficient of n points, with its 95% interval.

    It is an :class:`Estimate` in all but the name of its figure: files of results are written from
    these fields, and there a coefficient is ``r`` and any other figure ``value``.

    Attributes:
        r: the coefficient, in [-1, 1]; None where it is undefined.
        low, high: ends of its 95% interval, or None.
        n: number of points.
        why: the reason why ``r`` or its interval is None.
    """

    r: float | None
    low: float | None
    high: float | None
    n: int
    why: str | None = None


@dataclass(frozen=True)
class Estimate:
    """A mean, a rate or another figure, with its 95% interval.

    A correlation coefficient is a :class:`Correlation`, whose figure is called ``r`` in files.

    Attributes:
        value: the figure; None where it is undefined.
        low, high: ends of its 95% interval, or None.
        n: number of points that the figure is computed from.
        why: the reason why ``value`` or its interval is None.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    why: str | None = None


def interval_settings(*kinds: str, over: str = "dialogues") -> dict[str, Any]:
    """Return how the intervals of those kinds of figures are computed, as values of JSON.

    Args:
        kinds: keys of :data:`METHODS`.
        over: what the groups are, in the plural.
    """
    return {
        "level": LEVEL,
        "methods": {kind: METHODS[kind].replace("dialogues", over) for kind in kinds},
        "over": over,
        "fewest": FEWEST,
        "fewest_of_share": FEWEST_OF_SHARE,
    }


def too_few(number: int, over: str = "dialogues", fewest: int = FEWEST) -> str | None:
    """Return the reason why so many groups give no interval, or None if they do.

    Args:
        number: how many groups there are.
        over: what the groups are, in the plural.
        fewest: how many it takes.
    """
    if number >= fewest:
        return None
    if number < 2:
        return f"a single {over.removesuffix('s')}, so there is no interval"
    return f"fewer than {fewest} {over}, too few for an interval that holds"


def same_everywhere(over: str) -> str:
    """Return the reason why figures that all groups agree on have no interval."""
    return f"the same without any of the {over}, which do not say how far off it is"
