"""Bind a model whose weights stay in files to whatever brings the weights of one part of it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol
from weakref import WeakKeyDictionary

from torch import nn

from sra_fast.tools.argument_error import ArgumentError


class LayerWeights(Protocol):
    """An object that puts the weights of a part of a model in place for a while."""

    def in_place(self, part: nn.Module) -> AbstractContextManager[None]:
        """Hold the weights of a layer in memory inside the block, and let go of them afterwards."""
        ...

    def rest_in_place(self) -> AbstractContextManager[None]:
        """Hold the decoder's weights outside of its layers in memory inside the block."""
        ...

    def identity(self) -> str:
        """Return what tells these weights from others, as a SHA-256."""
        ...


_BOUND: WeakKeyDictionary[nn.Module, LayerWeights] = WeakKeyDictionary()


def bind(decoder: nn.Module, weights: LayerWeights) -> None:
    """Let a decoder's weights come from ``weights`` when it is scored layer by layer."""
    _BOUND[decoder] = weights


def bound_weights(decoder: nn.Module) -> LayerWeights | None:
    """Return what brings the weights of a decoder, None if it holds them itself."""
    return _BOUND.get(decoder)


def refuse_weights_in_files(decoder: nn.Module, name: str, purpose: str) -> None:
    """Refuse a model whose weights are in files where its own calls would need them.

    Args:
        decoder: the model's decoder.
        name: what the model is called in the error.
        purpose: what was asked for, as the error calls it.

    Raises:
        ArgumentError: the weights are in files.
    """
    if bound_weights(decoder) is not None:
        raise ArgumentError(
            f"{purpose}: the weights of {name} are in files, so it cannot be called by itself; "
            "score it with sra_fast.score(…, layerwise=True), or load it with from_pretrained"
        )
