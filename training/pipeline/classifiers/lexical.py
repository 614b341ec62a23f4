"""The ``lexical`` classifier: a logistic regression on n-grams of words, weighted by tf-idf.

The appendix of the paper uses 2- and 3-grams without stop words. In one to three sentences that
leaves too little: stop words are most of what tells "do you mean" from "you could". Here
punctuation marks and the beginning of a reply count as words, too. Accuracy in 4-fold
cross-validation on the library's own training replies (15 strategies × 60), by which the default
was chosen:

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
"""The sign for the beginning of a reply in lists of n-grams."""

# The first alternative matches the empty text where a reply begins, and makes it a "word".
_WORDS = r"^|\w+(?:'\w+)*|[?!\":;.,]"
_SIGNS = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"'})
_MOST_COMMON = 0.9  # an n-gram that stands in a larger share of the responses is not used


@dataclass(frozen=True)
class LexicalSettings:
    """The settings of the lexical classifier.

    Attributes:
        ngrams: the fewest and the most words of an n-gram; the paper has (2, 3).
        stop_words: whether to keep scikit-learn's English stop words, and the beginning of a reply;
            the paper does not.
        min_responses: the number of training responses that an n-gram must stand in to be used.
        c: the inverse strength of the L2 penalty, above 0.

    Raises:
        ClassifierError: a value is out of range.
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
                f"min_responses must be at least 1 and c above 0, found {self.min_responses} and "
                f"{self.c}"
            )


class LexicalClassifier:
    """A classifier that reads the n-grams of a reply; see ``StrategyClassifier``."""

    kind: ClassifierKind = "lexical"

    def __init__(self, vectorizer: Any, model: Any, settings: LexicalSettings) -> None:
        self._vectorizer = vectorizer
        self._model = model
        self._settings = settings

    @classmethod
    def train(
        cls, responses: Sequence[str], strategies: Sequence[str], settings: LexicalSettings
    ) -> LexicalClassifier:
        """Fit the classifier on n responses and their n strategies, without randomness.

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
        """The K strategies that it tells apart, in the order of its probabilities."""
        return tuple(str(name) for name in self._model.classes_)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that it was trained with, as JSON can hold them."""
        return dataclasses.asdict(self._settings)

    def probabilities(self, responses: Sequence[str]) -> NDArray[numpy.float64]:
        """Return the probability of each strategy for n responses, float64 ``[n, K]``.

        A response without a known n-gram gets the probabilities of the intercepts.
        """
        if not responses:
            return numpy.zeros((0, len(self.classes)))
        features = self._vectorizer.transform(_plain_signs(responses))
        found: NDArray[numpy.float64] = self._model.predict_proba(features)
        return found

    def telling_ngrams(self, count: int = 20) -> list[tuple[str, str, float]]:
        """List the n-grams that speak most for each strategy, with their coefficients.

        Args:
            count: most n-grams of a strategy.

        Returns:
            (strategy, n-gram, coefficient) with coefficients above 0, the largest first.
        """
        names = self._vectorizer.get_feature_names_out()
        coefficients = self._model.coef_
        if len(coefficients) == 1:  # two classes share one list
            coefficients = numpy.concatenate([-coefficients, coefficients])
        return [
            (strategy, _shown(names[index]), float(mine[index]))
            for strategy, mine in zip(self.classes, coefficients, strict=True)
            for index in numpy.argsort(-mine, kind="stable")[:count]
            if mine[index] > 0
        ]

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write n-grams, their weights, the regression and ``classifier.json`` into a folder."""
        path = Path(folder)
        begin(path)
        write_json(path / VOCABULARY, self._vectorizer.get_feature_names_out().tolist())
        write_weights(path, {"idf": self._vectorizer.idf_, **logistic_tensors(self._model)})
        write_record(path, self.kind, self.classes, self.settings)

    @classmethod
    def load(cls, folder: Path, record: dict[str, Any]) -> LexicalClassifier:
        """Read the classifier that ``save`` wrote; its probabilities are equal to the last bit.

        Args:
            folder: the folder.
            record: the content of its ``classifier.json``.

        Raises:
            ClassifierError: the files of the folder are damaged or do not belong together.
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
    """Strip the responses and replace curly quotes by straight ones, so that both are the same."""
    return [response.strip().translate(_SIGNS) for response in responses]


def _shown(ngram: str) -> str:
    return START + ngram if ngram == "" or ngram.startswith(" ") else ngram
