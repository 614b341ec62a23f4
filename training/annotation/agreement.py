"""What judgements say: preference against SRA, how far the annotators agree, and who wins."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy
from numpy.typing import NDArray

from sra_fast.training.annotation.ratings import Judgements
from sra_fast.training.statistics import (
    DRAWS,
    LEVEL,
    Correlation,
    Estimate,
    correlation,
    interval_of_sums,
    rate_interval,
    trimmed,
)

Floats = NDArray[numpy.float64]

SEED = 20240210

LOW, HIGH = 0.01, 0.99  # quantiles that trimming keeps


@dataclass(frozen=True)
class WinRate:
    """Of one system, over all its judgements that are there.

    Attributes:
        wins, ties, losses: counts; a preference of 0 is a tie.
        rates: by how ties count: "rate_ties_half", "rate_ties_lost", "rate_ties_left_out".
    """

    wins: int
    ties: int
    losses: int
    rates: dict[str, Estimate]


@dataclass(frozen=True)
class Agreement:
    """The analysis of judgements.

    Attributes:
        judgements: what it is of.
        pearson, pearson_trimmed: per annotator, preference (x) against SRA difference (y). Trimmed:
            without the points outside the 1st to 99th percentile of either.
        alpha, alpha_trimmed: Krippendorff's alpha for intervals; ``n`` counts the items that two
            annotators or more judged. Trimmed: without the items whose SRA difference lies outside
            the 1st to 99th percentile, or is unknown.
        win_rates: per system.
    """

    judgements: Judgements
    pearson: dict[str, Correlation]
    pearson_trimmed: dict[str, Correlation]
    alpha: Estimate
    alpha_trimmed: Estimate
    win_rates: dict[str, WinRate]

    @property
    def n(self) -> int:
        """Items with a preference of at least one annotator."""
        return len({item for item, _ in self.judgements.preferences})

    @property
    def without_sra(self) -> list[str]:
        """The items whose SRA difference is unknown; no correlation has them."""
        return [name for name, item in self.judgements.items.items() if item.difference is None]


def analyse(judgements: Judgements) -> Agreement:
    """All of it, with 95% intervals over items.

    Raises:
        ValueError: the package krippendorff is missing.
    """
    points = {name: _points(judgements, name) for name in judgements.annotators}
    ratings = _ratings(judgements, list(judgements.items))
    known = {
        item: one.difference for item, one in judgements.items.items() if one.difference is not None
    }
    differences = numpy.array(list(known.values()))
    kept = trimmed(differences, differences, LOW, HIGH)
    middle = [item for item, stays in zip(known, kept, strict=True) if stays]
    systems = dict.fromkeys(
        system for one in judgements.items.values() for system in (one.system_a, one.system_b)
    )
    return Agreement(
        judgements=judgements,
        pearson={name: _pearson(x, y) for name, (x, y) in points.items()},
        pearson_trimmed={name: _trimmed_pearson(x, y) for name, (x, y) in points.items()},
        alpha=krippendorff_alpha(ratings),
        alpha_trimmed=krippendorff_alpha(_ratings(judgements, middle)),
        win_rates={system: _win_rate(judgements, system) for system in systems},
    )


def krippendorff_alpha(ratings: Floats) -> Estimate:
    """Krippendorff's alpha at the level of intervals, with its interval over items.

    With m_i values v of item i, and sums over the n values of items that have two or more:
    alpha = 1 − (n − 1) · Σ_i m_i·S_i/(m_i − 1) / (n·S),   S = Σ v² − (Σ v)²/n, S_i alike.

    Args:
        ratings: ``[annotators, items]``, NaN where there is none.

    Raises:
        ValueError: the package krippendorff is missing.
    """
    try:
        import krippendorff
    except ModuleNotFoundError as error:
        raise ValueError(
            "agreement needs the package 'krippendorff': pip install 'sra_fast[pipeline]'"
        ) from error
    if (~numpy.isnan(ratings)).any(axis=1).sum() < 2:
        return Estimate(None, None, None, 0, "a single annotator; alpha compares two or more")
    paired = ratings[:, (~numpy.isnan(ratings)).sum(axis=0) >= 2]
    items = paired.shape[1]
    if not items:
        return Estimate(None, None, None, 0, "no item was judged by two annotators")
    values = paired[~numpy.isnan(paired)]
    if (values == values[0]).all():
        return Estimate(None, None, None, items, "all preferences are the same: alpha is 0/0")
    alpha = float(krippendorff.alpha(reliability_data=paired, level_of_measurement="interval"))
    m = (~numpy.isnan(paired)).sum(axis=0).astype(numpy.float64)
    v, vv = numpy.nansum(paired, axis=0), numpy.nansum(paired**2, axis=0)
    columns = numpy.stack([m, v, vv, (m * vv - v * v) / (m - 1)], axis=1)
    low, high, left_out, why = interval_of_sums(columns, alpha_of_sums, seed=SEED)
    return Estimate(alpha, low, high, items, why, left_out)


def alpha_of_sums(sums: Floats) -> Floats:
    """Alpha from Σ m, Σ v, Σ v² and Σ_i m_i·S_i/(m_i − 1), ``[draws, 4]``; NaN where it is 0/0."""
    n, v, vv, within = sums.T
    spread = n * vv - v * v  # n·S; exact, as preferences are whole numbers
    undefined = spread == 0
    alpha = 1 - (n - 1) * within / numpy.where(undefined, 1.0, spread)
    return numpy.where(undefined, numpy.nan, alpha)


def to_json(agreement: Agreement) -> dict[str, Any]:
    """As ``sra-fast annotate agree --json`` prints it; what is undefined is null, and in notes."""
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
        "level": LEVEL,
        "method": "percentile bootstrap over items",
        "resamples": DRAWS,
        "seed": SEED,
        "trimmed": [LOW, HIGH],
    }
    return {**result, "intervals": intervals, "notes": notes, "interval": method}


def _interval(one: Correlation | Estimate) -> dict[str, Any]:
    return {"low": one.low, "high": one.high, "n": one.n, "resamples_left_out": one.left_out}


def _points(judgements: Judgements, annotator: str) -> tuple[Floats, Floats]:
    """Preferences and SRA differences of one annotator, where both are known."""
    points = [
        (float(judgements.preferences[item, annotator]), one.difference)
        for item, one in judgements.items.items()
        if (item, annotator) in judgements.preferences and one.difference is not None
    ]
    x, y = numpy.array(points, dtype=numpy.float64).reshape(-1, 2).T
    return x, y


def _pearson(x: Floats, y: Floats) -> Correlation:
    found = correlation(x, y, seed=SEED)
    if found.why is None:
        return found
    return replace(found, why=f"{found.why} (x: preferences, y: SRA differences)")


def _trimmed_pearson(x: Floats, y: Floats) -> Correlation:
    kept = trimmed(x, y, LOW, HIGH)
    return _pearson(x[kept], y[kept])


def _ratings(judgements: Judgements, items: list[str]) -> Floats:
    """``[annotators, items]``, NaN where there is no preference."""
    rows = [
        [judgements.preferences.get((item, name), numpy.nan) for item in items]
        for name in judgements.annotators
    ]
    return numpy.array(rows, dtype=numpy.float64).reshape(len(rows), len(items))


def _win_rate(judgements: Judgements, system: str) -> WinRate:
    """Counts judgements; the intervals draw whole items."""
    outcomes: list[int] = []  # 1 won, 0 tied, -1 lost
    items: list[str] = []
    for (item, _), preference in judgements.preferences.items():
        one = judgements.items[item]
        if system in (one.system_a, one.system_b):
            mine = preference if system == one.system_b else -preference
            outcomes.append((mine > 0) - (mine < 0))
            items.append(item)
    outcome = numpy.array(outcomes, dtype=numpy.int64)
    won, tied, lost = (outcome == 1) * 1.0, (outcome == 0) * 1.0, (outcome == -1) * 1.0
    all_of_them = numpy.ones(len(outcome))
    return WinRate(
        wins=int(won.sum()),
        ties=int(tied.sum()),
        losses=int(lost.sum()),
        rates={
            "rate_ties_half": rate_interval(won + tied / 2, all_of_them, items, seed=SEED),
            "rate_ties_lost": rate_interval(won, all_of_them, items, seed=SEED),
            "rate_ties_left_out": rate_interval(won, won + lost, items, seed=SEED),
        },
    )
