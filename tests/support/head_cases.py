"""Make masses of heads and labels of responses, with and without a head that knows the label."""

from __future__ import annotations

from typing import Any

import numpy

STRATEGIES = ("Affirmation", "Reflection of feelings", "Question")


def head_case(signal: float = 0.0, dialogues: int = 60, seed: int = 7) -> dict[str, Any]:
    """Make masses of which head (1, 2) knows who adheres: 3 items per dialogue, two conditions.

    Strategies and conditions differ in mass; strategies and items differ in adherence; heads differ
    in nothing else.
    """
    generator = numpy.random.default_rng(seed)
    items = 3 * dialogues
    asked = generator.integers(3, size=items)
    willing = numpy.array([0.8, 0.5, 0.2])[asked] + generator.uniform(-0.2, 0.2, items)
    adherent = generator.random((2, items)) < willing
    mass = generator.random((2, items, 3, 4)) + generator.random((1, items, 3, 4))
    mass[:, :, 1, 2] += signal * adherent
    mass += 3 * asked[:, None, None]  # a longer name
    mass[1] += 7  # a template that is attended to more
    return {
        "mass": mass.reshape(2 * items, 3, 4),
        "adherent": adherent.ravel(),
        "dialogue": [f"d{i // 3}" for i in range(items)] * 2,
        "row": ["standard"] * items + ["c1_hf"] * items,
        "strategy": [STRATEGIES[one] for one in asked] * 2,
        "item": [f"i{i}" for i in range(items)] * 2,
    }


def dialogue_noise(
    seed: int, *, dialogues: int = 30, planted: float = 0.0, cells: int = 4
) -> dict[str, Any]:
    """Make masses and labels that go with the dialogue, each for itself, and nothing else.

    Every dialogue answers one item for each of four strategies, under four rows. ``planted`` raises
    the logarithm of the mass of head (2, 1) where the label is true.
    """
    generator = numpy.random.default_rng([seed, dialogues])
    on_mass = 0.7 * generator.normal(size=(dialogues, 1, 6, 4))
    on_label = 1.5 * generator.normal(size=(dialogues, 1))
    adherent = generator.random((dialogues, 4 * cells)) < 1 / (1 + numpy.exp(1.2 - on_label))
    log_mass = on_mass + 0.5 * generator.normal(size=(dialogues, 4 * cells, 6, 4)) - 6
    log_mass[:, :, 2, 1] += planted * adherent
    cell = [(strategy, row) for strategy in range(4) for row in range(cells)] * dialogues
    dialogue = [n // (4 * cells) for n in range(len(cell))]
    return {
        "mass": numpy.exp(log_mass).reshape(-1, 6, 4),
        "adherent": adherent.ravel(),
        "dialogue": dialogue,
        "strategy": [strategy for strategy, _ in cell],
        "row": [row for _, row in cell],
        "item": [(one, strategy) for one, (strategy, _) in zip(dialogue, cell, strict=True)],
    }
