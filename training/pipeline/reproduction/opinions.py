"""What classifiers say of the model's own replies: agreement with the labels, chance, and noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..classifiers import StrategyClassifier
from ..classifiers.interface import most_probable
from ..classifiers.labelled import LabelledResponse
from ..classifiers.quality import Quality, quality
from ..classifiers.splits import dialogue_of
from .noise import LabelNoise, label_noise


@dataclass(frozen=True)
class Opinions:
    """Of classifiers, on replies that none of them has learnt from.

    Attributes:
        trained: that of the training part, on the test part; None if it lacks a strategy of it.
        plain: the library's own, on the test part; None if it does not know the strategies.
        plain_on_plain: the same, cross-validated on the replies that it learns from.
        noise: of the labels of both parts; None as ``plain``.
    """

    trained: Quality | None
    plain: Quality | None
    plain_on_plain: Quality
    noise: LabelNoise | None


def opinions(
    train: Sequence[LabelledResponse],
    test: Sequence[LabelledResponse],
    trained: StrategyClassifier,
    plain: StrategyClassifier,
    plain_on_plain: Quality,
) -> Opinions:
    """Classifies the test part by both, and all replies by ``plain`` for the noise.

    Args:
        train, test: parts of the extended data, without a dialogue in common.
        trained: of ``train``.
    """
    everything = [*train, *test]
    noise = None
    if {one.label for one in everything} <= set(plain.classes):
        noise = label_noise(
            [one.label for one in everything],
            _named(plain, everything),
            dialogue_of(everything),
            plain_on_plain.accuracy,
        )
    return Opinions(_quality(trained, test), _quality(plain, test), plain_on_plain, noise)


def _quality(
    classifier: StrategyClassifier, labelled: Sequence[LabelledResponse]
) -> Quality | None:
    known = [one.label for one in labelled]
    if not set(known) <= set(classifier.classes):
        return None
    return quality(known, _named(classifier, labelled), classifier.classes, dialogue_of(labelled))


def _named(classifier: StrategyClassifier, labelled: Sequence[LabelledResponse]) -> list[str]:
    found = classifier.probabilities([one.response for one in labelled])
    return most_probable(classifier.classes, found)
