"""Hold judgements of two systems' replies in the form in which they are analysed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class AnnotatedItem:
    """What is known of two replies that annotators compared.

    Attributes:
        sra_a: the SRA of the reply of system a, or None if unknown.
        sra_b: the SRA of the reply of system b, or None if unknown.
        dialogue: the dialogue that the item was cut from, or None if unknown.
    """

    sra_a: float | None
    sra_b: float | None
    dialogue: str | None

    @property
    def difference(self) -> float | None:
        """Return the SRA of b minus the SRA of a; None if one of them is unknown."""
        if self.sra_a is None or self.sra_b is None:
            return None
        return self.sra_b - self.sra_a


@dataclass(frozen=True)
class Judgements:
    """The judgements of all annotators about all items.

    Attributes:
        system_a: the name of the system that is a in every item.
        system_b: the name of the system that is b in every item.
        items: the items by id; all of them name a dialogue, or none does.
        annotators: the names of the annotators, in the order in which they appear.
        preferences: the preference of each (item, annotator), from -4 to +4, above 0 if b is
            better. A pair that is not there was not judged.
    """

    system_a: str
    system_b: str
    items: dict[str, AnnotatedItem]
    annotators: tuple[str, ...]
    preferences: dict[tuple[str, str], int]

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

    def groups(self, items: Iterable[str]) -> list[str]:
        """Return the group that counts each item as one observation: its dialogue, or itself."""
        return [self.items[item].dialogue or item for item in items]
