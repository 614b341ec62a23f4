"""Compute how much more probable replies are under their own strategy, with intervals.

With L[r, k] = log p(reply r | prompt with strategy k), of K strategies, and o the strategy that
reply r is annotated with:

    advantage[r] = L[r, o] − mean over k ≠ o of L[r, k]
    first[r]     = 1 if o is the k with the highest L[r, k], else 0

Both are computed of L as it is (the raw figures), and after each strategy's own mean is removed,
because some strategies' prompts make every reply more probable:

    L[r, k] ← (L[r, k] − mean over k of L[r, k]) − mean over r of the same

Log p per token is L[r, k] over the number of the reply's tokens. Strategies are ranked by it; with
their means in it, log p of the whole reply ranks them alike.

The baseline is what either figure is if labels are shuffled among the replies of a dialogue: its
expectation over all permutations, so nothing is drawn at random.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy
from numpy.typing import NDArray

from sra_fast.tools.estimates import Estimate
from sra_fast.tools.intervals import mean_interval, rate_interval

from .study_records import Matrix, SettingReplies, chosen_replies


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


def of_shuffled(values: Matrix, own: NDArray[numpy.int64], dialogues: Sequence[str]) -> Matrix:
    """Return the expected value of each reply if labels were shuffled within dialogues, ``[n]``.

    Each label of a dialogue falls on each of its replies equally often.

    Args:
        values: ``[n, K]`` the value of each reply for each strategy.
        own: ``[n]`` the number of each reply's own strategy.
        dialogues: the dialogue of each reply.
    """
    names, of_reply = numpy.unique(numpy.array(dialogues), return_inverse=True)
    labels = numpy.zeros((len(names), values.shape[1]))
    numpy.add.at(labels, (of_reply, own), 1)
    shares = labels / labels.sum(axis=1, keepdims=True)
    return numpy.asarray((values * shares[of_reply]).sum(axis=1))


@dataclass(frozen=True, eq=False)
class ReplyFigures:
    """The figures of single replies in one setting, ``[n]`` each.

    Attributes:
        keys: the dialogue and the turn of each reply.
        groups: the group of each reply.
        advantage: the advantage in log p of the whole reply.
        per_token: the advantage in log p per token.
        shuffled: the expectation of ``advantage`` with shuffled labels.
        shuffled_per_token: the expectation of ``per_token`` with shuffled labels.
        raw: the advantage in log p of the whole reply, with strategies' means in it.
        raw_per_token: the advantage in log p per token, with strategies' means in it.
        first: whether the own strategy ranks first in log p per token.
        shuffled_first: the expectation of ``first`` with shuffled labels.
        raw_first: whether the own strategy ranks first, with strategies' means in log p.
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

    @property
    def above_shuffled(self) -> Matrix:
        """Return how far the advantage is above its baseline."""
        return self.advantage - self.shuffled

    @property
    def per_token_above_shuffled(self) -> Matrix:
        """Return how far the advantage per token is above its baseline."""
        return self.per_token - self.shuffled_per_token

    @property
    def first_above_shuffled(self) -> Matrix:
        """Return how far the ranking first is above its baseline."""
        return self.first - self.shuffled_first


def figures_of(replies: SettingReplies) -> ReplyFigures:
    """Compute the figures of every reply of a setting."""
    names = [dialogue for dialogue, _ in replies.keys]
    own, log_p = replies.own, replies.log_p
    rate = log_p / replies.tokens[:, None]
    of_sum, of_rate = advantages(without_means(log_p)), advantages(without_means(rate))
    best = firsts(without_means(rate))
    return ReplyFigures(
        keys=replies.keys,
        groups=replies.groups,
        advantage=of_own(of_sum, own),
        per_token=of_own(of_rate, own),
        shuffled=of_shuffled(of_sum, own, names),
        shuffled_per_token=of_shuffled(of_rate, own, names),
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
    "above_shuffled",
    "per_token_above_shuffled",
    "first_above_shuffled",
    "raw",
    "raw_per_token",
    "own_log_p",
)
RATES = ("first", "shuffled_first", "raw_first")


def estimates(found: ReplyFigures) -> dict[str, Estimate]:
    """Compute the mean of every figure over replies, with its interval over dialogues."""
    result = {name: mean_interval(getattr(found, name), found.groups) for name in MEANS}
    chances = numpy.ones(len(found.keys))
    for name in RATES:
        result[name] = rate_interval(getattr(found, name), chances, found.groups)
    return result


def difference(one: SettingReplies, other: SettingReplies, name: str) -> Estimate:
    """Compute the mean difference of a figure between two settings.

    It is computed over the replies that both settings have, and so are the means of strategies.

    Args:
        one: a setting.
        other: the setting that is subtracted.
        name: the figure, a name of :class:`ReplyFigures`.
    """
    place = {key: at for at, key in enumerate(other.keys)}
    common = [(at, place[key]) for at, key in enumerate(one.keys) if key in place]
    if not common:
        return mean_interval([], [])  # which says why it is undefined
    mine = figures_of(chosen_replies(one, [at for at, _ in common]))
    theirs = figures_of(chosen_replies(other, [at for _, at in common]))
    return mean_interval(getattr(mine, name) - getattr(theirs, name), mine.groups)
