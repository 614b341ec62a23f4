"""Compute means of groups of responses, with one bootstrap over dialogues for all of them.

Every figure of an evaluation comes from the same draws of whole dialogues. So conditions, and the
differences between them, are paired: a hard dialogue that is drawn twice is drawn twice for all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy
from numpy.typing import NDArray

from sra_fast.tools.bootstrap import (
    REPORT_DRAWS,
    REPORT_SEED,
    Estimate,
    Integers,
    draw_groups,
    interval_of_draws,
    numbered,
    ratio,
)
from sra_fast.tools.coefficients import Floats

_AT_ONCE = 2_000_000  # counts in one block of draws; bounds the memory
_IN_CACHE = 100_000  # weights in one block: few enough to stay in the cache, as they are read often


@dataclass(frozen=True, eq=False)
class Resampling:
    """Draws of whole dialogues, with replacement.

    Attributes:
        dialogue: ``[n]`` the number of each response's dialogue.
        counts: ``[draws, dialogues]`` how many times each draw has each dialogue.
    """

    dialogue: Integers
    counts: NDArray[numpy.uint16]

    def weights(self, chosen: Integers) -> Iterator[Floats]:
        """Yield how many times each draw has each of some responses, in blocks of draws.

        Args:
            chosen: ``[c]`` the indices of the responses.

        Yields:
            float64 ``[block, c]``; the blocks together hold all draws, in order.
        """
        at_once = max(1, _IN_CACHE // max(1, len(chosen)))
        columns = self.dialogue[chosen]
        for begin in range(0, len(self.counts), at_once):
            yield self.counts[begin : begin + at_once, columns].astype(numpy.float64)


def resampling(
    dialogues: Sequence[object], draws: int = REPORT_DRAWS, seed: int = REPORT_SEED
) -> Resampling:
    """Draw dialogues for a bootstrap of their responses.

    Args:
        dialogues: ``[n]`` the dialogue of each response, hashable; n ≥ 1.
        draws: how many times to draw.
        seed: the seed of the draws, which depend on it and on the number of dialogues alone.
    """
    dialogue, names = numbered(dialogues)
    blocks = [block.astype(numpy.uint16) for block in draw_groups(len(names), draws, seed)]
    return Resampling(dialogue, numpy.concatenate(blocks))


@dataclass(frozen=True, eq=False)
class Means:
    """Means of C columns in G groups; a mean is NaN where a group has no value.

    Attributes:
        values: ``[G, C]`` the means.
        drawn: ``[draws, G, C]`` the means of each draw of the bootstrap.
        counts: ``[G, C]`` how many responses have a value.
        dialogues: ``[G, C]`` how many dialogues have a value.
    """

    values: Floats
    drawn: Floats
    counts: Integers
    dialogues: Integers

    def estimate(self, group: int, column: int) -> Estimate:
        """Return the mean of one group and column with its interval."""
        return estimate(
            self.values[group, column],
            self.drawn[:, group, column],
            int(self.counts[group, column]),
            int(self.dialogues[group, column]),
        )

    def difference(self, group: int, base: int, column: int) -> Estimate:
        """Return the mean of ``group`` minus that of ``base``, with its interval."""
        return estimate(
            self.values[group, column] - self.values[base, column],
            self.drawn[:, group, column] - self.drawn[:, base, column],
            int(self.counts[group, column]),
            int(min(self.dialogues[group, column], self.dialogues[base, column])),
        )


def group_means(columns: Floats, groups: Integers, number: int, draws: Resampling) -> Means:
    """Compute the means of columns within groups of responses, for all responses and each draw.

    Args:
        columns: ``[n, C]`` the values of each response, NaN where unknown.
        groups: ``[n]`` the number of its group, from 0 to number − 1.
        number: how many groups there are.
        draws: draws of the dialogues of the n responses.
    """
    known = ~numpy.isnan(columns)
    dialogues, width = draws.counts.shape[1], columns.shape[1]
    sums = numpy.zeros((dialogues, number, width))
    counts = numpy.zeros((dialogues, number, width))
    numpy.add.at(sums, (draws.dialogue, groups), numpy.where(known, columns, 0.0))
    numpy.add.at(counts, (draws.dialogue, groups), known)
    both = numpy.concatenate([sums, counts], axis=2).reshape(dialogues, -1)
    blocks = [
        block.astype(numpy.float64) @ both
        for block in numpy.array_split(draws.counts, 1 + draws.counts.size // _AT_ONCE)
    ]
    drawn = numpy.concatenate(blocks).reshape(-1, number, 2 * width)
    return Means(
        values=ratio(sums.sum(axis=0), counts.sum(axis=0)),
        drawn=ratio(drawn[..., :width], drawn[..., width:]),
        counts=counts.sum(axis=0).astype(numpy.int64),
        dialogues=(counts > 0).sum(axis=0),
    )


def estimate(value: float, drawn: Floats, n: int, dialogues: int) -> Estimate:
    """Join a figure with the percentile interval of its resamples.

    Args:
        value: the figure; NaN where it is undefined.
        drawn: ``[draws]`` the figure of each draw.
        n: how many responses it is of.
        dialogues: how many dialogues these belong to; with fewer than 2 there is no interval.
    """
    if numpy.isnan(value):
        return Estimate(None, None, None, n, "no response with a value" if not n else "undefined")
    if dialogues < 2:
        return Estimate(float(value), None, None, n, "a single dialogue, so there is no interval")
    low, high, left_out, why = interval_of_draws(drawn)
    return Estimate(float(value), low, high, n, why, left_out)
