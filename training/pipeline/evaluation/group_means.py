"""Compute means of groups of responses, with intervals over the dialogues they belong to.

A mean is kept as what each dialogue adds to it. So conditions, and the differences between them,
are paired: a hard dialogue is hard for all of them.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy

from sra_fast.tools.coefficients import Floats
from sra_fast.tools.estimates import Estimate
from sra_fast.tools.grouped import (
    Integers,
    difference_of_groups,
    mean_of_groups,
    ratio,
    share_of_groups,
)


@dataclass(frozen=True, eq=False)
class Means:
    """Means of C columns in G groups; a mean is NaN where a group has no value.

    Attributes:
        sums: ``[D, G, C]`` the sum of each dialogue's values.
        counts: ``[D, G, C]`` how many values each dialogue has.
        shares: the numbers of the columns that hold 0 and 1, whose means are shares.
    """

    sums: Floats
    counts: Floats
    shares: frozenset[int]

    @property
    def values(self) -> Floats:
        """The means, float64 ``[G, C]``."""
        return ratio(self.sums.sum(axis=0), self.counts.sum(axis=0))

    @property
    def responses(self) -> Integers:
        """How many responses have a value, int64 ``[G, C]``."""
        return numpy.asarray(self.counts.sum(axis=0), dtype=numpy.int64)

    @property
    def dialogues(self) -> Integers:
        """How many dialogues have a value, int64 ``[G, C]``."""
        return numpy.asarray((self.counts > 0).sum(axis=0), dtype=numpy.int64)

    def estimate(self, group: int, column: int) -> Estimate:
        """Return the mean of one group and column with its interval."""
        by_dialogue = self._by_dialogue(group, column)
        if not by_dialogue[:, 1].any():
            return Estimate(None, None, None, 0, "no response with a value")
        return (
            share_of_groups(by_dialogue) if column in self.shares else mean_of_groups(by_dialogue)
        )

    def difference(self, group: int, base: int, column: int) -> Estimate:
        """Return the mean of ``group`` minus that of ``base``, with its interval."""
        return difference_of_groups(
            self._by_dialogue(group, column),
            self._by_dialogue(base, column),
            share=column in self.shares,
        )

    def of_groups(self, groups: slice) -> Means:
        """Return the means of some of the groups."""
        return Means(self.sums[:, groups], self.counts[:, groups], self.shares)

    def _by_dialogue(self, group: int, column: int) -> Floats:
        return numpy.stack([self.sums[:, group, column], self.counts[:, group, column]], axis=1)


def group_means(
    columns: Floats,
    groups: Integers,
    number: int,
    dialogue: Integers,
    shares: Collection[int] = (),
) -> Means:
    """Compute the means of columns within groups of responses.

    Args:
        columns: ``[n, C]`` the values of each response, NaN where unknown.
        groups: ``[n]`` the number of its group, from 0 to number − 1.
        number: how many groups there are.
        dialogue: ``[n]`` the number of its dialogue, from 0.
        shares: the numbers of the columns that hold 0 and 1, whose means are shares.
    """
    known = ~numpy.isnan(columns)
    shape = (int(dialogue.max()) + 1, number, columns.shape[1])
    sums, counts = numpy.zeros(shape), numpy.zeros(shape)
    numpy.add.at(sums, (dialogue, groups), numpy.where(known, columns, 0.0))
    numpy.add.at(counts, (dialogue, groups), known)
    return Means(sums, counts, frozenset(shares))
