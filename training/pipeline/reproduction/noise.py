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

from sra_fast.tools.bootstrap import (
    REPORT_DRAWS,
    REPORT_SEED,
    Estimate,
    interval_of_sums,
    numbered,
)
from sra_fast.tools.coefficients import Floats

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
    *,
    draws: int = REPORT_DRAWS,
    seed: int = REPORT_SEED,
) -> LabelNoise:
    """Estimate the noise of n ≥ 1 labels.

    Args:
        labels: ``[n]`` the strategies that the model was told to follow.
        named: ``[n]`` the strategies that the classifier names.
        dialogues: ``[n]`` the dialogue of each reply, hashable; replies of one dialogue are drawn
            together.
        when_plain: c, the accuracy of the classifier where a reply plainly follows its strategy.
        draws: how many times the bootstrap draws dialogues.
        seed: the seed of the draws.
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
    value = float(_noise(numpy.array(agreement), numpy.array(chance), when_plain))
    low, high, left_out, no_interval = interval_of_sums(
        columns,
        lambda sums: _noise(*parts(sums), when_plain),
        dialogues,
        draws=draws,
        seed=seed,
    )
    noise = Estimate(value, low, high, len(labels), no_interval, left_out)
    return LabelNoise(agreement, chance, when_plain, noise)


def _noise(agreement: Floats, chance: Floats, when_plain: float) -> Floats:
    with numpy.errstate(divide="ignore", invalid="ignore"):
        found = (when_plain - agreement) / (when_plain - chance)
    return numpy.clip(numpy.nan_to_num(found, nan=1.0), 0.0, 1.0)


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
