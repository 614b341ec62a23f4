"""Strategy classifiers: which strategy does a reply follow?

Three kinds with one interface: ``lexical`` (n-grams of words), ``embedding`` (sentence embeddings)
and ``roberta`` (a fine-tuned encoder, the paper's). The first two end in a logistic regression.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from sra_fast.names import ClassifierKind
from sra_fast.tools.suggestions import did_you_mean

from .classifier_settings import checked_settings
from .interface import ClassifierError, StrategyClassifier
from .stored import read_record

__all__ = [
    "ClassifierError",
    "ClassifierKind",
    "StrategyClassifier",
    "load_classifier",
    "train_classifier",
]

PLAIN = "plain"
"""The classifier that needs no data: ``lexical``, from the project's own replies."""

PLAIN_REPLIES = Path(__file__).parent / "data" / "plain.jsonl"
"""900 supporter replies, 60 for each of the paper's 15 strategies."""


def train_classifier(
    kind: ClassifierKind, responses: Sequence[str], strategies: Sequence[str], **settings: Any
) -> StrategyClassifier:
    """Train a classifier on n responses and their n strategies.

    Args:
        settings: of the kind: the fields of ``LexicalSettings``, ``EmbeddingSettings`` and
            ``EncoderSettings``.

    Raises:
        ClassifierError: an unknown kind or setting, lists of two lengths, an empty response, fewer
            than two strategies, or a model that cannot be had.
        ModuleNotFoundError: a package of the extra ``pipeline`` is missing.
    """
    if kind not in get_args(ClassifierKind):
        raise ClassifierError(
            f"kind must be one of {', '.join(get_args(ClassifierKind))}, found {kind!r}"
            f"{did_you_mean(kind, get_args(ClassifierKind))}"
        )
    if len(responses) != len(strategies):
        raise ClassifierError(
            f"one strategy per response, found {len(responses)} responses and {len(strategies)} "
            "strategies"
        )
    for index, response in enumerate(responses):
        if not response.strip():
            raise ClassifierError(f"responses[{index}] is empty; leave it out")
    if len(set(strategies)) < 2:
        raise ClassifierError(
            f"a classifier tells strategies apart, and these {len(strategies)} responses have "
            f"{len(set(strategies))}; add responses that follow another"
        )
    if kind == "lexical":
        from .lexical import (
            LexicalClassifier,
            LexicalSettings,
        )

        lexical = checked_settings(LexicalSettings, settings)
        return LexicalClassifier.train(responses, strategies, lexical)
    if kind == "embedding":
        from .embedding import (
            EmbeddingClassifier,
            EmbeddingSettings,
        )

        embedding = checked_settings(EmbeddingSettings, settings)
        return EmbeddingClassifier.train(responses, strategies, embedding)
    from .encoder import EncoderClassifier, EncoderSettings

    encoder = checked_settings(EncoderSettings, settings)
    return EncoderClassifier.train(responses, strategies, encoder)


def load_classifier(folder: str | os.PathLike[str]) -> StrategyClassifier:
    """Read a classifier that ``save`` wrote; ``"plain"`` is trained on the spot (a second or so).

    A folder of that very name is ``"./plain"``.

    Raises:
        ClassifierError: the folder holds no classifier, or not all of it.
        ModuleNotFoundError: a package of the extra ``pipeline`` is missing.
    """
    if folder == PLAIN:
        from .labelled import read_labelled

        replies = read_labelled(PLAIN_REPLIES)
        return train_classifier(
            "lexical", [one.response for one in replies], [one.label for one in replies]
        )
    path = Path(folder)
    record = read_record(path)
    if record["kind"] == "lexical":
        from .lexical import LexicalClassifier

        return LexicalClassifier.load(path, record)
    if record["kind"] == "embedding":
        from .embedding import EmbeddingClassifier

        return EmbeddingClassifier.load(path, record)
    from .encoder import EncoderClassifier

    return EncoderClassifier.load(path, record)
