"""Measure how well predicted strategies agree with the known ones, and what chance would give."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy

from sra_fast.tools.estimates import interval_settings
from sra_fast.tools.intervals import rate_interval
from sra_fast.tools.markdown_table import markdown_table
from sra_fast.tools.missing_extra import needed


@dataclass(frozen=True)
class ClassQuality:
    """How well one strategy is predicted.

    Attributes:
        strategy: the name of the strategy.
        responses: how many responses follow it.
        precision: the share of responses predicted as it that follow it; None without any.
        recall: the share of responses following it that are predicted as it; None without any.
        f1: the harmonic mean of both, or None where it is undefined.
    """

    strategy: str
    responses: int
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True)
class Quality:
    """How well the predictions of a classifier agree with the known strategies.

    Attributes:
        responses, dialogues: how many were predicted, and how many dialogues they come from.
        accuracy, low, high: the share of right predictions and its 95% interval; None both where
            all responses are of one dialogue.
        macro_f1: the mean f1 over the strategies that have responses, where None counts as 0.
        majority: the accuracy of always answering with the most frequent strategy.
        uniform: the accuracy of guessing, 1/K.
        classes: the K strategies, in the order of ``confusion``.
        by_class: how well each strategy is predicted.
        confusion: ``[K][K]`` how many responses of a known strategy (first index) were predicted as
            each strategy (second index).
    """

    responses: int
    dialogues: int
    accuracy: float
    low: float | None
    high: float | None
    macro_f1: float
    majority: float
    uniform: float
    classes: tuple[str, ...]
    by_class: tuple[ClassQuality, ...]
    confusion: tuple[tuple[int, ...], ...]

    def to_json(self) -> dict[str, Any]:
        """Return all figures, and the method of the interval, as JSON can hold them."""
        return {**asdict(self), "interval": interval_settings("share")}


def quality(
    known: Sequence[str],
    predicted: Sequence[str],
    classes: Sequence[str],
    dialogues: Sequence[int] | None = None,
) -> Quality:
    """Measure how well n ≥ 1 predictions agree with the known strategies.

    Args:
        known, predicted: ``[n]`` strategies, all of them among ``classes``.
        classes: the K strategies.
        dialogues: ``[n]`` the number of each response's dialogue, from 0. Responses of one dialogue
            resemble each other, and the interval widens accordingly. None: each response counts as
            a dialogue of its own.
    """
    with needed("pipeline", "sklearn"):
        from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    counts = confusion_matrix(known, predicted, labels=classes)
    # NaN where there is nothing to divide by.
    figures = precision_recall_fscore_support(
        known, predicted, labels=classes, zero_division=numpy.nan
    )
    by_class = tuple(
        ClassQuality(name, int(responses), *map(_none_if_nan, (precision, recall, f1)))
        for name, precision, recall, f1, responses in zip(classes, *figures, strict=True)
    )
    right = numpy.array([a == b for a, b in zip(known, predicted, strict=True)], dtype=float)
    numbers = list(range(len(known))) if dialogues is None else list(dialogues)
    accuracy = rate_interval(right, numpy.ones(len(right)), numbers)
    return Quality(
        responses=len(known),
        dialogues=len(set(numbers)),
        accuracy=float(right.mean()),
        low=accuracy.low,
        high=accuracy.high,
        macro_f1=float(numpy.mean([one.f1 or 0.0 for one in by_class if one.responses])),
        majority=max(Counter(known).values()) / len(known),
        uniform=1 / len(classes),
        classes=tuple(classes),
        by_class=by_class,
        confusion=tuple(tuple(int(value) for value in line) for line in counts),
    )


def by_class_table(measured: Quality) -> list[str]:
    """Return lines of Markdown with precision, recall and F1 of each strategy."""
    lines = [
        (one.strategy, str(one.responses), *map(share, (one.precision, one.recall, one.f1)))
        for one in measured.by_class
    ]
    return markdown_table(("strategy", "responses", "precision", "recall", "F1"), lines)


def sentence(measured: Quality) -> str:
    """Return words that state the accuracy, its interval, and what chance would give."""
    interval = (
        "no interval from a single dialogue"
        if measured.low is None
        else f"95% interval {measured.low:.1%} to {measured.high:.1%}"
    )
    return (
        f"accuracy {measured.accuracy:.1%} ({interval}) of {measured.responses} responses; chance: "
        f"{measured.majority:.1%} by the most frequent strategy, {measured.uniform:.1%} by guessing"
    )


def share(value: float | None) -> str:
    """Write a share with three decimals, or a dash for None."""
    return "–" if value is None else f"{value:.3f}"


def _none_if_nan(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
