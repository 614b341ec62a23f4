"""Score a family's tiny model with a common beginning computed once and twice, and compare."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import sra_fast
from shrunken_families import TEXT_TOKENS, shrunken
from sra_fast.measure.served import UnservedModelError

PAGE = Path(__file__).resolve().parents[2] / "docs" / "concepts" / "shared-prefixes.md"
TOLERANCE = 1e-5
"""The largest relative difference of a score, and the largest difference of a mass."""

PREFIX, TAILS = 40, (14, 20, 11)
ONCE = "computed once"
_LEFT = "left whole: "


@dataclass(frozen=True)
class SharedOutcome:
    """The end of a family's check.

    Attributes:
        told: "computed once", or "left whole: " and why; None for a family that is not scored.
        score: the largest relative difference of a score.
        mass: the largest difference of a row's mass.
    """

    told: str | None
    score: float = 0.0
    mass: float = 0.0


def shared_outcome(kind: str, model_type: str) -> SharedOutcome:
    """Build a family's tiny model, score sequences that begin alike both ways, and compare."""
    try:
        model = shrunken(kind, model_type)
    except Exception:  # why it cannot be built is said in the page of families
        return SharedOutcome(None)
    try:
        whole = sra_fast.score(model, batch(), keep_rows=True, share_prefixes=False)
    except UnservedModelError:
        return SharedOutcome(None)
    shared = sra_fast.score(model, batch(), keep_rows=True)
    assert shared.row_masses is not None
    assert whole.row_masses is not None
    told = shared.prefixes if shared.prefixes.startswith(_LEFT) else ONCE
    if told == ONCE:
        tokens = 3 * PREFIX + sum(TAILS)
        assert shared.prefixes == f"{tokens - 2 * PREFIX} of {tokens} tokens computed"
    score = ((shared.sra - whole.sra).abs() / whole.sra).max()
    mass = (shared.row_masses - whole.row_masses).abs().max()
    return SharedOutcome(told, float(score), float(mass))


def batch() -> dict[str, Tensor]:
    """Make three sequences with a common beginning; a span lies in it and in the tails."""
    lengths = [PREFIX + tail for tail in TAILS]
    shape = (len(lengths), max(lengths))
    made = {
        "input_ids": torch.zeros(shape, dtype=torch.int64),
        "attention_mask": torch.zeros(shape, dtype=torch.int64),
        "strategy_mask": torch.zeros(shape, dtype=torch.bool),
        "response_mask": torch.zeros(shape, dtype=torch.bool),
    }
    generator = torch.Generator().manual_seed(0)
    words = (TEXT_TOKENS.start, TEXT_TOKENS.stop)
    beginning = torch.randint(*words, (PREFIX,), generator=generator)
    for row, length in enumerate(lengths):
        tail = torch.arange(length - PREFIX) + TEXT_TOKENS.start + 20 * row  # none begins alike
        made["input_ids"][row, :length] = torch.cat([beginning, tail])
        made["attention_mask"][row, :length] = 1
        made["strategy_mask"][row, [4, 5, 33, PREFIX, length - 8]] = True
        made["response_mask"][row, length - 6 : length] = True
    return made


def recorded(page: str) -> dict[tuple[str, str], str]:
    """Return what the page says of each family that is scored."""
    found = {}
    for told, names in re.findall(r"^\| ([^|]+) \| (`.+`) \|$", page, re.M):
        for name, kind in re.findall(r"`([^`]+)`(\*?)", names):
            found["image-text" if kind else "causal", name] = told
    return found
