"""Count wins, ties and losses over items, with intervals and the judge's preference for a place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sra_fast.tools import estimates
from sra_fast.tools.intervals import rate_interval

from ..items import Item
from .judge_prompt import Order
from .verdicts import Verdict

Outcome = Literal["win", "tie", "loss"]
"""What came of an item for system A: it won, neither won, or it lost."""


@dataclass(frozen=True)
class Judged:
    """The verdicts of the judge about one item.

    Attributes:
        item: the two replies that were compared.
        ab: the verdict with the reply of A in the first place; None if there is none.
        ba: the verdict with the reply of B in the first place; None if there is none.
        missing: whether a request about the item failed for good, or was never made.
    """

    item: Item
    ab: Verdict | None
    ba: Verdict | None
    missing: bool = False

    @property
    def undecided(self) -> bool:
        """Tell whether the judge answered both questions, and an answer had no verdict."""
        return not self.missing and (self.ab is None or self.ba is None)

    @property
    def outcome(self) -> Outcome | None:
        """Return the outcome for A: a win or loss if both orders agree on it, else a tie.

        None if the item is missing or undecided.
        """
        if self.missing or self.ab is None or self.ba is None:
            return None
        one, other = _for_a(self.ab, "ab"), _for_a(self.ba, "ba")
        return one if one == other else "tie"

    @property
    def orders_disagree(self) -> bool:
        """Tell whether the two orders have different outcomes; False if a verdict is missing."""
        if self.ab is None or self.ba is None:
            return False
        return _for_a(self.ab, "ab") != _for_a(self.ba, "ba")


@dataclass(frozen=True)
class Share:
    """How many of the decided items had one outcome.

    Attributes:
        count: the number of those items.
        percent: their share of the decided items, in percent; None if no item is decided.
        low: the lower end of the 95% interval, in percent; None with fewer than two dialogues.
        high: the upper end of that interval, in percent, or None like ``low``.
        why: the reason why one of these is None; None if none of them is.
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
        items: the number of items in the group.
        decided: the number of items with an outcome.
        undecided: the ids of items with an answer that had no verdict; they count for nobody.
        missing: the ids of items that lack an answer.
        identical: the ids of items whose two replies are the same text; they count like others.
        wins: how often A won, over the decided items.
        ties: how often neither won, over the decided items.
        losses: how often A lost, over the decided items.
        first_place: how many verdicts about decided items preferred the reply in the first place.
        second_place: how many of them preferred the reply in the second place.
        first_percent: ``first_place`` as a percentage of both, 50 for a judge that prefers no
            place; None if every verdict was a tie.
        disagreements: the number of decided items whose two orders had different outcomes.
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
    """Return how the intervals are computed, as values of JSON."""
    return estimates.interval_settings("share")


def tally(judged: Sequence[Judged]) -> Tally:
    """Count the outcomes of a group of items; percentages are of the decided ones.

    Args:
        judged: the verdicts about each item of the group.
    """
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
    """Count the outcomes for each strategy, in the order of the strategies' names.

    Args:
        judged: the verdicts about each item.
    """
    groups: dict[str, list[Judged]] = {}
    for one in judged:
        groups.setdefault(one.item.strategy, []).append(one)
    return {strategy: tally(groups[strategy]) for strategy in sorted(groups)}


def _for_a(verdict: Verdict, order: Order) -> Outcome:
    if verdict == "tie":
        return "tie"
    return "win" if (verdict == "first") == (order == "ab") else "loss"


def _share(outcome: Outcome, decided: Sequence[Judged]) -> Share:
    """Return how often an outcome occurs, with an interval.

    Items of one dialogue resemble each other, so a dialogue counts as one observation.
    """
    hits = [float(one.outcome == outcome) for one in decided]
    dialogues = [one.item.dialogue for one in decided]
    found = rate_interval(hits, [1.0] * len(hits), dialogues)
    return Share(
        count=round(sum(hits)),
        percent=_percent(found.value),
        low=_percent(found.low),
        high=_percent(found.high),
        why=found.why,
    )


def _percent(rate: float | None) -> float | None:
    return None if rate is None else 100 * rate
