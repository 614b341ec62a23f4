"""Count what the loops that multiply matrices are made of: the kernels' time goes there.

A loop is hot if it multiplies and no smaller loop inside it does. A kernel has up to three: over
tiles that need no mask, over tiles on an edge, and over tiles that add to a span.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from benchmarks.static.control_flow import Instruction, loops
from benchmarks.static.serialised_products import lone_products

CLASSES = {
    "products": r"HMMA|HGMMA|UTC\w*MMA|v_mfma",
    "exponentials": r"MUFU|v_(exp|rcp|log)_f",
    "arithmetic": r"F(FMA|ADD|MUL)2?\b|v_(pk_)?(fma|fmac|add|sub|subrev|mul)_f(16|32|64)",
    "shared memory": r"(LDS|STS|LDSM|STSM|ATOMS)\b|ds_(read|write)",
    "tensor memory": r"(LDT|STT)M\b",
    "global memory": r"(LDG|STG|LDGSTS|LD|ST|UBLKCP|UTMALDG)\b|(buffer|global|flat)_(load|store)",
    "barriers": r"BAR\b|SYNCS|WARPGROUP|(LDG)?DEPBAR|MEMBAR|FENCE|UTCBAR|s_barrier|s_waitcnt",
    "spills": r"(LDL|STL)\b|scratch_(load|store)",
}
OTHER = "other"  # addresses, comparisons, conversions, maxima, shuffles
_CLASSES = {name: re.compile(pattern) for name, pattern in CLASSES.items()}
_PRODUCT = _CLASSES["products"]
_PLAIN_PRODUCT = re.compile(r"FFMA")
MANY = 32  # plain FMAs that make a loop one of products: others have a few


@dataclass(frozen=True)
class HotLoop:
    """The instructions of one hot loop, a turn of which takes one tile.

    Attributes:
        instructions: how many there are.
        by_class: how many there are of each of :data:`CLASSES`, and of the rest.
        lone_products: products (wgmma) that are waited for one by one, two or more in a row.
    """

    instructions: int
    by_class: dict[str, int] = field(default_factory=dict)
    lone_products: int = 0

    @property
    def spills(self) -> int:
        """Return how many instructions load or store what did not fit into registers."""
        return self.by_class.get("spills", 0)


def counts(instructions: Iterable[Instruction]) -> Counter[str]:
    """Return how many instructions there are of each class."""
    return Counter(_class(one.name) for one in instructions)


def hot_loops(program: list[Instruction]) -> list[HotLoop]:
    """Return the hot loops in the order of the program."""
    product, least = _PRODUCT, 1
    if not any(_PRODUCT.match(one.name) for one in program):
        product, least = _PLAIN_PRODUCT, MANY
    multiplying = [
        loop
        for loop in loops(program)
        if sum(product.match(program[at].name) is not None for at in loop) >= least
    ]
    hot = [loop for loop in multiplying if not any(other < loop for other in multiplying)]
    return [_read([program[at] for at in sorted(loop)]) for loop in hot]


def _class(name: str) -> str:
    return next((of for of, pattern in _CLASSES.items() if pattern.match(name)), OTHER)


def _read(body: list[Instruction]) -> HotLoop:
    return HotLoop(len(body), dict(counts(body)), lone_products(body))
