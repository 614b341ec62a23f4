"""Compute how much more probable replies are under their own strategy, with intervals.

With L[r, k] = log p(reply r | prompt with strategy k), of K strategies, and o the strategy that
reply r is annotated with:

    advantage[r] = L[r, o] − mean over k ≠ o of L[r, k]
    first[r]     = 1 if o is the k with the highest L[r, k], else 0

Some strategies' prompts make every reply more probable. So each strategy's own mean is removed
before, unless asked otherwise:

    L[r, k] ← (L[r, k] − mean over k of L[r, k]) − mean over r of the same

The baseline is what both are if labels are shuffled among the replies of a dialogue: its
expectation over all permutations, so nothing is drawn at random.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy
from numpy.typing import NDArray

from sra_fast.tools.estimates import Estimate
from sra_fast.tools.intervals import mean_interval, rate_interval

Matrix = NDArray[numpy.float64]


@dataclass(frozen=True)
class StudyRecord:
    """A line of a study: the replies of one dialogue in one setting.

    Attributes:
        dialogue: the dialogue's id.
        group: the id of the dialogue that it repeats, or its own.
        setting: the name of the setting.
        part, span, bias, share, knock_out: what the setting is.
        turns: the turns of the R replies.
        own: the number of each reply's own strategy, from 0.
        tokens: the number of each reply's tokens.
        log_p: ``[K][R]`` the log probability of each reply under each strategy's prompt.
    """

    dialogue: str
    group: str
    setting: str
    part: str | None
    span: str
    bias: float | None
    share: float | None
    knock_out: bool
    turns: list[int]
    own: list[int]
    tokens: list[int]
    log_p: list[list[float]]

    def __post_init__(self) -> None:
        """Refuse numbers that do not fit together.

        Raises:
            ValueError: they do not.
        """
        replies = len(self.turns)
        numbers = [*self.turns, *self.own, *self.tokens]
        counts = {len(self.own), len(self.tokens), *map(len, self.log_p)}
        if (
            replies == 0
            or counts != {replies}
            or any(type(one) is not int for one in numbers)
            or min(self.tokens) < 1
            or not all(0 <= one < len(self.log_p) for one in self.own)
            or not all(math.isfinite(one) for row in self.log_p for one in row)
        ):
            raise ValueError("the numbers of the replies do not fit together")


@dataclass(frozen=True, eq=False)
class SettingReplies:
    """The replies of all dialogues in one setting, as arrays.

    Attributes:
        keys: the dialogue and the turn of each of the n replies.
        groups: ``[n]`` what counts as independent.
        own: ``[n]`` the number of each reply's own strategy.
        tokens: ``[n]`` the number of its tokens.
        log_p: ``[n, K]`` its log probability under each strategy's prompt.
    """

    keys: list[tuple[str, int]]
    groups: list[str]
    own: NDArray[numpy.int64]
    tokens: NDArray[numpy.int64]
    log_p: Matrix


def joined(records: Sequence[StudyRecord]) -> SettingReplies:
    """Join the records of one setting, in their order."""
    return SettingReplies(
        [(one.dialogue, turn) for one in records for turn in one.turns],
        [one.group for one in records for _ in one.turns],
        numpy.array([own for one in records for own in one.own], dtype=numpy.int64),
        numpy.array([count for one in records for count in one.tokens], dtype=numpy.int64),
        numpy.concatenate([numpy.array(one.log_p, dtype=numpy.float64).T for one in records]),
    )


def without_means(log_p: Matrix) -> Matrix:
    """Remove each strategy's own mean from log probabilities ``[n, K]``."""
    relative = log_p - log_p.mean(axis=1, keepdims=True)
    return numpy.asarray(relative - relative.mean(axis=0))


def advantages(log_p: Matrix) -> Matrix:
    """Compute what the advantage of each reply would be if each strategy were its own, ``[n, K]``.

    Args:
        log_p: ``[n, K]`` log probabilities.
    """
    strategies = log_p.shape[1]
    others = (log_p.sum(axis=1, keepdims=True) - log_p) / (strategies - 1)
    return numpy.asarray(log_p - others)


def firsts(log_p: Matrix) -> Matrix:
    """Tell which strategy ranks first for each reply, ``[n, K]``; strategies that tie share it."""
    best = log_p == log_p.max(axis=1, keepdims=True)
    return numpy.asarray(best / best.sum(axis=1, keepdims=True))


def of_own(values: Matrix, own: NDArray[numpy.int64]) -> Matrix:
    """Return each reply's value for its own strategy, ``[n]`` of ``[n, K]``."""
    return numpy.asarray(values[numpy.arange(len(own)), own])


def of_shuffled(values: Matrix, own: NDArray[numpy.int64], dialogues: Sequence[object]) -> Matrix:
    """Return the expected value of each reply if labels were shuffled within dialogues, ``[n]``."""
    found = numpy.empty(len(own))
    names = numpy.array(dialogues, dtype=object)
    for name in dict.fromkeys(dialogues):
        here = names == name
        labels = numpy.bincount(own[here], minlength=values.shape[1]) / here.sum()
        found[here] = values[here] @ labels
    return found


@dataclass(frozen=True, eq=False)
class ReplyFigures:
    """The figures of single replies in one setting, ``[n]`` each.

    Attributes:
        keys, groups: as in :class:`SettingReplies`.
        advantage, per_token: the advantage of the sum of log p, and per token.
        shuffled, shuffled_per_token: their expectations with shuffled labels.
        raw, raw_per_token: the advantage without a mean removed.
        first, shuffled_first, raw_first: whether the own strategy ranks first, likewise.
        own_log_p: log p per token under the own strategy's prompt.
    """

    keys: list[tuple[str, int]]
    groups: list[str]
    advantage: Matrix
    per_token: Matrix
    shuffled: Matrix
    shuffled_per_token: Matrix
    raw: Matrix
    raw_per_token: Matrix
    first: Matrix
    shuffled_first: Matrix
    raw_first: Matrix
    own_log_p: Matrix


def figures_of(replies: SettingReplies) -> ReplyFigures:
    """Compute the figures of every reply of a setting."""
    names = [dialogue for dialogue, _ in replies.keys]
    own, log_p = replies.own, replies.log_p
    rate = log_p / replies.tokens[:, None]
    centred, centred_rate = without_means(log_p), without_means(rate)
    best = firsts(centred_rate)
    return ReplyFigures(
        keys=replies.keys,
        groups=replies.groups,
        advantage=of_own(advantages(centred), own),
        per_token=of_own(advantages(centred_rate), own),
        shuffled=of_shuffled(advantages(centred), own, names),
        shuffled_per_token=of_shuffled(advantages(centred_rate), own, names),
        raw=of_own(advantages(log_p), own),
        raw_per_token=of_own(advantages(rate), own),
        first=of_own(best, own),
        shuffled_first=of_shuffled(best, own, names),
        raw_first=of_own(firsts(log_p), own),
        own_log_p=of_own(rate, own),
    )


MEANS = (
    "advantage",
    "per_token",
    "shuffled",
    "shuffled_per_token",
    "raw",
    "raw_per_token",
    "own_log_p",
)
RATES = ("first", "shuffled_first", "raw_first")


def estimates(found: ReplyFigures) -> dict[str, Estimate]:
    """Compute the mean of every figure over replies, with its interval over dialogues.

    ``above_shuffled`` and ``per_token_above_shuffled`` are the means of the differences from the
    baseline.
    """
    means = {name: getattr(found, name) for name in MEANS}
    means["above_shuffled"] = found.advantage - found.shuffled
    means["per_token_above_shuffled"] = found.per_token - found.shuffled_per_token
    result = {name: mean_interval(values, found.groups) for name, values in means.items()}
    chances = numpy.ones(len(found.keys))
    for name in RATES:
        result[name] = rate_interval(getattr(found, name), chances, found.groups)
    return result


def difference(one: SettingReplies, other: SettingReplies, name: str) -> Estimate:
    """Compute the mean difference of a figure between two settings.

    It is computed over the replies that both settings have, and so are the means of strategies.

    Args:
        one, other: the settings; ``other`` is subtracted.
        name: the figure, a name of :class:`ReplyFigures`.
    """
    place = {key: at for at, key in enumerate(other.keys)}
    common = [(at, place[key]) for at, key in enumerate(one.keys) if key in place]
    mine = figures_of(chosen_replies(one, [at for at, _ in common]))
    theirs = figures_of(chosen_replies(other, [at for _, at in common]))
    return mean_interval(getattr(mine, name) - getattr(theirs, name), mine.groups)


def chosen_replies(replies: SettingReplies, places: Sequence[int]) -> SettingReplies:
    """Return some of the replies of a setting, by their places."""
    at = numpy.array(places, dtype=numpy.int64)
    return SettingReplies(
        [replies.keys[place] for place in places],
        [replies.groups[place] for place in places],
        replies.own[at],
        replies.tokens[at],
        replies.log_p[at],
    )
