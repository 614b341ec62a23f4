"""Say how a model is scored layer by layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sra_fast.tools.argument_error import ArgumentError

CALL_TOKENS = 2048
"""The most tokens of one call of a layer, unless one sequence is longer."""


@dataclass(frozen=True)
class Layerwise:
    """The settings with which :func:`sra_fast.score` runs a model layer by layer.

    Attributes:
        call_tokens: the most tokens that go through a layer at once (or one sequence, if that is
            longer), and of a slice of its MLP; it bounds the memory beside the kept hidden states,
            and changes no score beyond rounding.
        on_layer: called after each layer with the number of layers that all sequences of the pass
            have gone through, and of those that they will go through.
        keep: a folder in which the hidden states and the masses so far are kept, so that a killed
            call continues after the last layer kept when it is made again; None keeps nothing. The
            files appear whole or not at all, and are removed when the call ends.
        keep_seconds: the least time between two times of keeping, in seconds.

    Raises:
        ArgumentError: ``call_tokens`` is below 1, or ``keep_seconds`` below 0.
    """

    call_tokens: int = CALL_TOKENS
    on_layer: Callable[[int, int], None] = lambda done, layers: None
    keep: str | Path | None = None
    keep_seconds: float = 30.0

    def __post_init__(self) -> None:
        if self.call_tokens < 1:
            raise ArgumentError(
                f"call_tokens must be at least 1, got {self.call_tokens}", "call_tokens"
            )
        if not self.keep_seconds >= 0:
            raise ArgumentError(
                f"keep_seconds must be at least 0, got {self.keep_seconds}", "keep_seconds"
            )
