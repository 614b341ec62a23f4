"""Compare what two classifiers say of the model's replies with the labels of these replies."""

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
    """How well two classifiers agree with the labels of replies that they were not trained on.

    Attributes:
        trained: the classifier of the training part, measured on the test part; None if it does not
            know a strategy of the test part.
        plain: the library's own classifier, measured on the test part; None if it does not know the
            strategies.
        plain_on_plain: the library's own, cross-validated on the replies that it is trained on.
        noise: the noise of the labels of both parts; None if the library's own classifier does not
            know the strategies.
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
    """Classify the test part by both classifiers, and all replies by ``plain`` for the noise.

    Args:
        train, test: two parts of the extended data that have no dialogue in common.
        trained: the classifier that was trained on ``train``.
        plain: the library's own classifier.
        plain_on_plain: how well that one does on the replies that it is trained on.
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
