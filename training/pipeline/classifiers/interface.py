"""The interface that every strategy classifier has."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Protocol

import numpy
from numpy.typing import NDArray

from sra_fast.names import ClassifierKind
from sra_fast.tools.argument_error import ArgumentError


class ClassifierError(ArgumentError):
    """Raised when a classifier, its data or its settings cannot be used; says what to do."""


class StrategyClassifier(Protocol):
    """A trained classifier that says which strategy a reply follows.

    Attributes:
        kind: "lexical", "embedding" or "roberta".
        classes: the K strategies that it tells apart, in the order of its probabilities.
        settings: the settings that it was trained with, as JSON can hold them.
    """

    @property
    def kind(self) -> ClassifierKind: ...

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def settings(self) -> dict[str, Any]: ...

    def probabilities(self, responses: Sequence[str]) -> NDArray[numpy.float64]:
        """Return the probability of each strategy for n responses, float64 ``[n, K]``.

        Args:
            responses: n replies as text.

        Returns:
            Probabilities that add up to 1 for each response, in the order of ``classes``.
        """
        ...

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the classifier into a folder, as safetensors and JSON.

        Raises:
            OSError: the folder cannot be written.
        """
        ...


def check_finite(numbers: NDArray[numpy.float64], what: str) -> None:
    """Check that a model gives numbers, and not NaN, whose greatest one would be any.

    Args:
        numbers: ``[n, …]`` what the model gives for n responses.
        what: the model, with which the message begins.

    Raises:
        ClassifierError: a number is NaN or infinite.
    """
    wrong = (~numpy.isfinite(numbers)).nonzero()[0]
    if len(wrong):
        raise ClassifierError(
            f"{what} gives NaN or infinite numbers for response {wrong[0]}, counted from 0; its "
            "weights are damaged, or its number format is too small",
            "model",
        )


def most_probable(classes: Sequence[str], probabilities: NDArray[numpy.float64]) -> list[str]:
    """Return the most probable strategy of each response; of equal ones the first.

    Args:
        classes: the K strategies.
        probabilities: ``[n, K]`` the probability of each strategy for each response.
    """
    return [classes[index] for index in probabilities.argmax(axis=1)]
