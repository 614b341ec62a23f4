"""Train a classifier of any kind, and load one from the folder that it was saved in."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from sra_fast.files.run_folder import damaged_files
from sra_fast.names import ClassifierKind
from sra_fast.tools.suggestions import did_you_mean

from .classifier_settings import checked_settings
from .interface import ClassifierError, StrategyClassifier
from .stored import CLASSIFIER_FILES, read_record

if TYPE_CHECKING:
    from .embedding import EmbeddingSettings
    from .encoder import EncoderSettings
    from .lexical import LexicalSettings

PLAIN = "plain"
"""The name of the library's own classifier: ``lexical``, trained on replies that come with it."""

PLAIN_REPLIES = Path(__file__).parent / "data" / "plain.jsonl"
"""The file of these 900 replies, 60 for each of the paper's 15 strategies."""


def train_classifier(
    kind: ClassifierKind, responses: Sequence[str], strategies: Sequence[str], **settings: Any
) -> StrategyClassifier:
    """Train a classifier on replies whose strategies are known.

    Args:
        kind: "lexical", "embedding" or "roberta".
        responses: n replies as text, none of them empty.
        strategies: the n strategies that they follow, at least two different ones.
        settings: the settings of that kind, the fields of ``LexicalSettings``,
            ``EmbeddingSettings`` or ``EncoderSettings``.

    Raises:
        ClassifierError: the kind or a setting is unknown, the lists differ in length, a reply is
            empty, there are fewer than two strategies, or a model cannot be loaded.
        ModuleNotFoundError: a package of the extra ``pipeline`` is missing.
    """
    if kind not in get_args(ClassifierKind):
        raise ClassifierError(
            f"kind must be one of {', '.join(get_args(ClassifierKind))}, found {kind!r}"
            f"{did_you_mean(kind, get_args(ClassifierKind))}"
        )
    if len(responses) != len(strategies):
        raise ClassifierError(
            f"every response needs one strategy, found {len(responses)} responses and "
            f"{len(strategies)} strategies"
        )
    for index, response in enumerate(responses):
        if not response.strip():
            raise ClassifierError(f"responses[{index}] is empty; leave it out")
    if len(set(strategies)) < 2:
        raise ClassifierError(
            f"a classifier needs at least two strategies, and the {len(strategies)} responses have "
            f"{len(set(strategies))}; add responses that follow another strategy"
        )
    checked: Any = settings_of_kind(kind, settings)
    if kind == "lexical":
        from .lexical import LexicalClassifier

        return LexicalClassifier.train(responses, strategies, checked)
    if kind == "embedding":
        from .embedding import EmbeddingClassifier

        return EmbeddingClassifier.train(responses, strategies, checked)
    from .encoder import EncoderClassifier

    return EncoderClassifier.train(responses, strategies, checked)


def settings_of_kind(
    kind: ClassifierKind, settings: Mapping[str, Any]
) -> LexicalSettings | EmbeddingSettings | EncoderSettings:
    """Return the settings of a kind of classifier, those that are not given at their defaults.

    Args:
        kind: "lexical", "embedding" or "roberta".
        settings: the settings that are given, by name.

    Raises:
        ClassifierError: a setting is unknown, or its value cannot be.
    """
    if kind == "lexical":
        from .lexical import LexicalSettings

        return checked_settings(LexicalSettings, settings)
    if kind == "embedding":
        from .embedding import EmbeddingSettings

        return checked_settings(EmbeddingSettings, settings)
    from .encoder import EncoderSettings

    return checked_settings(EncoderSettings, settings)


def check_model(kind: ClassifierKind, settings: Mapping[str, Any]) -> None:
    """Check that the model of a kind of classifier is there with all of its weights, unread.

    Args:
        kind: "lexical", which has no model, "embedding" or "roberta".
        settings: the settings of that kind.

    Raises:
        ClassifierError: a setting is unknown, or the model cannot be loaded.
        MissingWeightsError: the model's files do not hold all of its weights.
    """
    if kind == "embedding":
        from .embedding import EmbeddingSettings, embedding_model

        embedding_model(checked_settings(EmbeddingSettings, settings), device_map="meta")
    elif kind == "roberta":
        from .encoder import EncoderSettings, encoder_model

        encoder = checked_settings(EncoderSettings, settings)
        encoder_model(encoder.model, ("one", "other"), encoder, new_head=True, device_map="meta")


def load_classifier(folder: str | os.PathLike[str]) -> StrategyClassifier:
    """Read a classifier from the folder that its ``save`` wrote.

    Args:
        folder: the folder; or "plain" for the library's own classifier, which is trained at once
            (in about a second). A folder of that name is "./plain".

    Raises:
        ClassifierError: the folder holds no classifier, or a part of it is missing or damaged.
        ModuleNotFoundError: a package of the extra ``pipeline`` is missing.
    """
    if folder == PLAIN:
        from .labelled import read_labelled

        replies = read_labelled(PLAIN_REPLIES)
        return train_classifier(
            "lexical", [one.response for one in replies], [one.label for one in replies]
        )
    path = Path(folder)
    _check_whole(path)
    record = read_record(path)
    if record["kind"] == "lexical":
        from .lexical import LexicalClassifier

        return LexicalClassifier.load(path, record)
    if record["kind"] == "embedding":
        from .embedding import EmbeddingClassifier

        return EmbeddingClassifier.load(path, record)
    from .encoder import EncoderClassifier

    return EncoderClassifier.load(path, record)


def _check_whole(folder: Path) -> None:
    """Check the files of a classifier against the digests that its training recorded, if it did.

    Raises:
        ClassifierError: a file is missing or damaged.
    """
    for name in damaged_files(folder):
        if name.partition("/")[0] in CLASSIFIER_FILES:
            raise ClassifierError(
                f"{folder / name} is missing, or not as it was trained; the same training into "
                "this folder makes it again"
            )
