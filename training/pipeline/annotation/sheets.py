"""Blinded sheets: which system stands first, in which order the items come, and the key to it."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..items import Item

Side = Literal["a", "b"]

KEY_FORMAT = "sra_fast.annotation/1"


@dataclass(frozen=True)
class Systems:
    """The two that are compared, and the SRA of their replies.

    Attributes:
        a, b: their names.
        sra_a, sra_b: one an item, None where unknown.
        definition: of SRA; None if there is no SRA.
    """

    a: str
    b: str
    sra_a: Sequence[float | None]
    sra_b: Sequence[float | None]
    definition: str | None = None


@dataclass(frozen=True)
class Sheet:
    """What one annotator is given.

    Attributes:
        annotator: a name, such as ``annotator-1``.
        export: names the export, so that no other key is taken for it.
        items: in the order of the sheet.
        first: per item, the system whose reply stands first.
    """

    annotator: str
    export: str
    items: tuple[Item, ...]
    first: tuple[Side, ...]

    def responses(self, index: int) -> tuple[str, str]:
        """The first and the second reply of an item."""
        item = self.items[index]
        both = (item.a, item.b)
        return both if self.first[index] == "a" else both[::-1]


def make_sheets(
    items: Sequence[Item], annotators: int, seed: int, systems: Systems
) -> tuple[list[Sheet], dict[str, Any]]:
    """A sheet for each annotator, and the key.

    Each system stands first in half of a sheet's items, to within one, and in half of each
    strategy's, to within one. Every second annotator sees the sides of the one before the other
    way round, so that over the two each item is seen from both sides. Everybody's order is another.
    """
    names = [f"annotator-{number}" for number in range(1, annotators + 1)]
    first: dict[str, list[Side]] = {}
    for number, name in enumerate(names):
        if number % 2:
            first[name] = ["b" if side == "a" else "a" for side in first[names[number - 1]]]
        else:
            first[name] = _balanced_sides(items, random.Random(f"{seed} sides {number}"))
    key: dict[str, Any] = {
        "format": KEY_FORMAT,
        "seed": seed,
        "system_a": systems.a,
        "system_b": systems.b,
        "definition": systems.definition,
        "items": {
            item.id: {
                "dialogue": item.dialogue,
                "sra_a": systems.sra_a[index],
                "sra_b": systems.sra_b[index],
                "first": {name: first[name][index] for name in names},
            }
            for index, item in enumerate(items)
        },
    }
    texts = [(item.id, item.a, item.b) for item in items]
    content = json.dumps([key, texts], ensure_ascii=True)
    key["export"] = f"e-{hashlib.sha256(content.encode()).hexdigest()[:12]}"
    sheets = []
    for number, name in enumerate(names):
        order = list(range(len(items)))
        random.Random(f"{seed} order {number}").shuffle(order)
        sheets.append(
            Sheet(
                name,
                key["export"],
                tuple(items[index] for index in order),
                tuple(first[name][index] for index in order),
            )
        )
    return sheets, key


def _balanced_sides(items: Sequence[Item], generator: random.Random) -> list[Side]:
    """Sides in turn along the items, strategy after strategy: balanced in each and over all."""
    strategies = sorted({item.strategy for item in items})
    generator.shuffle(strategies)
    order = list(range(len(items)))
    generator.shuffle(order)
    order.sort(key=lambda index: strategies.index(items[index].strategy))
    sides: list[Side] = ["a", "b"]
    generator.shuffle(sides)
    first: list[Side] = ["a"] * len(items)
    for place, index in enumerate(order):
        first[index] = sides[place % 2]
    return first
