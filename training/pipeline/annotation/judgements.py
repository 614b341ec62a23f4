"""Hold judgements of systems' replies, compared two at a time, as they are analysed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class AnnotatedItem:
    """What is known of two replies that annotators compared.

    Attributes:
        system_a: the name of the system whose reply is a.
        system_b: the name of the system whose reply is b.
        sra_a: the SRA of the reply of system a, or None if unknown.
        sra_b: the SRA of the reply of system b, or None if unknown.
        dialogue: the dialogue that the item was cut from, or None if unknown.
    """

    system_a: str
    system_b: str
    sra_a: float | None
    sra_b: float | None
    dialogue: str | None

    @property
    def systems(self) -> tuple[str, str]:
        """Return the names of systems a and b."""
        return self.system_a, self.system_b

    @property
    def difference(self) -> float | None:
        """Return the SRA of b minus the SRA of a; None if one of them is unknown."""
        if self.sra_a is None or self.sra_b is None:
            return None
        return self.sra_b - self.sra_a

    def turned(self) -> AnnotatedItem:
        """Return the same item with a and b swapped."""
        return AnnotatedItem(self.system_b, self.system_a, self.sra_b, self.sra_a, self.dialogue)


@dataclass(frozen=True)
class Judgements:
    """The judgements of all annotators about all items.

    Attributes:
        items: the items by id; all of them name a dialogue, or none does. The items that compare
            the same two systems have them in the same order, see :func:`aligned`.
        annotators: the names of the annotators, in the order in which they appear.
        preferences: the preference of each (item, annotator), from -4 to +4, above 0 if b is
            better. A pair that is not there was not judged.
        swapped: the (item, annotator) whose annotator saw b first and a second.
    """

    items: dict[str, AnnotatedItem]
    annotators: tuple[str, ...]
    preferences: dict[tuple[str, str], int]
    swapped: frozenset[tuple[str, str]]

    @property
    def systems(self) -> tuple[str, ...]:
        """Return the names of all systems, in the order in which they appear."""
        return tuple(dict.fromkeys(name for one in self.items.values() for name in one.systems))

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """Return the pairs of systems that are compared, in the order in which they appear."""
        return tuple(dict.fromkeys(one.systems for one in self.items.values()))

    @property
    def gaps(self) -> list[tuple[str, str]]:
        """Return every (item, annotator) without a preference."""
        grid = [(item, annotator) for item in self.items for annotator in self.annotators]
        return [place for place in grid if place not in self.preferences]

    @property
    def by_dialogue(self) -> bool:
        """Tell whether the dialogue of every item is known."""
        return all(item.dialogue is not None for item in self.items.values())

    @property
    def over(self) -> str:
        """Return what intervals are over: "dialogues", or "items" if no dialogue is known."""
        return "dialogues" if self.by_dialogue else "items"

    def differences(self, pair: tuple[str, str]) -> list[float]:
        """Return the SRA differences of a pair's items, where they are known."""
        found = (one.difference for one in self.items.values() if one.systems == pair)
        return [difference for difference in found if difference is not None]

    def groups(self, items: Iterable[str]) -> list[str]:
        """Return the group that counts each item as one observation: its dialogue, or itself."""
        return [self.items[item].dialogue or item for item in items]


def aligned(judgements: Judgements) -> Judgements:
    """Return the same judgements with all pairs of systems turned in one direction.

    One pair alone stays as it is, since its direction changes no coefficient. Of several pairs each
    is turned so that b is the system with the higher mean SRA, where SRA is known: a direction that
    does not depend on the order of the lines.

    Args:
        judgements: judgements in which the items of each pair are alike.
    """
    backwards = {pair for pair in judgements.pairs if sum(judgements.differences(pair)) < 0}
    if len(judgements.pairs) < 2 or not backwards:
        return judgements
    turned = {item for item, one in judgements.items.items() if one.systems in backwards}
    places = {(item, name) for item in turned for name in judgements.annotators}
    return Judgements(
        items={
            item: one.turned() if item in turned else one for item, one in judgements.items.items()
        },
        annotators=judgements.annotators,
        preferences={
            place: -value if place in places else value
            for place, value in judgements.preferences.items()
        },
        swapped=judgements.swapped ^ places,
    )
