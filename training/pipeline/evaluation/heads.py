"""Which heads' attention on the strategy predicts that a response adheres to it.

Measured by the AUC of a head's mass (:mod:`~.ranking`). Only pairs of one stratum are compared, a
row of Table 1 and a strategy: a mass is a sum over the strategy's name, so longer names and other
templates get more of it, and neither poses as prediction. Heads are chosen on one half of the
dialogues and measured on the other.

Chance: items of one strategy that are answered in the same rows exchange their labels, all rows of
an item together, for all heads at once. So as many adhere in every stratum as before, and the rows
of an item stay as alike as they are. The largest |AUC − 0.5| of any head is noted; 95% of the
shuffles stay below the threshold (max-statistic), so that many heads tried do not make one of them
good. Assumed: without prediction, items of one strategy are exchangeable. What else goes with both
mass and adherence (the turn, the length of the conversation, its dialogue) counts as prediction.
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

Answered = tuple[object, object, object]  # row, strategy, item


class HeadsError(ValueError):
    """Masses that heads cannot be compared by; names the axis or the index."""


@dataclass(frozen=True)
class HeadResult:
    """One of the chosen heads.

    Attributes:
        layer, head: from 0.
        chosen: its AUC on the half that it was chosen by.
        measured: its AUC on the other half, with its interval over dialogues.
    """

    layer: int
    head: int
    chosen: float
    measured: Estimate


@dataclass(frozen=True)
class HeadAnalysis:
    """Of all heads.

    Attributes:
        layers, heads: how many, of each layer.
        responses, dialogues: of the half that chooses and of the half that measures.
        best: chosen by the highest AUC on the first half, best first.
        measured: ``[layers][heads]`` AUC on the other half; None throughout if undefined.
        median: of those.
        threshold: |AUC − 0.5| that the best of all heads exceeds by chance in 5% of the shuffles.
        beyond: heads that exceed it on the measuring half, above or below 0.5.
        shuffled: responses of the measuring half whose label a shuffle could change.
        permutations, seed: of the shuffles; the seed also splits the dialogues (:func:`halves`).
        gaps: what is undefined, and why.
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
    """The dialogues that heads are chosen by, and those that they are measured on.

    Args:
        dialogues: ``[n]`` hashable, of the responses in their order.
        seed: of the split.
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
    row: Sequence[object],
    strategy: Sequence[object],
    item: Sequence[object],
    best: int = BEST,
    permutations: int = PERMUTATIONS,
    draws: int = REPORT_DRAWS,
    seed: int = REPORT_SEED,
) -> HeadAnalysis:
    """Measures every head.

    Args:
        mass: ``[n, L, H]`` finite, mean share of a response's attention on the strategy span.
        adherent: ``[n]`` bool, the label.
        dialogue, row, strategy: ``[n]`` hashable.
        item: ``[n]`` hashable, the conversation that was answered; once in a row, for a strategy.
        best: heads to choose.
        permutations: shuffles of the labels.
        draws: of the intervals over dialogues.
        seed: of the split, the shuffles and the draws.

    Raises:
        HeadsError: the shapes do not go together, a mass is NaN or infinite, there is none, or a
            row answers an item twice.
    """
    values = numpy.asarray(mass)
    labels = numpy.asarray(adherent, dtype=bool)
    _refuse_wrong(values, adherent=labels, dialogue=dialogue, row=row, strategy=strategy, item=item)
    answered = list(zip(row, strategy, item, strict=True))
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
        f"the {half} half of the dialogues has no row and strategy with both responses that adhere "
        "and others, so its AUC is undefined"
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
                "no two items of one strategy, answered in the same rows, differ in adherence, so "
                "labels cannot be shuffled and what chance gives is unknown"
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
    """Indices ``[items, rows]`` of the responses to items that may exchange their labels."""
    items: dict[tuple[object, object], dict[object, int]] = {}
    for at, (row, strategy, item) in enumerate(answered):
        items.setdefault((strategy, item), {})[row] = at
    pools: dict[tuple[object, frozenset[object]], list[dict[object, int]]] = {}
    for (strategy, _), by_row in items.items():
        pools.setdefault((strategy, frozenset(by_row)), []).append(by_row)
    return [
        numpy.array([[one[row] for row in alike[0]] for one in alike]) for alike in pools.values()
    ]


def _movable(labels: Booleans) -> int:
    """Of a pool's ``labels [items, rows]``, those in rows that have both."""
    return len(labels) * int((labels.any(axis=0) & ~labels.all(axis=0)).sum())


def _shuffles(labels: Booleans, pools: Sequence[Integers], number: int, seed: int) -> Booleans:
    """``[1 + number, n]``: the ``labels [n]`` themselves, and as often shuffled within pools."""
    generator = numpy.random.default_rng([seed, 1])  # another stream than that of the halves
    shuffled = numpy.tile(labels, (1 + number, 1))
    for pool in pools:
        order = numpy.argsort(generator.random((number, len(pool))), axis=1)
        shuffled[1:, pool] = labels[pool][order]
    return shuffled


def _threshold(aucs: Floats | None) -> float:
    """The quantile over shuffles of the largest |AUC − 0.5|.

    The labels themselves count as a shuffle, and it is one of the values, not between two: only so
    do the labels exceed it by chance in 5% at most, however few the shuffles.
    """
    assert aucs is not None  # as many pairs as without a shuffle
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
            row, _, item = one
            raise HeadsError(
                f"mass[{first[one]}] and mass[{at}] are both of row {row!r} and item {item!r}; "
                "name the items apart, or leave one out"
            )
