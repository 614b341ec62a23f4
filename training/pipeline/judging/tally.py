"""Wins, ties and losses over items, with intervals, and what the judge does with places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sra_fast.tools.bootstrap import LEVEL, REPORT_DRAWS, REPORT_SEED, rate_interval

from ..items import Item
from .judge_prompt import Order, Verdict

Outcome = Literal["win", "tie", "loss"]
"""Of system A."""


@dataclass(frozen=True)
class Judged:
    """What came of an item.

    Attributes:
        item: the item.
        ab, ba: the verdicts with A and with B in the first place; None if the judge named neither.
        missing: whether a request failed for good, or was never made.
    """

    item: Item
    ab: Verdict | None
    ba: Verdict | None
    missing: bool = False

    @property
    def undecided(self) -> bool:
        """Whether the judge answered, but named neither in one order at least."""
        return not self.missing and (self.ab is None or self.ba is None)

    @property
    def outcome(self) -> Outcome | None:
        """A system wins that is preferred in both orders; anything else is a tie.

        None if it is missing or undecided.
        """
        if self.missing or self.ab is None or self.ba is None:
            return None
        one, other = _for_a(self.ab, "ab"), _for_a(self.ba, "ba")
        return one if one == other else "tie"

    @property
    def orders_disagree(self) -> bool:
        """Whether the orders name different outcomes; False if one is not there."""
        if self.ab is None or self.ba is None:
            return False
        return _for_a(self.ab, "ab") != _for_a(self.ba, "ba")


@dataclass(frozen=True)
class Share:
    """How often something happened.

    Attributes:
        count: of the decided items.
        percent: of the decided items; None if there are none.
        low, high: 95% interval of it; None with fewer than two dialogues, or if all dialogues have
            the same share, of which the bootstrap cannot say how far it is from the truth.
        why: the reason why one of them is None.
    """

    count: int
    percent: float | None
    low: float | None
    high: float | None
    why: str | None


@dataclass(frozen=True)
class Tally:
    """The result over a group of items.

    Attributes:
        items: in the group.
        decided: with an outcome.
        undecided: ids of those whose judge named neither; they count for nobody.
        missing: ids of those that lack an answer.
        identical: ids of those whose two replies are the same text; they are judged like others.
        wins, ties, losses: of A, over the decided.
        first_place, second_place: requests of the decided items whose verdict was for it.
        first_percent: ``first_place`` out of both, 50 for a judge without a bias; None if no
            verdict was for a place.
        disagreements: decided items whose two orders named different outcomes.
    """

    items: int
    decided: int
    undecided: tuple[str, ...]
    missing: tuple[str, ...]
    identical: tuple[str, ...]
    wins: Share
    ties: Share
    losses: Share
    first_place: int
    second_place: int
    first_percent: float | None
    disagreements: int


def interval_settings() -> dict[str, Any]:
    """How the intervals come about, as JSON can say it."""
    method = "percentile bootstrap over dialogues"
    return {"level": LEVEL, "method": method, "resamples": REPORT_DRAWS, "seed": REPORT_SEED}


def tally(judged: Sequence[Judged]) -> Tally:
    """Counts a group. Percentages are of the decided items."""
    decided = [one for one in judged if one.outcome is not None]
    verdicts = [verdict for one in decided for verdict in (one.ab, one.ba)]
    first, second = verdicts.count("first"), verdicts.count("second")
    return Tally(
        items=len(judged),
        decided=len(decided),
        undecided=tuple(one.item.id for one in judged if one.undecided),
        missing=tuple(one.item.id for one in judged if one.missing),
        identical=tuple(one.item.id for one in judged if one.item.a == one.item.b),
        wins=_share("win", decided),
        ties=_share("tie", decided),
        losses=_share("loss", decided),
        first_place=first,
        second_place=second,
        first_percent=100 * first / (first + second) if first + second else None,
        disagreements=sum(one.orders_disagree for one in decided),
    )


def tally_by_strategy(judged: Sequence[Judged]) -> dict[str, Tally]:
    """The same for each strategy, in the order of their names."""
    groups: dict[str, list[Judged]] = {}
    for one in judged:
        groups.setdefault(one.item.strategy, []).append(one)
    return {strategy: tally(groups[strategy]) for strategy in sorted(groups)}


def _for_a(verdict: Verdict, order: Order) -> Outcome:
    if verdict == "tie":
        return "tie"
    return "win" if (verdict == "first") == (order == "ab") else "loss"


def _share(outcome: Outcome, decided: Sequence[Judged]) -> Share:
    """Items of one dialogue resemble each other, so whole dialogues are drawn."""
    hits = [float(one.outcome == outcome) for one in decided]
    dialogues = [one.item.dialogue for one in decided]
    found = rate_interval(hits, [1.0] * len(hits), dialogues, draws=REPORT_DRAWS, seed=REPORT_SEED)
    return Share(
        count=round(sum(hits)),
        percent=_percent(found.value),
        low=_percent(found.low),
        high=_percent(found.high),
        why=found.why,
    )


def _percent(rate: float | None) -> float | None:
    return None if rate is None else 100 * rate
