"""Analyse judgements: preference against SRA, the agreement of the annotators, and win rates."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy

from sra_fast.tools.coefficients import Floats
from sra_fast.tools.estimates import Correlation, Estimate, interval_settings
from sra_fast.tools.intervals import correlation, rate_interval, trimmed

from .alpha import krippendorff_alpha
from .judgements import Judgements

LOW, HIGH = 0.01, 0.99  # quantiles between which trimming keeps values


@dataclass(frozen=True)
class WinRate:
    """How often one system won, over all judgements.

    Attributes:
        wins: the number of judgements that prefer this system.
        ties: the number of judgements with a preference of 0.
        losses: the number of judgements that prefer the other system.
        rates: the share of wins, by how ties count: as half a win ("rate_ties_half"), as a loss
            ("rate_ties_lost"), or not at all ("rate_ties_left_out").
    """

    wins: int
    ties: int
    losses: int
    rates: dict[str, Estimate]


@dataclass(frozen=True)
class Agreement:
    """The analysis of judgements.

    Attributes:
        judgements: the judgements that were analysed.
        pearson: Pearson's r between preference (x) and SRA difference (y), by annotator.
        pearson_trimmed: the same without the points where either value lies outside its 1st to
            99th percentile.
        alpha: Krippendorff's alpha at the interval level; its ``n`` counts the items that two
            annotators or more judged.
        alpha_trimmed: the same without the items whose SRA difference is unknown or lies outside
            the 1st to 99th percentile.
        win_rates: how often each system won, by its name.
    """

    judgements: Judgements
    pearson: dict[str, Correlation]
    pearson_trimmed: dict[str, Correlation]
    alpha: Estimate
    alpha_trimmed: Estimate
    win_rates: dict[str, WinRate]

    @property
    def n(self) -> int:
        """Return the number of items that at least one annotator judged."""
        return len({item for item, _ in self.judgements.preferences})

    @property
    def over(self) -> str:
        """Return what the intervals are over: "dialogues", or "items" if no dialogue is known."""
        return self.judgements.over

    @property
    def without_sra(self) -> list[str]:
        """Return the ids of items whose SRA difference is unknown; no correlation uses them."""
        return [name for name, item in self.judgements.items.items() if item.difference is None]


def analyse(judgements: Judgements) -> Agreement:
    """Analyse judgements, with 95% intervals over dialogues, or over items if none is known.

    Args:
        judgements: the judgements of all annotators.

    Raises:
        ValueError: the package krippendorff is not installed.
    """
    points = {name: _points(judgements, name) for name in judgements.annotators}
    known = {
        item: one.difference for item, one in judgements.items.items() if one.difference is not None
    }
    differences = numpy.array(list(known.values()))
    kept = trimmed(differences, differences, LOW, HIGH)
    middle = [item for item, stays in zip(known, kept, strict=True) if stays]
    return Agreement(
        judgements=judgements,
        pearson={name: _pearson(*columns, judgements.over) for name, columns in points.items()},
        pearson_trimmed={
            name: _trimmed_pearson(*columns, judgements.over) for name, columns in points.items()
        },
        alpha=_alpha(judgements, list(judgements.items)),
        alpha_trimmed=_alpha(judgements, middle),
        win_rates={
            judgements.system_a: _win_rate(judgements, -1),
            judgements.system_b: _win_rate(judgements, 1),
        },
    )


def to_json(agreement: Agreement) -> dict[str, Any]:
    """Return the analysis as an object of JSON: counts, correlations, alphas and win rates.

    A value that is undefined is None, and its reason stands under "notes".

    Args:
        agreement: the analysis of judgements.
    """
    judgements = agreement.judgements
    notes: dict[str, Any] = {}
    intervals: dict[str, Any] = {}
    result: dict[str, Any] = {
        "n": agreement.n,
        "annotators": list(judgements.annotators),
        "ratings": len(judgements.preferences),
        "missing": {
            "preferences": len(judgements.gaps),
            "of": len(judgements.items) * len(judgements.annotators),
            "places": [{"item": i, "annotator": a} for i, a in judgements.gaps],
            "items_without_sra": agreement.without_sra,
        },
    }
    for name in ("pearson", "pearson_trimmed"):
        found: dict[str, Correlation] = getattr(agreement, name)
        result[name] = {annotator: one.r for annotator, one in found.items()}
        intervals[name] = {annotator: _interval(one) for annotator, one in found.items()}
        reasons = {annotator: one.why for annotator, one in found.items() if one.why}
        if reasons:
            notes[name] = reasons
    for name in ("alpha", "alpha_trimmed"):
        estimate: Estimate = getattr(agreement, name)
        result[name], intervals[name] = estimate.value, _interval(estimate)
        if estimate.why:
            notes[name] = estimate.why
    result["win_rate"] = {}
    for system, one in agreement.win_rates.items():
        result["win_rate"][system] = {
            "wins": one.wins,
            "ties": one.ties,
            "losses": one.losses,
            **{name: rate.value for name, rate in one.rates.items()},
            "intervals": {name: _interval(rate) for name, rate in one.rates.items()},
        }
        reasons = {name: rate.why for name, rate in one.rates.items() if rate.why}
        if reasons:
            notes.setdefault("win_rate", {})[system] = reasons
    method = {
        **interval_settings("correlation", "share", "other", over=agreement.over),
        "trimmed": [LOW, HIGH],
    }
    return {**result, "intervals": intervals, "notes": notes, "interval": method}


def _interval(one: Correlation | Estimate) -> dict[str, Any]:
    return {"low": one.low, "high": one.high, "n": one.n}


def _points(judgements: Judgements, annotator: str) -> tuple[Floats, Floats, list[str]]:
    """Return preferences and SRA differences of one annotator where both are known, with groups."""
    points = {
        item: (float(judgements.preferences[item, annotator]), one.difference)
        for item, one in judgements.items.items()
        if (item, annotator) in judgements.preferences and one.difference is not None
    }
    x, y = numpy.array(list(points.values()), dtype=numpy.float64).reshape(-1, 2).T
    return x, y, judgements.groups(points)


def _pearson(x: Floats, y: Floats, groups: list[str], over: str) -> Correlation:
    found = correlation(x, y, groups=groups, over=over)
    if found.why is None or found.r is not None:
        return found
    return replace(found, why=f"{found.why} (x: preferences, y: SRA differences)")


def _trimmed_pearson(x: Floats, y: Floats, groups: list[str], over: str) -> Correlation:
    kept = trimmed(x, y, LOW, HIGH)
    return _pearson(x[kept], y[kept], [groups[at] for at in kept.nonzero()[0]], over)


def _alpha(judgements: Judgements, items: list[str]) -> Estimate:
    return krippendorff_alpha(
        _ratings(judgements, items), judgements.groups(items), over=judgements.over
    )


def _ratings(judgements: Judgements, items: list[str]) -> Floats:
    """Return the preferences as ``[annotators, items]``, NaN where there is none."""
    rows = [
        [judgements.preferences.get((item, name), numpy.nan) for item in items]
        for name in judgements.annotators
    ]
    return numpy.array(rows, dtype=numpy.float64).reshape(len(rows), len(items))


def _win_rate(judgements: Judgements, sign: int) -> WinRate:
    """Count the wins of b (sign 1) or of a (sign -1), with intervals over groups of items."""
    mine = sign * numpy.array(list(judgements.preferences.values()), dtype=numpy.int64)
    groups = judgements.groups(item for item, _ in judgements.preferences)
    won, tied, lost = (mine > 0) * 1.0, (mine == 0) * 1.0, (mine < 0) * 1.0
    all_of_them, over = numpy.ones(len(mine)), judgements.over
    return WinRate(
        wins=int(won.sum()),
        ties=int(tied.sum()),
        losses=int(lost.sum()),
        rates={
            "rate_ties_half": rate_interval(won + tied / 2, all_of_them, groups, over=over),
            "rate_ties_lost": rate_interval(won, all_of_them, groups, over=over),
            "rate_ties_left_out": rate_interval(won, won + lost, groups, over=over),
        },
    )
