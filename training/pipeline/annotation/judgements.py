"""Judgements of two systems' replies, as they are analysed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Item:
    """Two replies that were compared.

    Attributes:
        sra_a, sra_b: if known.
        dialogue: what the item was cut from, if known.
    """

    sra_a: float | None
    sra_b: float | None
    dialogue: str | None

    @property
    def difference(self) -> float | None:
        """SRA of b less that of a."""
        if self.sra_a is None or self.sra_b is None:
            return None
        return self.sra_b - self.sra_a


@dataclass(frozen=True)
class Judgements:
    """Everything that was judged.

    Attributes:
        system_a, system_b: a and b of every item.
        items: by id; all of them name a dialogue, or none does.
        annotators: in the order in which they appear.
        preferences: (item, annotator) to -4 … +4, above 0 if b is better. What is not there was
            not judged.
    """

    system_a: str
    system_b: str
    items: dict[str, Item]
    annotators: tuple[str, ...]
    preferences: dict[tuple[str, str], int]

    @property
    def gaps(self) -> list[tuple[str, str]]:
        """Every (item, annotator) without a preference."""
        grid = [(item, annotator) for item in self.items for annotator in self.annotators]
        return [place for place in grid if place not in self.preferences]

    @property
    def by_dialogue(self) -> bool:
        """Whether it is known which items were cut from one dialogue."""
        return all(item.dialogue is not None for item in self.items.values())

    def groups(self, items: Iterable[str]) -> list[str]:
        """What intervals draw as one: the dialogue of each item, or the item itself."""
        return [self.items[item].dialogue or item for item in items]
