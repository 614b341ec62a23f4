"""Simulate how often "a head beyond chance" is found: where there is none, and where there is one.

Dialogues affect the mass of every head, and, independently, how often labels are true. The labels
of the masses of one head may be planted: the logarithm of its mass is higher where they are true.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy

from benchmarks.statistics.coverage import SEED, SIMULATIONS
from sra_fast.training.pipeline.evaluation.heads import HeadAnalysis, analyse_heads

LAYERS, HEADS, STRATEGIES, ROWS = 6, 4, 4, 4
PLANTED = (2, 1)
EFFECTS = ((0.0, 0.0), (0.7, 1.5), (1.4, 3.0))
"""Standard deviations of what dialogues add to the logarithm of masses, and to labels' log odds."""

RAISED = (0.2, 0.35, 0.5)
"""Amounts that a planted label adds to the logarithm of the mass, whose deviation is 0.5."""


@dataclass(frozen=True)
class Found:
    """The rates at which the threshold finds a head.

    Attributes:
        dialogues: the number of dialogues, half of which measure.
        on_mass, on_labels: the effects of dialogues, as in :data:`EFFECTS`.
        raised: what the planted label adds to the logarithm of one head's mass; 0 for none.
        simulations: how many data sets were drawn.
        judged: how many of them got a verdict.
        any_head: the share of those with a head beyond chance.
        planted_head: the share of those with the planted head beyond chance; None without one.
        power: the mean of what the analysis gives as its power, for heads of AUC 0.7.
    """

    dialogues: int
    on_mass: float
    on_labels: float
    raised: float
    simulations: int
    judged: int
    any_head: float
    planted_head: float | None
    power: float


def settings() -> Iterator[tuple[int, float, float, float]]:
    """Yield dialogues, effects on masses and labels, and what is planted, for each line."""
    for dialogues in (30, 60):
        for on_mass, on_labels in EFFECTS:
            yield dialogues, on_mass, on_labels, 0.0
    for raised in RAISED:
        yield 60, *EFFECTS[1], raised


def found(
    dialogues: int,
    on_mass: float,
    on_labels: float,
    raised: float,
    simulations: int = SIMULATIONS,
) -> Found:
    """Simulate one line of the table."""
    generator = numpy.random.default_rng([SEED, dialogues, int(10 * on_mass), int(100 * raised)])
    analyses: list[HeadAnalysis] = []
    for seed in range(simulations):
        data = _draw(generator, dialogues, on_mass, on_labels, raised)
        one = analyse_heads(**data, best=0, permutations=100, draws=20, seed=seed)
        if one.beyond is not None:
            analyses.append(one)
    layer, head = PLANTED
    hit = [
        abs((one.measured[layer][head] or 0.5) - 0.5) > (one.threshold or 1.0) for one in analyses
    ]
    return Found(
        dialogues,
        on_mass,
        on_labels,
        raised,
        simulations,
        len(analyses),
        round(sum((one.beyond or 0) > 0 for one in analyses) / len(analyses), 3),
        round(sum(hit) / len(hit), 3) if raised else None,
        round(sum(one.power or 0.0 for one in analyses) / len(analyses), 3),
    )


def _draw(
    generator: numpy.random.Generator,
    dialogues: int,
    on_mass: float,
    on_labels: float,
    raised: float,
) -> dict[str, Any]:
    cells = STRATEGIES * ROWS
    odds = on_labels * generator.normal(size=(dialogues, 1)) - 1.2
    labels = generator.random((dialogues, cells)) < 1 / (1 + numpy.exp(-odds))
    mass = on_mass * generator.normal(size=(dialogues, 1, LAYERS, HEADS))
    mass = mass + 0.5 * generator.normal(size=(dialogues, cells, LAYERS, HEADS)) - 6
    mass[:, :, PLANTED[0], PLANTED[1]] += raised * labels
    dialogue, strategy, row = (
        part.ravel().tolist() for part in numpy.indices((dialogues, STRATEGIES, ROWS))
    )
    return {
        "mass": numpy.exp(mass).reshape(-1, LAYERS, HEADS),
        "adherent": labels.ravel(),
        "dialogue": dialogue,
        "strategy": strategy,
        "row": row,
        "item": list(zip(dialogue, strategy, strict=True)),
    }
