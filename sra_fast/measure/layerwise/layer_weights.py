"""Bind a model whose weights stay in files to whatever brings the weights of one part of it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol
from weakref import WeakKeyDictionary

from torch import nn

from sra_fast.measure.unserved import UnservedModelError


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


def refuse_in_files(name: str, decoder: nn.Module) -> None:
    """Refuse a model whose weights are in files, where it has to run by itself.

    Raises:
        UnservedModelError: it is such a model.
    """
    if bound_weights(decoder) is not None:
        raise UnservedModelError(
            f"the weights of {name} are in files, from which sra_fast.score with layerwise=True "
            "alone reads them; load it with from_pretrained"
        )
