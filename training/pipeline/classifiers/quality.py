"""How well predicted strategies agree with the known ones, next to chance."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy
from numpy.typing import NDArray

from sra_fast.tools.bootstrap import LEVEL
from sra_fast.tools.markdown_table import markdown_table
from sra_fast.tools.missing_extra import needed

_Z = NormalDist().inv_cdf((1 + LEVEL) / 2)


@dataclass(frozen=True)
class ClassQuality:
    """Of one strategy; None where nothing was predicted, or nothing is known, as it."""

    strategy: str
    responses: int
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True)
class Quality:
    """Agreement over n responses.

    Attributes:
        accuracy, low, high: share of right predictions and its 95% interval.
        macro_f1: mean over the strategies that have responses, an f1 of None as 0.
        majority: what always answering the most frequent strategy would reach.
        uniform: what guessing would, 1/K.
        classes: the K strategies, in the order of ``confusion``.
        confusion: [K][K] counts, rows the known strategy, columns the predicted.
    """

    responses: int
    dialogues: int
    accuracy: float
    low: float
    high: float
    macro_f1: float
    majority: float
    uniform: float
    classes: tuple[str, ...]
    by_class: tuple[ClassQuality, ...]
    confusion: tuple[tuple[int, ...], ...]

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON can say it."""
        return {**asdict(self), "interval": {"level": LEVEL, "method": INTERVAL}}


INTERVAL = "Wilson, with the number of responses cut by the design effect of dialogues"


def quality(
    known: Sequence[str],
    predicted: Sequence[str],
    classes: Sequence[str],
    dialogues: Sequence[int] | None = None,
) -> Quality:
    """Measures n predictions, n ≥ 1.

    Args:
        known, predicted: strategies, all of them among ``classes``.
        dialogues: a number for each response; those of one dialogue resemble each other, and the
            interval widens accordingly. None: each stands for itself.
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
    low, high = accuracy_interval(right, numbers)
    return Quality(
        responses=len(known),
        dialogues=len(set(numbers)),
        accuracy=float(right.mean()),
        low=low,
        high=high,
        macro_f1=float(numpy.mean([one.f1 or 0.0 for one in by_class if one.responses])),
        majority=max(Counter(known).values()) / len(known),
        uniform=1 / len(classes),
        classes=tuple(classes),
        by_class=by_class,
        confusion=tuple(tuple(int(value) for value in row) for row in counts),
    )


def accuracy_interval(
    right: NDArray[numpy.float64], dialogues: Sequence[int]
) -> tuple[float, float]:
    """Wilson's 95% interval of the mean of ``right`` [n], each 0 or 1.

    With p the mean, dialogues c of n_c responses and C dialogues in all, n is replaced by

        n_eff = n / deff,   deff = C/(C-1) · Σ_c (right_c − p n_c)² / (n p (1−p)),   deff ≥ 1

    (right_c: how many are right in c), and by C where p is 0 or 1.
    """
    n, p = len(right), float(right.mean())
    totals = numpy.bincount(dialogues, weights=right - p)
    count = len(set(dialogues))
    effective = float(n)
    if count < n:
        spread = float((totals**2).sum())
        if count < 2 or p in (0.0, 1.0):
            effective = float(count)
        else:
            effective = n / max(1.0, count / (count - 1) * spread / (n * p * (1 - p)))
    centre = p + _Z**2 / (2 * effective)
    margin = _Z * math.sqrt(p * (1 - p) / effective + _Z**2 / (4 * effective**2))
    scale = 1 + _Z**2 / effective
    low = 0.0 if p == 0 else (centre - margin) / scale
    high = 1.0 if p == 1 else (centre + margin) / scale
    return low, high


def by_class_table(measured: Quality) -> list[str]:
    """Markdown lines: precision, recall and F1 of each strategy."""
    rows = [
        (one.strategy, str(one.responses), *map(share, (one.precision, one.recall, one.f1)))
        for one in measured.by_class
    ]
    return markdown_table(("strategy", "responses", "precision", "recall", "F1"), rows)


def sentence(measured: Quality) -> str:
    """The accuracy in words, with its interval, next to chance."""
    return (
        f"accuracy {measured.accuracy:.1%} (95% interval {measured.low:.1%} to "
        f"{measured.high:.1%}) of {measured.responses} responses; chance: "
        f"{measured.majority:.1%} by the most frequent strategy, {measured.uniform:.1%} by guessing"
    )


def share(value: float | None) -> str:
    """Three decimals, or a dash."""
    return "–" if value is None else f"{value:.3f}"


def _none_if_nan(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
