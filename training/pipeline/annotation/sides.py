"""Tell how much of r the comparison alone explains: which systems were compared, on which sides.

Where one system mostly wins and mostly has the higher SRA, preference and SRA difference correlate
although neither says anything of a single reply. Three coefficients take this apart:

    as shown         preference and SRA difference with the sides as the annotator saw them; if the
                     sides were drawn at random, both change their sign with them
    systems alone    preference as shown, and +1 if b is the system of the pair with the higher mean
                     SRA, else -1: what a score would reach that knows the systems and no reply
    within           preference and SRA difference, each minus its mean over the pair: what remains
                     when the pair is known
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy

from sra_fast.tools.coefficients import Floats
from sra_fast.tools.estimates import Correlation, Estimate
from sra_fast.tools.intervals import correlation, trimmed

from .alpha import krippendorff_alpha
from .judgements import Judgements

LOW, HIGH = 0.01, 0.99  # quantiles between which trimming keeps values


@dataclass(frozen=True)
class Points:
    """The judgements of one annotator about items whose SRA difference is known.

    Attributes:
        preferences: ``[n]``, above 0 if b is better.
        differences: ``[n]``, the SRA of b minus that of a.
        shown: ``[n]``, 1 where the annotator saw a first, -1 where b.
        systems: ``[n]``, 1 where b is the system of its pair with the higher mean SRA, else -1.
        pairs: ``[n]``, the number of the pair of systems.
        groups: ``[n]``, the group of the item that intervals keep together.
        over: what the groups are, "dialogues" or "items".
    """

    preferences: Floats
    differences: Floats
    shown: Floats
    systems: Floats
    pairs: Floats
    groups: list[str]
    over: str


@dataclass(frozen=True)
class Explained:
    """How much of r the comparison alone explains.

    Attributes:
        as_shown: Pearson's r between preference and SRA difference, both with the sides that the
            annotator saw, by annotator.
        as_shown_trimmed: the same without the points where either value lies outside its 1st to
            99th percentile.
        alpha_as_shown: Krippendorff's alpha of the preferences as they were shown.
        systems_alone: r between preference as shown and the identity of the systems.
        within: r within a comparison, between what remains of preference and of SRA difference
            without the mean of the pair of systems.
    """

    as_shown: dict[str, Correlation]
    as_shown_trimmed: dict[str, Correlation]
    alpha_as_shown: Estimate
    systems_alone: dict[str, Correlation]
    within: dict[str, Correlation]

    def to_json(self) -> dict[str, Any]:
        """Return the figures, each with its interval and the reason of what is missing."""
        found: dict[str, Any] = {
            name: {annotator: asdict(one) for annotator, one in getattr(self, name).items()}
            for name in ("as_shown", "as_shown_trimmed", "systems_alone", "within")
        }
        return {**found, "alpha_as_shown": asdict(self.alpha_as_shown)}


def points_of(judgements: Judgements, annotator: str) -> Points:
    """Return the judgements of an annotator about items whose SRA difference is known."""
    higher = {pair: sum(judgements.differences(pair)) >= 0 for pair in judgements.pairs}
    rows: list[tuple[float, float, float, float, float]] = []
    kept: list[str] = []
    for item, one in judgements.items.items():
        place = (item, annotator)
        if place not in judgements.preferences or one.difference is None:
            continue
        rows.append(
            (
                judgements.preferences[place],
                one.difference,
                -1 if place in judgements.swapped else 1,
                1 if higher[one.systems] else -1,
                judgements.pairs.index(one.systems),
            )
        )
        kept.append(item)
    preferences, differences, shown, systems, pairs = (
        numpy.array([row[at] for row in rows], dtype=numpy.float64) for at in range(5)
    )
    groups = judgements.groups(kept)
    return Points(preferences, differences, shown, systems, pairs, groups, judgements.over)


def explain(judgements: Judgements, points: Mapping[str, Points]) -> Explained:
    """Compute how much of r the comparison alone explains.

    Args:
        judgements: the judgements of all annotators.
        points: those about items with a known SRA difference, by annotator.
    """

    def each(figure: Callable[[Points], Correlation]) -> dict[str, Correlation]:
        return {name: figure(one) for name, one in points.items()}

    def as_shown(one: Points) -> Correlation:
        x, y = one.preferences * one.shown, one.differences * one.shown
        return pearson(x, y, one.groups, over=one.over)

    def as_shown_trimmed(one: Points) -> Correlation:
        x, y = one.preferences * one.shown, one.differences * one.shown
        return trimmed_pearson(x, y, one.groups, over=one.over)

    def alone(one: Points) -> Correlation:
        x, identity = one.preferences * one.shown, one.systems * one.shown
        return pearson(x, identity, one.groups, "systems of the sides", over=one.over)

    def within(one: Points) -> Correlation:
        x, y = (_centred(column, one.pairs) for column in (one.preferences, one.differences))
        return pearson(x, y, one.groups, over=one.over)

    return Explained(
        as_shown=each(as_shown),
        as_shown_trimmed=each(as_shown_trimmed),
        alpha_as_shown=_alpha_as_shown(judgements),
        systems_alone=each(alone),
        within=each(within),
    )


def pearson(
    x: Floats, y: Floats, groups: list[str], what: str = "SRA differences", *, over: str
) -> Correlation:
    """Compute Pearson's r of preferences and something else, with its interval over groups.

    Args:
        x: the preferences, ``[n]``.
        y: what they are compared with, ``[n]``.
        groups: the group of each point, which the interval keeps together.
        what: what the reason of an undefined r calls ``y``.
        over: what the groups are, in the plural.
    """
    found = correlation(x, y, groups=groups, over=over)
    if found.why is None or found.r is not None:
        return found
    return replace(found, why=f"{found.why} (x: preferences, y: {what})")


def trimmed_pearson(x: Floats, y: Floats, groups: list[str], *, over: str) -> Correlation:
    """Compute :func:`pearson` without the points where either value is among the extremes."""
    kept = trimmed(x, y, LOW, HIGH)
    return pearson(x[kept], y[kept], [groups[at] for at in kept.nonzero()[0]], over=over)


def _centred(column: Floats, pairs: Floats) -> Floats:
    """Return a column ``[n]`` minus its mean over the points of the same pair of systems."""
    found: Floats = column.copy()
    for pair in set(pairs.tolist()):
        found[pairs == pair] -= column[pairs == pair].mean()
    return found


def _alpha_as_shown(judgements: Judgements) -> Estimate:
    """Compute alpha with the sides as they were shown; undefined if an item was shown both ways."""
    ratings = numpy.full((len(judgements.annotators), len(judgements.items)), numpy.nan)
    for at, item in enumerate(judgements.items):
        sides = set()
        for row, name in enumerate(judgements.annotators):
            preference = judgements.preferences.get((item, name))
            if preference is not None:
                sides.add((item, name) in judgements.swapped)
                ratings[row, at] = -preference if (item, name) in judgements.swapped else preference
        if len(sides) > 1:
            why = "annotators saw an item with its sides in different orders"
            return Estimate(None, None, None, 0, why)
    groups = judgements.groups(judgements.items)
    return krippendorff_alpha(ratings, groups, over=judgements.over)
