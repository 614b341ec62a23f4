"""Which heads' attention on the strategy predicts that a response adheres to it.

For one head, with r_i the midrank of its mass among the responses of the same row s of Table 1, and
P_s, N_s the numbers of that row's responses that adhere and that do not:

    AUC = Σ_s (Σ_{i adherent in s} r_i − P_s·(P_s + 1)/2)  /  Σ_s P_s·N_s

Only pairs of one row are compared, so what differs between templates does not pose as prediction.
Heads are chosen on one half of the dialogues and measured on the other.

Chance: adherence is shuffled among the responses of the same row and dialogue, for all heads at
once, and the largest |AUC − 0.5| of any head is noted; 95% of the shuffles stay below the
threshold (max-statistic), so that many heads tried do not make one of them good.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy
from numpy.typing import ArrayLike, NDArray

from sra_fast.training.evaluation.ranking import Booleans, auc, midranks
from sra_fast.training.evaluation.resampling import (
    DRAWS,
    SEED,
    Floats,
    Integers,
    numbered,
    resampling,
)
from sra_fast.training.statistics import LEVEL, Estimate

PERMUTATIONS = 200
BEST = 10


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
        shuffled: responses of the measuring half whose adherence a shuffle could change.
        permutations, seed: of the shuffles; the seed also splits the dialogues.
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


def analyse_heads(
    mass: ArrayLike,
    adherent: ArrayLike,
    dialogue: Sequence[object],
    row: Sequence[object],
    *,
    best: int = BEST,
    permutations: int = PERMUTATIONS,
    draws: int = DRAWS,
    seed: int = SEED,
) -> HeadAnalysis:
    """Measures every head.

    Args:
        mass: ``[n, L, H]`` finite, mean share of a response's attention on the strategy span.
        adherent: ``[n]`` bool.
        dialogue, row: ``[n]`` hashable.
        best: heads to choose.
        permutations: shuffles of adherence.
        draws: of the intervals over dialogues.
        seed: of the split, the shuffles and the draws.

    Raises:
        HeadsError: the shapes do not go together, a mass is NaN or infinite, or there is none.
    """
    values = numpy.asarray(mass)
    labels = numpy.asarray(adherent, dtype=bool)
    _refuse_wrong(values, labels, dialogue, row)
    n, layers, heads = values.shape
    values = values.reshape(n, layers * heads)
    dialogues, names = numbered(dialogue)
    rows = numbered(row)[0]
    generator = numpy.random.default_rng(seed)
    first_half = generator.permutation(len(names))[: len(names) // 2]
    choosing = numpy.isin(dialogues, first_half)
    chosen, _ = _aucs(values[choosing], rows[choosing], labels[choosing][None])
    ours = ~choosing
    measured, ranks = _aucs(values[ours], rows[ours], labels[ours][None])
    gaps = [
        f"the {half} half of the dialogues has no row with both responses that adhere and others, "
        "so its AUC is undefined"
        for half, found in (("choosing", chosen), ("measuring", measured))
        if found is None
    ]
    picked: list[HeadResult] = []
    if chosen is not None:
        draw = resampling(
            [one for one, mine in zip(dialogue, ours, strict=True) if mine], draws, seed
        )
        for at in numpy.argsort(-chosen[0], kind="stable")[:best]:
            estimate = auc(
                values[ours, at].astype(numpy.float64),
                labels[ours],
                rows[ours],
                draw,
                numpy.ones(int(ours.sum()), dtype=bool),
            )
            layer, head = divmod(int(at), heads)
            picked.append(HeadResult(layer, head, float(chosen[0, at]), estimate))
    threshold, beyond, shuffled = None, None, 0
    if measured is not None:
        cells = numbered(list(zip(rows[ours].tolist(), dialogues[ours].tolist(), strict=True)))[0]
        shuffled = _movable(cells, labels[ours])
        if shuffled:
            threshold = _threshold(ranks, rows[ours], labels[ours], cells, permutations, generator)
            beyond = int((numpy.abs(measured[0] - 0.5) > threshold).sum())
        else:
            gaps.append(
                "no dialogue has both responses that adhere and others in one row, so adherence "
                "cannot be shuffled and what chance gives is unknown"
            )
    grid = [None] * (layers * heads) if measured is None else measured[0].tolist()
    return HeadAnalysis(
        layers=layers,
        heads=heads,
        responses=(int(choosing.sum()), int(ours.sum())),
        dialogues=(len(first_half), len(names) - len(first_half)),
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


def head_aucs(mass: ArrayLike, adherent: ArrayLike, row: Sequence[object]) -> Floats | None:
    """The AUC of every head, ``[L, H]``, of ``mass [n, L, H]``; None where it is undefined."""
    values, labels = numpy.asarray(mass), numpy.asarray(adherent, dtype=bool)
    _refuse_wrong(values, labels, row, row)
    found, _ = _aucs(values.reshape(len(values), -1), numbered(row)[0], labels[None])
    return None if found is None else found[0].reshape(values.shape[1:])


def _aucs(
    values: NDArray[numpy.floating], rows: Integers, labels: Booleans
) -> tuple[Floats | None, NDArray[numpy.float32]]:
    """AUCs ``[k, heads]`` of ``values [n, heads]`` for each of ``labels [k, n]``, and the ranks."""
    # Half numbers up to 2²³ are exact in float32.
    ranks = numpy.empty(values.shape, dtype=numpy.float32)
    for row in numpy.unique(rows):
        mine = rows == row
        for head, column in enumerate(values[mine].T):
            ranks[mine, head] = midranks(column)
    return _aucs_of_ranks(ranks, rows, labels), ranks


def _aucs_of_ranks(
    ranks: NDArray[numpy.float32], rows: Integers, labels: Booleans
) -> Floats | None:
    """The formula above, for ``labels [k, n]`` that all have as many adherent ones in every row."""
    number = numpy.bincount(rows)
    positive = numpy.bincount(rows, weights=labels[0], minlength=len(number))
    pairs = float((positive * (number - positive)).sum())
    if not pairs:
        return None
    offset = float((positive * (positive + 1) / 2).sum())
    sums = numpy.zeros((len(labels), ranks.shape[1]))
    for begin in range(0, len(ranks), 4096):  # in float64, a part at a time
        part = slice(begin, begin + 4096)
        sums += labels[:, part].astype(numpy.float64) @ ranks[part].astype(numpy.float64)
    return (sums - offset) / pairs


def _threshold(
    ranks: NDArray[numpy.float32],
    rows: Integers,
    labels: Booleans,
    cells: Integers,
    permutations: int,
    generator: numpy.random.Generator,
) -> float:
    """The quantile of the largest |AUC − 0.5| over heads, with labels shuffled within cells."""
    in_order = numpy.argsort(cells, kind="stable")
    keys = cells + generator.random(
        (permutations, len(cells))
    )  # cells stay apart, inside is random
    shuffled = numpy.empty((permutations, len(cells)), dtype=bool)
    shuffled[:, in_order] = labels[numpy.argsort(keys, axis=1)]
    found = _aucs_of_ranks(ranks, rows, shuffled)
    assert found is not None  # as many adherent ones in every row as without the shuffle
    return float(numpy.quantile(numpy.abs(found - 0.5).max(axis=1), LEVEL))


def _movable(cells: Integers, labels: Booleans) -> int:
    number = numpy.bincount(cells)
    positive = numpy.bincount(cells, weights=labels)
    return int(number[(positive > 0) & (positive < number)].sum())


def _refuse_wrong(
    mass: NDArray[numpy.floating],
    adherent: Booleans,
    dialogue: Sequence[object],
    row: Sequence[object],
) -> None:
    if mass.ndim != 3 or not mass.size:
        raise HeadsError(f"mass must be [n, layers, heads] with n ≥ 1, found shape {mass.shape}")
    for name, length in (
        ("adherent", len(adherent)),
        ("dialogue", len(dialogue)),
        ("row", len(row)),
    ):
        if length != len(mass):
            raise HeadsError(f"{name} has {length} values for {len(mass)} responses of mass")
    wrong = numpy.argwhere(~numpy.isfinite(mass))
    if len(wrong):
        i, layer, head = wrong[0]
        raise HeadsError(
            f"mass[{i}, {layer}, {head}] is {mass[i, layer, head]}; leave the response out"
        )
