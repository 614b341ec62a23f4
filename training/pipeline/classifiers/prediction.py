"""Predict the strategies of responses, and compare them with those that are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sra_fast.tools.atomic import write_json_lines

from ...data.trained_on import digest, read_trained_on
from .interface import StrategyClassifier, most_probable
from .kinds import PLAIN, PLAIN_REPLIES
from .labelled import LabelledResponse, read_labelled
from .quality import Quality, quality
from .splits import dialogue_of


@dataclass(frozen=True)
class Predictions:
    """The predicted strategies of n responses, in order.

    Attributes:
        records: what :func:`write_predictions` writes for each response: id, strategy (if known),
            predicted, probability, probabilities.
        quality: the agreement over the responses with a strategy that the classifier knows; None
            if there are none.
        unlabelled: how many responses have no strategy.
        outside: how many responses follow each strategy that the classifier does not know; they
            are not measured.
    """

    records: list[dict[str, Any]]
    quality: Quality | None
    unlabelled: int
    outside: dict[str, int]


def predict(classifier: StrategyClassifier, responses: Sequence[LabelledResponse]) -> Predictions:
    """Predict the strategy of each response.

    Args:
        classifier: the classifier.
        responses: the n responses; their own strategies, where known, are only compared with.
    """
    found = classifier.probabilities([one.response for one in responses])
    predicted = most_probable(classifier.classes, found)
    records = [
        {
            "id": one.id,
            **({} if one.strategy is None else {"strategy": one.strategy}),
            "predicted": strategy,
            "probability": float(mine.max()),
            "probabilities": dict(zip(classifier.classes, mine.tolist(), strict=True)),
        }
        for one, strategy, mine in zip(responses, predicted, found, strict=True)
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
        records=records,
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
    """Count the responses that a classifier was trained on, as far as that is known.

    Args:
        classifier: the folder of the classifier, or "plain".
        responses: the responses.
    """
    if classifier == PLAIN:
        learnt = frozenset(digest(one.response) for one in read_labelled(PLAIN_REPLIES))
    else:
        learnt = read_trained_on(Path(classifier))
    return sum(digest(one.response) in learnt for one in responses)


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Write the predictions as JSONL, whole or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json_lines(path, predictions.records)
