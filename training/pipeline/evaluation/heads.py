"""Measure how well the attention of each head on the strategy predicts adherence to it.

The measure is the AUC of a head's mass (:mod:`~.ranking`). Only responses of one stratum are
compared, that is of one condition and strategy. A mass is a sum over the tokens of the
strategy, so longer strategies and other templates get more of it, and that alone must not look like
prediction. Heads are chosen on one half of the dialogues and measured on the other.

What chance gives comes from shuffles: dialogues with the same strategies and rows exchange their
labels (adherent or not), all responses of a dialogue together and for all heads at once
(:mod:`~.exchange`). For each shuffle the largest |AUC − 0.5| of any head is noted; the threshold is
their 95% quantile (max-statistic), so it allows for how many heads are tried. The assumption:
without prediction, dialogues are independent of each other. Whatever goes together with both mass
and adherence within a dialogue (the turn, the length of the conversation) counts as prediction. How
often the threshold finds a head that is planted there, and one that is not, stands in
``benchmarks/statistics/``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy
from numpy.typing import ArrayLike, NDArray

from sra_fast.tools.estimates import REPORT_SEED, Estimate
from sra_fast.tools.grouped import Integers, numbered

from .exchange import (
    changeable,
    exchangeable,
    power,
    shuffles,
    threshold,
    too_few_exchanges,
)
from .ranking import Booleans, Ranks, auc, aucs_of_ranks, stratum_ranks

PERMUTATIONS = 200
PLANTED_HEADS = 200
BEST = 10

Answered = tuple[object, object, object]  # row, strategy, item


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
        exchanged: how many dialogues of the measuring half exchange their labels in a shuffle.
        power: the share of heads with an AUC of 0.7, planted at random, that exceed the threshold.
        permutations, draws: the number of shuffles, and of planted heads.
        seed: the seed of both, which also splits the dialogues (:func:`halves`).
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
    exchanged: int
    power: float | None
    permutations: int
    draws: int
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
    row: Sequence[object],
    strategy: Sequence[object],
    item: Sequence[object],
    best: int = BEST,
    permutations: int = PERMUTATIONS,
    draws: int = PLANTED_HEADS,
    seed: int = REPORT_SEED,
) -> HeadAnalysis:
    """Measure how well each head predicts adherence, and choose the best heads.

    Args:
        mass: ``[n, layers, heads]`` finite: the mean share of a response's attention that each head
            puts on the strategy span.
        adherent: ``[n]`` True, False, 1 or 0: whether the response adheres to its strategy.
        dialogue, row, strategy: ``[n]`` those of each response, hashable; the row is its condition.
        item: ``[n]`` the conversation that was answered, hashable; a row answers it at most once
            with one strategy.
        best: how many heads to choose.
        permutations: how many times to shuffle the labels.
        draws: how many heads to plant, one at a time, to measure the power of the threshold.
        seed: the seed of the split, the shuffles and the planted heads.

    Raises:
        HeadsError: the shapes do not go together, a mass is NaN or infinite, a label is neither
            true nor false, there is no response, or a row answers an item twice with one strategy.
    """
    values = numpy.asarray(mass)
    _refuse_wrong(
        values,
        adherent=numpy.asarray(adherent),
        dialogue=dialogue,
        row=row,
        strategy=strategy,
        item=item,
    )
    labels = numpy.asarray(adherent).astype(bool)
    _refuse_second_answers(list(zip(row, strategy, item, strict=True)))
    n, layers, heads = values.shape
    values = values.reshape(n, layers * heads)
    strata = numbered(list(zip(row, strategy, strict=True)))[0]
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
        number = numbered(dialogue)[0][ours]
        everyone = numpy.ones(int(ours.sum()), dtype=bool)
        for at in numpy.argsort(-chosen[0], kind="stable")[:best]:
            column = values[ours, at].astype(numpy.float64)
            estimate = auc(column, labels[ours], strata[ours], number, everyone)
            layer, head = divmod(int(at), heads)
            picked.append(HeadResult(layer, head, float(chosen[0, at]), estimate))
    groups: list[Integers] = []
    chance, found_power, why = None, None, None
    if measured is not None:
        cells = (
            [one for one, mine in zip(column, ours, strict=True) if mine]
            for column in (dialogue, strategy, row)
        )
        groups = changeable(labels[ours], exchangeable(*cells))
        why = too_few_exchanges(labels[ours], groups)
        if why is None:
            many = shuffles(labels[ours], groups, max(permutations, draws), seed)
            chance, found_power = _chance(ranks, many, strata[ours], permutations, draws, seed)
    grid = [None] * (layers * heads) if measured is None else measured[0].tolist()
    return HeadAnalysis(
        layers=layers,
        heads=heads,
        responses=(int((~ours).sum()), int(ours.sum())),
        dialogues=(len(choose), len(measure)),
        best=tuple(picked),
        measured=tuple(tuple(grid[i * heads : (i + 1) * heads]) for i in range(layers)),
        median=None if measured is None else float(numpy.median(measured[0])),
        threshold=chance,
        beyond=None
        if chance is None or measured is None
        else int((numpy.abs(measured[0] - 0.5) > chance).sum()),
        exchanged=sum(map(len, groups)),
        power=found_power,
        permutations=permutations,
        draws=draws,
        seed=seed,
        gaps=(*gaps, *([why] if why else [])),
    )


def _chance(
    ranks: Ranks, labels: Booleans, strata: Integers, permutations: int, draws: int, seed: int
) -> tuple[float, float | None]:
    """Return the threshold of ``permutations`` shuffles, and its power by ``draws`` planted heads.

    The first of ``labels [1 + k, n]`` are as they are, the others are shuffled, k ≥ both numbers.
    """
    aucs = aucs_of_ranks(ranks, labels[: 1 + permutations], strata)
    assert aucs is not None  # a shuffle keeps the number of pairs
    beyond = threshold(aucs)
    if not draws:
        return beyond, None
    return beyond, power(ranks, labels[1 : 1 + draws], strata, beyond, seed)


def _refuse_wrong(
    mass: NDArray[numpy.floating], **columns: Sequence[object] | NDArray[Any]
) -> None:
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
    labels = numpy.asarray(columns["adherent"])
    for at, label in enumerate(labels.tolist()):
        if label not in (0, 1):
            raise HeadsError(f"adherent[{at}] is {label!r}; it must be True, False, 1 or 0")


def _refuse_second_answers(answered: Sequence[Answered]) -> None:
    first: dict[Answered, int] = {}
    for at, one in enumerate(answered):
        if first.setdefault(one, at) != at:
            row, _, item = one
            raise HeadsError(
                f"mass[{first[one]}] and mass[{at}] are both of row {row!r} and item "
                f"{item!r}; name the items apart, or leave one out"
            )
