"""Make dialogues, prompts and records of a steering study, for tests of its parts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy

from sra_fast.chat.conversion import read_dialogues
from sra_fast.chat.strategies import DEFAULT_STRATEGIES
from sra_fast.files.models import find_model
from sra_fast.training.pipeline.steering.study_dialogues import (
    studied_strategies,
    study_dialogues,
    study_rows,
)
from sra_fast.training.pipeline.steering.study_records import StudyRecord
from sra_fast.training.pipeline.steering.study_settings import UNSTEERED

SITUATION = "I lost my job in spring, and since then I sleep badly and see nobody at all."


def said(speaker: str, text: str, strategy: str | None = None) -> dict[str, Any]:
    annotation = {} if strategy is None else {"strategy": strategy}
    return {"speaker": speaker, "annotation": annotation, "content": text}


def dialogue(number: int, situation: str = SITUATION) -> dict[str, Any]:
    return {
        "situation": f"{situation} Day {number}." if situation else "",
        "dialog": [
            said("supporter", "Hello there.", "Others"),
            said("seeker", f"I feel low today, number {number}."),
            said("supporter", "What happened to you?", "Question"),
            said("seeker", "My work is gone."),
            said("supporter", "You could ask a friend for help.", "Providing Suggestions"),
            said("seeker", "Maybe."),
            said("supporter", "Yes.", "Question"),
            said("supporter", "Try it.", "Providing Suggestions"),
            said("seeker", "Thank you."),
        ],
    }


def three_dialogues(folder: Path) -> Path:
    """Write a file of three dialogues, the last with a situation too short for a control."""
    path = folder / "three.json"
    path.write_text(json.dumps([dialogue(1), dialogue(2), dialogue(3, "Sad")]), encoding="utf-8")
    return path


def prepared_rows(model: Path, file: Path) -> tuple[Any, Any, list[Any]]:
    """Return the model, its tokenizer and the rows of the first dialogue, one per strategy."""
    source = find_model(str(model))
    tokenizer = source.tokenizer()
    dialogues, _ = read_dialogues(file)
    strategies = studied_strategies(dialogues, DEFAULT_STRATEGIES)
    chosen = study_dialogues(dialogues, list(strategies), seed=0)
    first = next(one for one in chosen if one.id == "three-0")
    return source.load("float32", "cpu"), tokenizer, study_rows(tokenizer, first, strategies)


def record(log_p: list[list[float]], own: list[int], name: str = "a", **more: Any) -> StudyRecord:
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
        found.append(record(log_p.tolist(), own.tolist(), str(number)))
    return found
