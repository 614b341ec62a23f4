"""What every strategy classifier can do."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Protocol

import numpy
from numpy.typing import NDArray

from sra_fast.names import ClassifierKind
from sra_fast.tools.argument_error import ArgumentError


class ClassifierError(ArgumentError):
    """A classifier, its data or its settings cannot be used; the message says the way out."""


class StrategyClassifier(Protocol):
    """A trained classifier.

    Attributes:
        kind: how it reads a response.
        classes: the K strategies that it tells apart, in the order of its probabilities.
        settings: those it was trained with, as JSON can say them.
    """

    @property
    def kind(self) -> ClassifierKind: ...

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def settings(self) -> dict[str, Any]: ...

    def probabilities(self, responses: Sequence[str]) -> NDArray[numpy.float64]:
        """float64 [n, K], each row with the sum 1."""
        ...

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes it into a folder, as safetensors and JSON."""
        ...


def most_probable(classes: Sequence[str], probabilities: NDArray[numpy.float64]) -> list[str]:
    """The strategy of each row [n, K]; the first of equals."""
    return [classes[index] for index in probabilities.argmax(axis=1)]
