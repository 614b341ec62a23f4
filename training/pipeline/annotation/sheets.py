"""Make blinded sheets, with the replies of each item and the items themselves in random order."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..items import Item

Side = Literal["a", "b"]
"""One of the two systems that are compared."""

KEY_FORMAT = "sra_fast.annotation/1"


@dataclass(frozen=True)
class Systems:
    """The names of the two systems that are compared, with the SRA of their replies.

    Attributes:
        a: the name of the first system.
        b: the name of the second system.
        sra_a: the SRA of each item's reply by a, None where unknown.
        sra_b: the SRA of each item's reply by b, None where unknown.
        definition: the name of the definition of SRA; None if no SRA is known.
    """

    a: str
    b: str
    sra_a: Sequence[float | None]
    sra_b: Sequence[float | None]
    definition: str | None = None


@dataclass(frozen=True)
class Sheet:
    """The sheet that one annotator fills in.

    Attributes:
        annotator: the name of the annotator, such as ``annotator-1``.
        export: the name of the export, so that the sheet is read with its own key only.
        items: the items, in the order of the sheet.
        first: the system whose reply stands first in each item.
    """

    annotator: str
    export: str
    items: tuple[Item, ...]
    first: tuple[Side, ...]

    def responses(self, index: int) -> tuple[str, str]:
        """Return the first and the second reply of an item, as the annotator sees them.

        Args:
            index: the place of the item in the sheet, from 0.
        """
        item = self.items[index]
        both = (item.a, item.b)
        return both if self.first[index] == "a" else both[::-1]


def make_sheets(
    items: Sequence[Item], annotators: int, seed: int, systems: Systems
) -> tuple[list[Sheet], dict[str, Any]]:
    """Make a sheet for each annotator, and the key to all sheets.

    In each sheet, each system stands first in half of the items, to within one, and in half of the
    items of each strategy, to within one. Every second annotator sees the two replies of each item
    in the opposite order of the annotator before. Every sheet has the items in an order of its own.

    Args:
        items: the items to judge.
        annotators: the number of annotators.
        seed: seed of every draw.
        systems: the names of the two systems and the SRA of their replies.

    Returns:
        The sheets, and the key as values of JSON.
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
    """Return the system that stands first in each item, balanced by strategy and over all items.

    The two systems alternate along the items, which are ordered by strategy.
    """
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
