"""Define what a way of steering says: which keys it steers, and what becomes of their logits."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from sra_fast.kernels.steering import Steering
from sra_fast.measure.spans import MarkedSequence


class Strength(ABC):
    """A way of steering, with its strength."""

    pools_rows = False
    """True if a row's steering depends on the other rows of its sequence in the call."""

    def keys(self, sequence: MarkedSequence, span: Tensor) -> Tensor:
        """Return whose logits are changed, ``[length]`` bool: the tokens of the span.

        Args:
            sequence: one sequence of the batch.
            span: ``[length]`` bool, the tokens of the span in it.

        Raises:
            BatchRowError: the sequence cannot be steered this way.
        """
        return span

    @abstractmethod
    def steering(self, keys: Tensor, rows: Tensor | None, heads: Tensor | None) -> Steering:
        """Return the steering of one attention call.

        Args:
            keys: ``[B, N]`` bool, the keys whose logits are changed.
            rows: ``[B, M]`` bool, the queries that are steered; None for all.
            heads: ``[Hq]`` bool, the heads that are steered; None for all.
        """
