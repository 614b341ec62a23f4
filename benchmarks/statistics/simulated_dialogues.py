"""Draw dialogues whose replies resemble each other, with a figure that is known.

A dialogue has from 1 to 8 replies, all numbers alike likely. The correlation of two replies of one
dialogue is 0.3: of normal data, of the logarithm of log-normal data (standard deviation 1), and of
right and wrong answers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy
from numpy.random import Generator
from scipy.special import ndtr, ndtri
from scipy.stats import beta

from sra_fast.tools.coefficients import Floats
from sra_fast.tools.grouped import Integers

WITHIN = 0.3
"""Correlation of the replies of one dialogue."""

SHARED = 0.7
"""Correlation of what a dialogue is like under two conditions."""

MOST_REPLIES = 8


@dataclass(frozen=True, eq=False)
class Drawn:
    """The replies of some dialogues, by two measures.

    Attributes:
        dialogue: ``[n]`` the number of each reply's dialogue.
        x, y: ``[n]`` what was measured.
    """

    dialogue: Integers
    x: Floats
    y: Floats


def dialogues_of(generator: Generator, dialogues: int) -> Integers:
    """Draw how many replies each dialogue has, and return the dialogue of each reply, ``[n]``."""
    return numpy.repeat(
        numpy.arange(dialogues), generator.integers(1, MOST_REPLIES + 1, size=dialogues)
    )


def normal_pair(generator: Generator, dialogues: int, rho: float) -> Drawn:
    """Draw two standard normal measures of each reply that correlate by ``rho``."""
    dialogue = dialogues_of(generator, dialogues)
    effects, rest = (_pair(generator, size, rho) for size in (dialogues, len(dialogue)))
    x, y = math.sqrt(WITHIN) * effects[:, dialogue] + math.sqrt(1 - WITHIN) * rest
    return Drawn(dialogue, x, y)


def two_conditions(generator: Generator, dialogues: int) -> Drawn:
    """Draw a standard normal measure of replies under two conditions, x and y."""
    dialogue = dialogues_of(generator, dialogues)
    effects = _pair(generator, dialogues, SHARED)[:, dialogue]
    rest = generator.normal(size=(2, len(dialogue)))
    x, y = math.sqrt(WITHIN) * effects + math.sqrt(1 - WITHIN) * rest
    return Drawn(dialogue, x, y)


def two_shares(generator: Generator, dialogues: int, p: float, q: float) -> Drawn:
    """Draw right and wrong answers under two conditions: x right with share ``p``, y with ``q``."""
    dialogue = dialogues_of(generator, dialogues)
    effects = ndtr(_pair(generator, dialogues, SHARED))
    chances = [
        beta.ppf(effect, *_beta_of(share))[dialogue]
        for effect, share in zip(effects, (p, q), strict=True)
    ]
    x, y = (generator.random(len(dialogue)) < chance for chance in chances)
    return Drawn(dialogue, x.astype(numpy.float64), y.astype(numpy.float64))


def one_share(generator: Generator, dialogue: Integers, p: float) -> Floats:
    """Draw right and wrong answers, 1 and 0, with share ``p`` for replies of those dialogues."""
    chances = generator.beta(*_beta_of(p), size=int(dialogue.max()) + 1)
    return (generator.random(len(dialogue)) < chances[dialogue]).astype(numpy.float64)


def scores_and_labels(generator: Generator, dialogues: int, auc: float) -> Drawn:
    """Draw labels y, and scores x that tell them with that AUC; dialogues affect both."""
    drawn = two_conditions(generator, dialogues)
    labels = one_share(generator, drawn.dialogue, 0.5)
    return Drawn(drawn.dialogue, drawn.x + math.sqrt(2) * float(ndtri(auc)) * labels, labels)


def ratings(generator: Generator, items: int, alpha: float) -> Any:
    """Draw two annotators' ratings, ``[2, items]``, of which Krippendorff's alpha is ``alpha``."""
    true = generator.normal(size=items)
    noise = generator.normal(size=(2, items))
    return math.sqrt(alpha) * true + math.sqrt(1 - alpha) * noise


def _beta_of(share: float) -> tuple[float, float]:
    """Return the parameters of the chances of dialogues whose answers correlate by ``WITHIN``."""
    size = 1 / WITHIN - 1
    return share * size, (1 - share) * size


def _pair(generator: Generator, size: int, rho: float) -> Any:
    one, other = generator.normal(size=(2, size))
    return numpy.stack([one, rho * one + math.sqrt(1 - rho**2) * other])
