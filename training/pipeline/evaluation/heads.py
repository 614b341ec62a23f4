"""Measure how well the attention of each head on the strategy predicts adherence to it.

The measure is the AUC of a head's mass (:mod:`~.ranking`). Only responses of one stratum are
compared, that is of one condition and strategy. A mass is a sum over the tokens of the
strategy, so longer strategies and other templates get more of it, and that alone must not look like
prediction. Heads are chosen on one half of the dialogues and measured on the other.

What chance gives comes from shuffles: conversations with one strategy that are answered under the
same conditions exchange their labels (adherent or not), all conditions of a conversation together
and for all heads at once. So every stratum keeps its number of adherent responses, and the
responses to one conversation stay as alike as they are. For each shuffle the largest |AUC − 0.5| of
any head is noted; the threshold is their 95% quantile (max-statistic), so it allows for how many
heads are tried. The assumption: without prediction, conversations with one strategy are
exchangeable. Whatever else goes together with both mass and adherence (the turn, the length of the
conversation, its dialogue) counts as prediction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy
from numpy.typing import ArrayLike, NDArray

from sra_fast.tools.bootstrap import LEVEL, REPORT_DRAWS, REPORT_SEED, Estimate, Integers, numbered
from sra_fast.tools.coefficients import Floats

from .ranking import (
    Booleans,
    auc,
    aucs_of_ranks,
    stratum_ranks,
)
from .resampling import resampling

PERMUTATIONS = 200
BEST = 10

Answered = tuple[object, object, object]  # condition, strategy, item


class HeadsError(ValueError):
    """Raised when heads cannot be compared by the given masses; names the axis or the index."""


@dataclass(frozen=True)
class HeadResult:
    """One of the chosen heads and its AUC on both halves of the dialogues.

    Attributes:
        layer, head: the place of the head in ``mass``, from 0.
        chosen: its AUC on the half that it was chosen on.
        measured: its AUC on the other half, with the interval over dialogues.
    """

    layer: int
    head: int
    chosen: float
    measured: Estimate


@dataclass(frozen=True)
class HeadAnalysis:
    """How well the attention of each head predicts adherence.

    Attributes:
        layers, heads: the number of layers, and of heads in each.
        responses, dialogues: how many the choosing half has, and how many the measuring half.
        best: the heads with the highest AUC on the choosing half, best first.
        measured: ``[layers][heads]`` AUC on the measuring half; all None if it is undefined.
        median: the median of ``measured``.
        threshold: the |AUC − 0.5| that the best of all heads exceeds by chance in 5% of the
            shuffles.
        beyond: how many heads exceed the threshold on the measuring half, above or below 0.5.
        shuffled: how many responses of the measuring half have a label that a shuffle could change.
        permutations, seed: the number of shuffles and their seed, which also splits the dialogues
            (:func:`halves`).
        gaps: sentences on what is undefined, and why.
    """

    layers: int
    heads: int
    responses: tuple[int, int]
    dialogues: tuple[int, int]
    best: tuple[HeadResult, ...]
    measured: tuple[tuple[float | None, ...], ...]
    median: float | None
    threshold: float | None
    beyond: int | None
    shuffled: int
    permutations: int
    seed: int
    gaps: tuple[str, ...]


def halves(
    dialogues: Sequence[object], seed: int = REPORT_SEED
) -> tuple[frozenset[object], frozenset[object]]:
    """Split the dialogues into those that choose the heads and those that measure them.

    Args:
        dialogues: ``[n]`` the dialogue of each response, hashable.
        seed: the seed of the split.

    Returns:
        The dialogues of the choosing half, and those of the measuring half.
    """
    names = numbered(dialogues)[1]
    order = numpy.random.default_rng(seed).permutation(len(names))
    choosing = frozenset(names[at] for at in order[: len(names) // 2])
    return choosing, frozenset(names) - choosing


def analyse_heads(
    mass: ArrayLike,
    adherent: ArrayLike,
    *,
    dialogue: Sequence[object],
    condition: Sequence[object],
    strategy: Sequence[object],
    item: Sequence[object],
    best: int = BEST,
    permutations: int = PERMUTATIONS,
    draws: int = REPORT_DRAWS,
    seed: int = REPORT_SEED,
) -> HeadAnalysis:
    """Measure how well each head predicts adherence, and choose the best heads.

    Args:
        mass: ``[n, layers, heads]`` finite: the mean share of a response's attention that each head
            puts on the strategy span.
        adherent: ``[n]`` bool: whether the response adheres to its strategy, the label.
        dialogue, condition, strategy: ``[n]`` those of each response, hashable.
        item: ``[n]`` the conversation that was answered, hashable; a condition answers it at most
            once with one strategy.
        best: how many heads to choose.
        permutations: how many times to shuffle the labels.
        draws: how many times to draw dialogues for the intervals.
        seed: the seed of the split, the shuffles and the draws.

    Raises:
        HeadsError: the shapes do not go together, a mass is NaN or infinite, there is no response,
            or a condition answers an item twice with one strategy.
    """
    values = numpy.asarray(mass)
    labels = numpy.asarray(adherent, dtype=bool)
    _refuse_wrong(
        values,
        adherent=labels,
        dialogue=dialogue,
        condition=condition,
        strategy=strategy,
        item=item,
    )
    answered = list(zip(condition, strategy, item, strict=True))
    _refuse_second_answers(answered)
    n, layers, heads = values.shape
    values = values.reshape(n, layers * heads)
    strata = numbered([(one, asked) for one, asked, _ in answered])[0]
    choose, measure = halves(dialogue, seed)
    ours = numpy.array([one in measure for one in dialogue])
    theirs = stratum_ranks(values[~ours], strata[~ours])
    chosen = aucs_of_ranks(theirs, labels[~ours][None], strata[~ours])
    ranks = stratum_ranks(values[ours], strata[ours])
    measured = aucs_of_ranks(ranks, labels[ours][None], strata[ours])
    gaps = [
        f"the {half} half of the dialogues has no condition and strategy with both responses that "
        "adhere and others, so its AUC is undefined"
        for half, found in (("choosing", chosen), ("measuring", measured))
        if found is None
    ]
    picked: list[HeadResult] = []
    if chosen is not None:
        draw = resampling([one for one in dialogue if one in measure], draws, seed)
        everyone = numpy.ones(int(ours.sum()), dtype=bool)
        for at in numpy.argsort(-chosen[0], kind="stable")[:best]:
            column = values[ours, at].astype(numpy.float64)
            estimate = auc(column, labels[ours], strata[ours], draw, everyone)
            layer, head = divmod(int(at), heads)
            picked.append(HeadResult(layer, head, float(chosen[0, at]), estimate))
    threshold, beyond, shuffled = None, None, 0
    if measured is not None:
        pools = _pools([one for one, mine in zip(answered, ours, strict=True) if mine])
        shuffled = sum(_movable(labels[ours][pool]) for pool in pools)
        if shuffled:
            many = _shuffles(labels[ours], pools, permutations, seed)
            threshold = _threshold(aucs_of_ranks(ranks, many, strata[ours]))
            beyond = int((numpy.abs(measured[0] - 0.5) > threshold).sum())
        else:
            gaps.append(
                "no two items of one strategy, answered in the same conditions, differ in "
                "adherence, so labels cannot be shuffled and what chance gives is unknown"
            )
    grid = [None] * (layers * heads) if measured is None else measured[0].tolist()
    return HeadAnalysis(
        layers=layers,
        heads=heads,
        responses=(int((~ours).sum()), int(ours.sum())),
        dialogues=(len(choose), len(measure)),
        best=tuple(picked),
        measured=tuple(tuple(grid[i * heads : (i + 1) * heads]) for i in range(layers)),
        median=None if measured is None else float(numpy.median(measured[0])),
        threshold=threshold,
        beyond=beyond,
        shuffled=shuffled,
        permutations=permutations,
        seed=seed,
        gaps=tuple(gaps),
    )


def _pools(answered: Sequence[Answered]) -> list[Integers]:
    """Group the responses whose items may exchange labels: indices ``[items, conditions]`` each."""
    items: dict[tuple[object, object], dict[object, int]] = {}
    for at, (condition, strategy, item) in enumerate(answered):
        items.setdefault((strategy, item), {})[condition] = at
    pools: dict[tuple[object, frozenset[object]], list[dict[object, int]]] = {}
    for (strategy, _), by_condition in items.items():
        pools.setdefault((strategy, frozenset(by_condition)), []).append(by_condition)
    return [
        numpy.array([[one[condition] for condition in alike[0]] for one in alike])
        for alike in pools.values()
    ]


def _movable(labels: Booleans) -> int:
    """Count the ``labels [items, conditions]`` of a pool that a shuffle could change."""
    return len(labels) * int((labels.any(axis=0) & ~labels.all(axis=0)).sum())


def _shuffles(labels: Booleans, pools: Sequence[Integers], number: int, seed: int) -> Booleans:
    """Return ``labels [n]``, then ``number`` shuffles of them within pools, ``[1 + number, n]``."""
    generator = numpy.random.default_rng([seed, 1])  # not the stream that splits the halves
    shuffled = numpy.tile(labels, (1 + number, 1))
    for pool in pools:
        order = numpy.argsort(generator.random((number, len(pool))), axis=1)
        shuffled[1:, pool] = labels[pool][order]
    return shuffled


def _threshold(aucs: Floats | None) -> float:
    """Return the 95% quantile, over shuffles, of the largest |AUC − 0.5| of any head.

    The unshuffled labels count as one of the shuffles, and the quantile is one of the values, not
    a number between two: only then do the labels exceed it by chance in at most 5% of cases,
    however few shuffles there are.
    """
    assert aucs is not None  # a shuffle keeps the number of pairs
    largest = numpy.abs(aucs - 0.5).max(axis=1)
    return float(numpy.quantile(largest, LEVEL, method="inverted_cdf"))


def _refuse_wrong(mass: NDArray[numpy.floating], **columns: Sequence[object] | Booleans) -> None:
    if mass.ndim != 3 or not mass.size:
        raise HeadsError(f"mass must be [n, layers, heads] with n ≥ 1, found shape {mass.shape}")
    for name, column in columns.items():
        if len(column) != len(mass):
            raise HeadsError(f"{name} has {len(column)} values for {len(mass)} responses of mass")
    wrong = numpy.argwhere(~numpy.isfinite(mass))
    if len(wrong):
        i, layer, head = wrong[0]
        raise HeadsError(
            f"mass[{i}, {layer}, {head}] is {mass[i, layer, head]}; leave the response out"
        )


def _refuse_second_answers(answered: Sequence[Answered]) -> None:
    first: dict[Answered, int] = {}
    for at, one in enumerate(answered):
        if first.setdefault(one, at) != at:
            condition, _, item = one
            raise HeadsError(
                f"mass[{first[one]}] and mass[{at}] are both of condition {condition!r} and item "
                f"{item!r}; name the items apart, or leave one out"
            )
