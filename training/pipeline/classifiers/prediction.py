"""Predicted strategies of a file's responses, and how they agree with those it names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sra_fast.tools.atomic import write_json_lines

from ...data.trained_on import digest, read_trained_on
from . import PLAIN, PLAIN_REPLIES
from .interface import StrategyClassifier, most_probable
from .labelled import LabelledResponse, read_labelled
from .quality import Quality, quality
from .splits import dialogue_of


@dataclass(frozen=True)
class Predictions:
    """Of n responses, in order.

    Attributes:
        rows: what :func:`write_predictions` writes: id, strategy (if known), predicted,
            probability, probabilities.
        quality: over those whose strategy the classifier knows; None without any.
        unlabelled: how many have no strategy.
        outside: the strategies that the classifier cannot answer with, and how many responses
            each has; they are not measured.
    """

    rows: list[dict[str, Any]]
    quality: Quality | None
    unlabelled: int
    outside: dict[str, int]


def predict(classifier: StrategyClassifier, responses: Sequence[LabelledResponse]) -> Predictions:
    """Predicts the strategy of each response."""
    found = classifier.probabilities([one.response for one in responses])
    predicted = most_probable(classifier.classes, found)
    rows = [
        {
            "id": one.id,
            **({} if one.strategy is None else {"strategy": one.strategy}),
            "predicted": strategy,
            "probability": float(row.max()),
            "probabilities": dict(zip(classifier.classes, row.tolist(), strict=True)),
        }
        for one, strategy, row in zip(responses, predicted, found, strict=True)
    ]
    outside: dict[str, int] = {}
    measured = []
    for index, one in enumerate(responses):
        if one.strategy in classifier.classes:
            measured.append(index)
        elif one.strategy is not None:
            outside[one.strategy] = outside.get(one.strategy, 0) + 1
    dialogues = dialogue_of(responses)
    return Predictions(
        rows=rows,
        quality=quality(
            [responses[index].label for index in measured],
            [predicted[index] for index in measured],
            classifier.classes,
            [dialogues[index] for index in measured],
        )
        if measured
        else None,
        unlabelled=sum(one.strategy is None for one in responses),
        outside=outside,
    )


def count_learnt(classifier: str, responses: Sequence[LabelledResponse]) -> int:
    """How many of the responses a classifier has learnt from, as far as that is known.

    Args:
        classifier: its folder, or "plain".
    """
    if classifier == PLAIN:
        learnt = frozenset(digest(one.response) for one in read_labelled(PLAIN_REPLIES))
    else:
        learnt = read_trained_on(Path(classifier))
    return sum(digest(one.response) in learnt for one in responses)


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Writes the rows as JSONL, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json_lines(path, predictions.rows)
