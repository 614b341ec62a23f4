"""Shuffle labels among dialogues that could as well have had each other's.

The unit is the dialogue, because all of its responses share what the dialogue is like: how long it
is, how willing the person. Two dialogues exchange their labels, all at once, if they have the same
cells, that is as many responses of each (strategy, row). So every cell keeps its number of adherent
responses, and the responses of a dialogue stay as alike as they are. Without prediction, masses and
labels of whole dialogues are independent, and every exchange is as likely as what was seen.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy

from sra_fast.tools.coefficients import Floats
from sra_fast.tools.estimates import FEWEST
from sra_fast.tools.grouped import Integers
from sra_fast.tools.missing_extra import needed
from sra_fast.tools.small_samples import LEVEL

from .ranking import Booleans, Ranks, stratum_ranks

PLANTED = 0.7
"""AUC of the heads that are planted to measure power, before dialogues blur it."""


def exchangeable(
    dialogue: Sequence[object], strategy: Sequence[object], row: Sequence[object]
) -> list[Integers]:
    """Group the dialogues with equal cells, and align their responses.

    Args:
        dialogue, strategy, row: ``[n]`` those of each response, hashable.

    Returns:
        Indices ``[dialogues, responses]`` for each group of two dialogues or more: the responses in
        one column are of the same cell.
    """
    cells: dict[object, dict[tuple[object, object], list[int]]] = {}
    for at, (one, asked, under) in enumerate(zip(dialogue, strategy, row, strict=True)):
        cells.setdefault(one, {}).setdefault((asked, under), []).append(at)
    alike: dict[frozenset[tuple[object, int]], list[dict[tuple[object, object], list[int]]]] = {}
    for own in cells.values():
        size = frozenset((cell, len(members)) for cell, members in own.items())
        alike.setdefault(size, []).append(own)
    return [
        numpy.array([[at for cell in group[0] for at in own[cell]] for own in group])
        for group in alike.values()
        if len(group) > 1
    ]


def changeable(labels: Booleans, groups: Sequence[Integers]) -> list[Integers]:
    """Select the groups in which an exchange changes some label."""
    return [group for group in groups if (labels[group] != labels[group[0]]).any()]


def too_few_exchanges(labels: Booleans, groups: Sequence[Integers]) -> str | None:
    """Return the reason why the exchanges cannot tell what chance gives, or None if they can.

    Args:
        labels: ``[n]`` the labels.
        groups: the groups in which an exchange changes some label, from :func:`changeable`.
    """
    dialogues = sum(map(len, groups))
    most = math.log(1 / (1 - LEVEL))
    if dialogues >= FEWEST and sum(_log_arrangements(labels[group]) for group in groups) >= most:
        return None
    return (
        f"{dialogues} dialogues of the measuring half share their strategies and conditions with "
        f"another and differ from it in adherence; it takes {FEWEST} or more, with "
        f"{round(math.exp(most))} different arrangements, to shuffle labels, so what chance gives "
        "is unknown"
    )


def shuffles(labels: Booleans, groups: Sequence[Integers], number: int, seed: int) -> Booleans:
    """Return ``labels [n]``, then ``number`` shuffles of them in groups, ``[1 + number, n]``."""
    generator = numpy.random.default_rng([seed, 1])  # not the stream that splits the halves
    shuffled = numpy.tile(labels, (1 + number, 1))
    for group in groups:
        order = numpy.argsort(generator.random((number, len(group))), axis=1)
        shuffled[1:, group] = labels[group][order]
    return shuffled


def threshold(aucs: Floats) -> float:
    """Return the 95% quantile, over shuffles, of the largest |AUC − 0.5| of any head.

    The unshuffled labels count as one of the shuffles, and the quantile is one of the values, not
    a number between two: only then do the labels exceed it by chance in at most 5% of cases,
    however few shuffles there are.

    Args:
        aucs: ``[1 + shuffles, heads]`` the AUC of each head by each labelling.
    """
    largest = numpy.abs(aucs - 0.5).max(axis=1)
    return float(numpy.quantile(largest, LEVEL, method="inverted_cdf"))


def power(ranks: Ranks, labels: Booleans, strata: Integers, beyond: float, seed: int) -> float:
    """Return the share of planted heads that lie beyond a threshold.

    A planted head is one of the heads, drawn at random, as normal scores within strata, which a
    shuffled label raises by √2·Φ⁻¹(0.7): that alone makes an AUC of 0.7. So it keeps what dialogues
    do to heads and to labels.

    Args:
        ranks: ``[n, H]`` the ranks of the heads' masses, from :func:`~.ranking.stratum_ranks`.
        labels: ``[k, n]`` shuffled labels, one set for each planted head, k ≥ 1.
        strata: ``[n]`` the number of each response's stratum, from 0.
        beyond: the threshold of |AUC − 0.5|.
        seed: the seed of the draws of heads.
    """
    with needed("pipeline", "scipy"):
        from scipy.special import ndtri

    generator = numpy.random.default_rng([seed, 2])
    heads = generator.integers(ranks.shape[1], size=len(labels))
    size = numpy.bincount(strata)
    scores = ndtri((ranks[:, heads].astype(numpy.float64) - 0.5) / size[strata][:, None])
    planted = stratum_ranks(scores + math.sqrt(2) * float(ndtri(PLANTED)) * labels.T, strata)
    adherent = numpy.bincount(strata, weights=labels[0], minlength=len(size))
    wins = (planted * labels.T).sum(axis=0) - (adherent * (adherent + 1) / 2).sum()
    found = wins / (adherent * (size - adherent)).sum()
    return float((numpy.abs(found - 0.5) > beyond).mean())


def _log_arrangements(labels: Booleans) -> float:
    """Return the logarithm of the number of different arrangements of ``labels [dialogues, k]``."""
    alike = Counter(map(bytes, labels))
    return math.lgamma(len(labels) + 1) - sum(math.lgamma(n + 1) for n in alike.values())
