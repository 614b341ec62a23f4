"""The ``lexical`` classifier: n-grams of words, weighted by tf-idf, and a logistic regression.

The paper's appendix takes 2- and 3-grams with the stop words out. In one to three sentences that
leaves too little: stop words are most of what tells "do you mean" from "you could". Here marks and
the beginning of a reply count as words, too. Accuracy in 4-fold cross-validation on the library's
own training replies (15 strategies × 60), which also chose the default:

    2- and 3-grams without stop words or marks (C = 1)              18%
    2- and 3-grams without stop words (C = 1, min_responses = 1)    42%
    2- and 3-grams with stop words (min_responses = 1)              73%
    1- to 3-grams with stop words, the default                      86%
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

from sra_fast.names import ClassifierKind
from sra_fast.tools.atomic import write_json
from sra_fast.tools.missing_extra import needed
from sra_fast.tools.strict_json import parse_json

from .classifier_settings import checked_settings
from .interface import ClassifierError
from .logistic import (
    fit_logistic,
    logistic_shapes,
    logistic_tensors,
    restored_logistic,
)
from .stored import (
    VOCABULARY,
    begin,
    read_weights,
    write_record,
    write_weights,
)

START = "^"
"""How lists of n-grams show the beginning of a reply."""

# The first alternative matches the empty text at the beginning: a "word" that only starts have.
_WORDS = r"^|\w+(?:'\w+)*|[?!\":;.,]"
_SIGNS = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"'})
_MOST_COMMON = 0.9


@dataclass(frozen=True)
class LexicalSettings:
    """How the lexical classifier reads.

    Attributes:
        ngrams: fewest and most words of an n-gram; the paper's are (2, 3).
        stop_words: keep scikit-learn's English ones, and the beginning of a reply; the paper
            does not.
        min_responses: in how many training responses an n-gram must stand.
        c: inverse strength of the L2 penalty.
    """

    ngrams: tuple[int, int] = (1, 3)
    stop_words: bool = True
    min_responses: int = 2
    c: float = 10.0

    def __post_init__(self) -> None:
        if not 1 <= self.ngrams[0] <= self.ngrams[1]:
            raise ClassifierError(
                f"ngrams must be the fewest and the most words of an n-gram, found {self.ngrams}"
            )
        if self.min_responses < 1 or self.c <= 0:
            raise ClassifierError(
                f"min_responses must be from 1 on and c above 0, found {self.min_responses} and "
                f"{self.c}"
            )


class LexicalClassifier:
    """See :class:`~sra_fast.training.pipeline.classifiers.interface.StrategyClassifier`."""

    kind: ClassifierKind = "lexical"

    def __init__(self, vectorizer: Any, model: Any, settings: LexicalSettings) -> None:
        self._vectorizer = vectorizer
        self._model = model
        self._settings = settings

    @classmethod
    def train(
        cls, responses: Sequence[str], strategies: Sequence[str], settings: LexicalSettings
    ) -> LexicalClassifier:
        """Fits on n responses and their strategies; deterministic.

        Raises:
            ClassifierError: no n-gram stands in enough responses.
        """
        vectorizer = _vectorizer(settings)
        try:
            features = vectorizer.fit_transform(_plain_signs(responses))
        except ValueError as error:
            raise ClassifierError(
                f"no n-gram of {settings.ngrams[0]} to {settings.ngrams[1]} words stands in "
                f"{settings.min_responses} of the {len(responses)} responses and at most "
                f"{_MOST_COMMON:.0%} of them; add responses, or lower min_responses"
            ) from error
        return cls(vectorizer, fit_logistic(features, strategies, c=settings.c), settings)

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(str(name) for name in self._model.classes_)

    @property
    def settings(self) -> dict[str, Any]:
        return dataclasses.asdict(self._settings)

    def probabilities(self, responses: Sequence[str]) -> NDArray[numpy.float64]:
        """float64 [n, K]; a response without a known n-gram gets the intercepts' answer."""
        if not responses:
            return numpy.zeros((0, len(self.classes)))
        features = self._vectorizer.transform(_plain_signs(responses))
        found: NDArray[numpy.float64] = self._model.predict_proba(features)
        return found

    def telling_ngrams(self, count: int = 20) -> list[tuple[str, str, float]]:
        """The n-grams that speak most for each strategy: (strategy, n-gram, coefficient)."""
        names = self._vectorizer.get_feature_names_out()
        rows = self._model.coef_
        if len(rows) == 1:  # of two classes
            rows = numpy.concatenate([-rows, rows])
        return [
            (strategy, _shown(names[index]), float(row[index]))
            for strategy, row in zip(self.classes, rows, strict=True)
            for index in numpy.argsort(-row, kind="stable")[:count]
            if row[index] > 0
        ]

    def save(self, folder: str | os.PathLike[str]) -> None:
        path = Path(folder)
        begin(path)
        write_json(path / VOCABULARY, self._vectorizer.get_feature_names_out().tolist())
        write_weights(path, {"idf": self._vectorizer.idf_, **logistic_tensors(self._model)})
        write_record(path, self.kind, self.classes, self.settings)

    @classmethod
    def load(cls, folder: Path, record: dict[str, Any]) -> LexicalClassifier:
        """The classifier of ``save``, equal to the last bit.

        Raises:
            ClassifierError: the folder's files are damaged or do not belong together.
        """
        try:
            text = (folder / VOCABULARY).read_text(encoding="utf-8")
            names = parse_json(text, str(folder / VOCABULARY), raises=ClassifierError)
        except (OSError, UnicodeDecodeError) as error:
            raise ClassifierError(f"{folder / VOCABULARY} cannot be read ({error})") from error
        settings = checked_settings(LexicalSettings, record["settings"])
        if not isinstance(names, list) or not names:
            raise ClassifierError(f"{folder / VOCABULARY} is not a list of n-grams")
        shapes = {"idf": (len(names),), **logistic_shapes(len(record["classes"]), len(names))}
        tensors = read_weights(folder, shapes)
        vectorizer = _vectorizer(settings, {name: index for index, name in enumerate(names)})
        vectorizer.idf_ = tensors["idf"]
        return cls(vectorizer, restored_logistic(record["classes"], tensors), settings)


def _vectorizer(settings: LexicalSettings, vocabulary: dict[str, int] | None = None) -> Any:
    with needed("pipeline", "sklearn"):
        from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, TfidfVectorizer

    return TfidfVectorizer(
        ngram_range=settings.ngrams,
        stop_words=None if settings.stop_words else sorted(ENGLISH_STOP_WORDS | {""}),
        min_df=settings.min_responses,
        max_df=_MOST_COMMON,
        sublinear_tf=True,
        token_pattern=_WORDS,
        vocabulary=vocabulary,
    )


def _plain_signs(responses: Sequence[str]) -> list[str]:
    """With straight quotes, whichever the writer's keyboard makes."""
    return [response.strip().translate(_SIGNS) for response in responses]


def _shown(ngram: str) -> str:
    return START + ngram if ngram == "" or ngram.startswith(" ") else ngram
