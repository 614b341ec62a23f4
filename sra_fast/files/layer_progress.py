"""Tell the progress of a batch layer by layer, in tokens."""

from __future__ import annotations

from collections.abc import Callable


class LayerProgress:
    """The progress of batches, of which some are told of layer by layer.

    Args:
        on_progress: called with the number of tokens that count as done now; those of a batch add
            up to its tokens.
    """

    def __init__(self, on_progress: Callable[[int], None]) -> None:
        self._on_progress = on_progress
        self._told = 0

    def on_layer(self, tokens: int, done: int, layers: int) -> None:
        """Tell that a batch of so many tokens has gone through so many of its layers."""
        now = tokens * done // layers
        self._on_progress(now - self._told)
        self._told = now

    def on_batch(self, tokens: int) -> None:
        """Tell that a batch of so many tokens is done."""
        self._on_progress(tokens - self._told)
        self._told = 0
