"""Estimate how many replies do not follow the strategy that they are labelled with.

A label is the strategy that the model was told to follow, whether it did or not. The ``plain``
classifier never saw the labels. Let a be the share of replies that follow their label, c the
accuracy of that classifier where a reply plainly follows its strategy, and e how often it names the
label by chance. The share of replies for which it names the label is

    A = a·c + (1 − a)·e,   and so   noise = 1 − a = (c − A) / (c − e)

c is its cross-validated accuracy on the replies that it is trained on, and
e = Σ_s p(label = s) · p(named = s). Other replies are harder to name than these, which lowers A at
the same a. So this noise is an upper bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy

from sra_fast.tools.coefficients import Floats
from sra_fast.tools.estimates import Estimate
from sra_fast.tools.grouped import numbered
from sra_fast.tools.intervals import interval_of_sums

from ..classifiers import PLAIN_REPLIES, train_classifier
from ..classifiers.interface import most_probable
from ..classifiers.labelled import read_labelled
from ..classifiers.quality import Quality, quality
from ..classifiers.splits import folds

_FOLDS = 4


@dataclass(frozen=True)
class LabelNoise:
    """How many of n replies do not follow their label, and what this was computed from.

    Attributes:
        agreement: A, the share of replies for which the classifier names the label.
        by_chance: e, the share for which it would name the label by chance.
        when_plain: c, its accuracy where a reply plainly follows its strategy.
        noise: (c − A) / (c − e), limited to [0, 1], with its interval over dialogues.
    """

    agreement: float
    by_chance: float
    when_plain: float
    noise: Estimate


def label_noise(
    labels: Sequence[str],
    named: Sequence[str],
    dialogues: Sequence[object],
    when_plain: float,
) -> LabelNoise:
    """Estimate the noise of n ≥ 1 labels.

    Args:
        labels: ``[n]`` the strategies that the model was told to follow.
        named: ``[n]`` the strategies that the classifier names.
        dialogues: ``[n]`` the dialogue of each reply, hashable; replies of one dialogue count as
            one observation.
        when_plain: c, the accuracy of the classifier where a reply plainly follows its strategy.
    """
    number, names = numbered([*labels, *named])
    told, found = number[: len(labels)], number[len(labels) :]
    one_hot = numpy.eye(len(names))
    split = 1 + len(names)
    # Columns, to be summed by dialogue: agreement, labelled as each strategy, named as each, 1.
    columns = numpy.column_stack(
        [told == found, one_hot[told], one_hot[found], numpy.ones(len(labels))]
    )

    def parts(sums: Floats) -> tuple[Floats, Floats]:
        shares = sums[:, :-1] / sums[:, -1:]
        return shares[:, 0], (shares[:, 1:split] * shares[:, split:]).sum(axis=1)

    agreement, chance = (float(one[0]) for one in parts(columns.sum(axis=0)[None]))
    if when_plain <= chance:
        why = "the classifier is no better than chance where the strategy is plain"
        return LabelNoise(
            agreement, chance, when_plain, Estimate(None, None, None, len(labels), why)
        )

    def noise_of(sums: Floats) -> Floats:
        agreed, chances = parts(sums)
        with numpy.errstate(divide="ignore", invalid="ignore"):
            return numpy.asarray((when_plain - agreed) / (when_plain - chances))

    value: float | None = float(noise_of(columns.sum(axis=0)[None])[0])
    low, high, why_not = interval_of_sums(columns, noise_of, dialogues)
    value, *ends = (None if x is None else min(1.0, max(0.0, x)) for x in (value, low, high))
    noise = Estimate(value, ends[0], ends[1], len(labels), why_not)
    return LabelNoise(agreement, chance, when_plain, noise)


def plain_quality(seed: int) -> Quality:
    """Measure the ``plain`` classifier by cross-validation on the replies that it is trained on."""
    replies = read_labelled(PLAIN_REPLIES)
    known: list[str] = []
    named: list[str] = []
    for train, test in folds(replies, _FOLDS, seed):
        classifier = train_classifier(
            "lexical",
            [replies[index].response for index in train],
            [replies[index].label for index in train],
        )
        found = classifier.probabilities([replies[index].response for index in test])
        known += [replies[index].label for index in test]
        named += most_probable(classifier.classes, found)
    return quality(known, named, sorted(set(known)))
