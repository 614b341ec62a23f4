"""Stand at the door of each layer of a decoder, and decide what happens when it is called.

As a rule a layer's weights are put in place, it runs, and they are let go again: so a decoder whose
weights are in files runs as any other, and reads all of them once in each forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from sra_fast.measure.layerwise.layer_weights import LayerWeights
from sra_fast.measure.layerwise.token_slices import sliced_parts
from sra_fast.measure.unserved import UnservedModelError

Visit: TypeAlias = Callable[[nn.Module, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
"""A function that is called in a layer's place, with the layer, its forward and its arguments."""


class LayerDoors:
    """The doors of a decoder's layers.

    Args:
        weights: what brings the weights of a layer.
    """

    def __init__(self, weights: LayerWeights) -> None:
        self._weights = weights
        self._visit: Visit | None = None

    @contextmanager
    def visited(self, visit: Visit) -> Iterator[None]:
        """Call ``visit`` in the place of every layer inside the block."""
        self._visit = visit
        try:
            yield
        finally:
            self._visit = None

    @contextmanager
    def open(self, layer: nn.Module) -> Iterator[None]:
        """Hold the weights of a layer in memory inside the block."""
        with self._weights.in_place(layer), sliced_parts(layer):
            yield

    def called(
        self, layer: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        """Answer a call of a layer."""
        if self._visit is not None:
            return self._visit(layer, forward, args, kwargs)
        with self.open(layer):
            return forward(*args, **kwargs)


@contextmanager
def layer_doors(name: str, decoder: nn.Module, weights: LayerWeights) -> Iterator[LayerDoors]:
    """Let a decoder run inside the block, with the weights of one layer at a time.

    Args:
        name: the name of the model in messages.
        decoder: the decoder.
        weights: what brings its weights.

    Raises:
        UnservedModelError: it has no layers of transformers' kind.
    """
    layers = decoder_layers(decoder)
    if not layers:
        raise UnservedModelError(
            f"{name} cannot run layer by layer: it has no layers of transformers' kind "
            "(GradientCheckpointingLayer); score it whole"
        )
    doors = LayerDoors(weights)
    try:
        for layer in layers:
            layer.forward = partial(doors.called, layer, layer.forward)
        with weights.rest_in_place():
            yield doors
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)


def decoder_layers(decoder: nn.Module) -> list[Any]:
    """Return the layers of a decoder, in the order in which it holds them, each once."""
    found: list[Any] = []

    def look_into(module: nn.Module) -> None:
        for child in module.children():
            if isinstance(child, GradientCheckpointingLayer):
                if all(child is not one for one in found):
                    found.append(child)
            else:
                look_into(child)

    look_into(decoder)
    return found
