"""Compute means, shares and their differences from the sums of each dialogue, with intervals.

A group, a dialogue as a rule, is one observation: what it holds resembles itself. How the limits
are computed stands in :mod:`~.small_samples`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy
from numpy.typing import NDArray

from sra_fast.tools.coefficients import Floats
from sra_fast.tools.estimates import FEWEST_OF_SHARE, Estimate, same_everywhere, too_few
from sra_fast.tools.small_samples import (
    flat,
    limits_of_share_difference,
    mean_limits,
    pulls,
    share_limits,
    without_each,
)

Integers = NDArray[numpy.int64]

_WEIGHTS_AT_ONCE = 1_000_000  # bounds the memory of what leaves out each group in turn


def mean_of_groups(by_group: Floats, over: str = "dialogues") -> Estimate:
    """Compute a mean with its 95% interval from the sum and the number of values of each group.

    Args:
        by_group: ``[G, 2]`` the sum of each group's values, and how many it has, from 0.
        over: what the reason for a missing interval calls the groups, in the plural.
    """
    known = by_group[by_group[:, 1] > 0]
    if not len(known):
        return Estimate(None, None, None, 0, "there is nothing to count")
    value, n = _ratio_of_sums(known), round(float(known[:, 1].sum()))
    why = too_few(len(known), over)
    if why:
        return Estimate(value, None, None, n, why)
    pulled = _pulls_on_ratio(known)
    if flat(pulled, value):
        return Estimate(value, None, None, n, same_everywhere(over))
    return Estimate(value, *mean_limits(value, pulled), n)


def share_of_groups(
    by_group: Floats, *, clustered: bool = True, over: str = "dialogues"
) -> Estimate:
    """Compute a share with its 95% interval from the hits and the chances of each group.

    Args:
        by_group: ``[G, 2]`` the hits of each group, and its chances, from 0.
        clustered: whether some group may hold more than one point.
        over: what the reason for a missing interval calls the groups, in the plural.
    """
    known = by_group[by_group[:, 1] > 0]
    if not len(known):
        return Estimate(None, None, None, 0, "there is nothing to count")
    value, chances = _ratio_of_sums(known), float(known[:, 1].sum())
    why = too_few(len(known), over, FEWEST_OF_SHARE)
    if why:
        return Estimate(value, None, None, round(chances), why)
    limits = share_limits(value, chances, _pulls_on_ratio(known), clustered=clustered)
    return Estimate(value, *limits, round(chances))


def difference_of_groups(
    one: Floats, other: Floats, *, share: bool, over: str = "dialogues"
) -> Estimate:
    """Compute the difference of two means or shares of the same groups, with its 95% interval.

    Args:
        one, other: ``[G, 2]`` the sum of each group's values, and how many it has, from 0: of the
            figure, and of the one that is subtracted. Row g of both is the same group.
        share: whether the figures are shares.
        over: what the reason for a missing interval calls the groups, in the plural.
    """
    counts = one[:, 1] + other[:, 1] > 0
    one, other = one[counts], other[counts]
    n = round(float(one[:, 1].sum()))
    if not n or not other[:, 1].sum():
        return Estimate(None, None, None, n, "no response with a value" if not n else "undefined")
    values = _ratio_of_sums(one), _ratio_of_sums(other)
    difference = values[0] - values[1]
    why = too_few(int(min((one[:, 1] > 0).sum(), (other[:, 1] > 0).sum())), over)
    if why:
        return Estimate(difference, None, None, n, why)
    pulled = _pulls_on_ratio(one), _pulls_on_ratio(other)
    apart = pulled[0] - pulled[1]
    alike = (
        numpy.array_equal(one, other) and pulled[0].any()
        if share
        else flat(apart, max(map(abs, values)))
    )
    if alike:
        return Estimate(difference, None, None, n, same_everywhere(over))
    if not share:
        return Estimate(difference, *mean_limits(difference, apart), n)
    one_limits, other_limits = (
        share_limits(value, float(part[:, 1].sum()), pull)
        for value, part, pull in zip(values, (one, other), pulled, strict=True)
    )
    limits = limits_of_share_difference(values, (one_limits, other_limits), pulled)
    return Estimate(difference, *limits, n)


def ratio(sums: Floats, counts: Floats) -> Floats:
    """Return sums over counts, element by element; NaN where the count is 0."""
    empty = counts == 0
    return numpy.where(empty, numpy.nan, sums / numpy.where(empty, 1.0, counts))


def numbered(values: Sequence[object]) -> tuple[Integers, list[Any]]:
    """Return each value's number ``[n]``, and the distinct values in the order they appear in."""
    numbers: dict[object, int] = {}
    index = [numbers.setdefault(value, len(numbers)) for value in values]
    return numpy.array(index, dtype=numpy.int64), list(numbers)


def leave_out_weights(index: Integers, number: int) -> Iterator[Floats]:
    """Yield 0 for the points of a group and 1 for all others, ``[block, n]``, group after group.

    Args:
        index: ``[n]`` the number of each point's group, from 0.
        number: the number of groups.
    """
    at_once = max(1, _WEIGHTS_AT_ONCE // max(1, len(index)))
    for begin in range(0, number, at_once):
        groups = numpy.arange(begin, min(begin + at_once, number))
        yield (index != groups[:, None]).astype(numpy.float64)


def _ratio_of_sums(by_group: Floats) -> float:
    total = by_group.sum(axis=0)
    return float(total[0] / total[1])


def _pulls_on_ratio(by_group: Floats) -> Floats:
    rest = without_each(by_group)
    return pulls(ratio(rest[:, 0], rest[:, 1]))
