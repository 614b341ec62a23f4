"""Analyse judgements: preference against SRA, the agreement of the annotators, and win rates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy

from sra_fast.tools.coefficients import Floats
from sra_fast.tools.estimates import Correlation, Estimate, interval_settings
from sra_fast.tools.intervals import rate_interval, trimmed

from .alpha import krippendorff_alpha
from .judgements import Judgements
from .sides import HIGH, LOW, Explained, explain, pearson, points_of, trimmed_pearson


@dataclass(frozen=True)
class WinRate:
    """How often one system won, over all judgements that compare it.

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
        explained: how much of r the comparison alone explains.
        win_rates: how often each system won, by its name.
        pairs: how often each system of a pair won against the other, by the pair.
    """

    judgements: Judgements
    pearson: dict[str, Correlation]
    pearson_trimmed: dict[str, Correlation]
    alpha: Estimate
    alpha_trimmed: Estimate
    explained: Explained
    win_rates: dict[str, WinRate]
    pairs: dict[tuple[str, str], dict[str, WinRate]]

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
    points = {name: points_of(judgements, name) for name in judgements.annotators}
    known = {
        item: one.difference for item, one in judgements.items.items() if one.difference is not None
    }
    differences = numpy.array(list(known.values()))
    kept = trimmed(differences, differences, LOW, HIGH)
    middle = [item for item, stays in zip(known, kept, strict=True) if stays]
    return Agreement(
        judgements=judgements,
        pearson={
            name: pearson(one.preferences, one.differences, one.groups, over=one.over)
            for name, one in points.items()
        },
        pearson_trimmed={
            name: trimmed_pearson(one.preferences, one.differences, one.groups, over=one.over)
            for name, one in points.items()
        },
        alpha=_alpha(judgements, list(judgements.items)),
        alpha_trimmed=_alpha(judgements, middle),
        explained=explain(judgements, points),
        win_rates={name: _win_rate(judgements, name) for name in judgements.systems},
        pairs={
            pair: {name: _win_rate(judgements, name, pair) for name in pair}
            for pair in judgements.pairs
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
        "systems": list(judgements.systems),
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
    result["comparison"] = agreement.explained.to_json()
    result["pairs"] = [
        {
            "systems": list(pair),
            "items": sum(one.systems == pair for one in judgements.items.values()),
            "win_rate": {name: _win_json(one) for name, one in found.items()},
        }
        for pair, found in agreement.pairs.items()
    ]
    result["win_rate"] = {}
    for system, one in agreement.win_rates.items():
        result["win_rate"][system] = _win_json(one)
        reasons = {name: rate.why for name, rate in one.rates.items() if rate.why}
        if reasons:
            notes.setdefault("win_rate", {})[system] = reasons
    method = {
        **interval_settings("correlation", "share", "other", over=agreement.over),
        "trimmed": [LOW, HIGH],
    }
    return {**result, "intervals": intervals, "notes": notes, "interval": method}


def _win_json(one: WinRate) -> dict[str, Any]:
    return {
        "wins": one.wins,
        "ties": one.ties,
        "losses": one.losses,
        **{name: rate.value for name, rate in one.rates.items()},
        "intervals": {name: _interval(rate) for name, rate in one.rates.items()},
    }


def _interval(one: Correlation | Estimate) -> dict[str, Any]:
    return {"low": one.low, "high": one.high, "n": one.n}


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


def _win_rate(judgements: Judgements, system: str, pair: tuple[str, str] | None = None) -> WinRate:
    """Count the wins of a system, in one pair or all, with intervals over groups."""
    places = [
        (item, annotator)
        for item, annotator in judgements.preferences
        if system in judgements.items[item].systems
        and pair in (None, judgements.items[item].systems)
    ]
    signs = [1 if system == judgements.items[item].system_b else -1 for item, _ in places]
    preferences = [judgements.preferences[place] for place in places]
    mine = numpy.array(signs, dtype=numpy.int64) * numpy.array(preferences, dtype=numpy.int64)
    groups = judgements.groups(item for item, _ in places)
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
