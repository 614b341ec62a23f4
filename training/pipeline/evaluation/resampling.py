"""Means of groups of responses under one bootstrap over dialogues.

Every figure of an evaluation comes from the same draws of whole dialogues, so that rows, and
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

_AT_ONCE = 2_000_000  # numbers of a block of draws; bounds the memory
_IN_CACHE = 100_000  # of weights, which are read several times


@dataclass(frozen=True, eq=False)
class Resampling:
    """Draws of whole dialogues, with replacement.

    Attributes:
        dialogue: ``[n]`` number of each response's dialogue.
        counts: ``[draws, dialogues]`` how often each was drawn.
    """

    dialogue: Integers
    counts: NDArray[numpy.uint16]

    def weights(self, chosen: Integers) -> Iterator[Floats]:
        """How often each of the ``chosen [c]`` responses was drawn, ``[block, c]``, in blocks."""
        at_once = max(1, _IN_CACHE // max(1, len(chosen)))
        columns = self.dialogue[chosen]
        for begin in range(0, len(self.counts), at_once):
            yield self.counts[begin : begin + at_once, columns].astype(numpy.float64)


def resampling(
    dialogues: Sequence[object], draws: int = REPORT_DRAWS, seed: int = REPORT_SEED
) -> Resampling:
    """Draws for responses of these dialogues ``[n]``, n ≥ 1; they depend on the seed alone."""
    dialogue, names = numbered(dialogues)
    blocks = [block.astype(numpy.uint16) for block in draw_groups(len(names), draws, seed)]
    return Resampling(dialogue, numpy.concatenate(blocks))


@dataclass(frozen=True, eq=False)
class Means:
    """Means of C columns in G groups; NaN where a group has no value.

    Attributes:
        values: ``[G, C]``.
        drawn: ``[draws, G, C]`` of the resamples.
        counts: ``[G, C]`` responses with a value.
        dialogues: ``[G, C]`` dialogues with a value.
    """

    values: Floats
    drawn: Floats
    counts: Integers
    dialogues: Integers

    def estimate(self, group: int, column: int) -> Estimate:
        """One mean with its interval."""
        return estimate(
            self.values[group, column],
            self.drawn[:, group, column],
            int(self.counts[group, column]),
            int(self.dialogues[group, column]),
        )

    def difference(self, group: int, base: int, column: int) -> Estimate:
        """The mean of ``group`` minus that of ``base``, over the same draws."""
        return estimate(
            self.values[group, column] - self.values[base, column],
            self.drawn[:, group, column] - self.drawn[:, base, column],
            int(self.counts[group, column]),
            int(min(self.dialogues[group, column], self.dialogues[base, column])),
        )


def group_means(columns: Floats, groups: Integers, number: int, draws: Resampling) -> Means:
    """Means of ``columns [n, C]``, NaN where unknown, in groups ``[n]`` from 0 to number − 1."""
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
    """A figure with the percentile interval of its resamples ``drawn``; NaN is undefined."""
    if numpy.isnan(value):
        return Estimate(None, None, None, n, "no response with a value" if not n else "undefined")
    if dialogues < 2:
        return Estimate(float(value), None, None, n, "a single dialogue, so there is no interval")
    low, high, left_out, why = interval_of_draws(drawn)
    return Estimate(float(value), low, high, n, why, left_out)
