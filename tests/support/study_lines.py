"""Make lines of steering studies: one by its numbers, and many with a known effect."""

from __future__ import annotations

from typing import Any

import numpy

from sra_fast.training.pipeline.steering.study_records import StudyRecord
from sra_fast.training.pipeline.steering.study_settings import UNSTEERED


def study_record(
    log_p: list[list[float]], own: list[int], name: str = "a", **more: Any
) -> StudyRecord:
    """Return a line of the unsteered model for replies of two tokens each, changed as said."""
    given = {
        "dialogue": name,
        "group": name,
        "setting": UNSTEERED,
        "part": None,
        "span": "strategy",
        "bias": None,
        "share": None,
        "knock_out": False,
        "turns": list(range(1, len(own) + 1)),
        "own": own,
        "tokens": [2] * len(own),
        "log_p": log_p,
    }
    return StudyRecord(**{**given, **more})


def synthetic_records(effect: float, seed: int = 0, dialogues: int = 40) -> list[StudyRecord]:
    """Return dialogues of six replies, whose log p gains ``effect`` under their own strategy.

    Dialogues differ in which strategies' prompts suit them, and in which strategies they use.
    """
    draw = numpy.random.default_rng(seed)
    found = []
    for number in range(dialogues):
        own = draw.choice(4, 6, p=draw.dirichlet(numpy.full(4, 2.0)))
        log_p = draw.normal(-50, 5, 6)[None] + draw.normal(0, 1, (4, 6))
        log_p += draw.normal(0, 0.5, (4, 1))
        log_p += numpy.array([0.0, 3.0, -3.0, 1.0])[:, None]  # prompts that raise every reply
        log_p[own, numpy.arange(6)] += effect
        found.append(study_record(log_p.tolist(), own.tolist(), str(number)))
    return found
