"""Keep what a decoder's layer gives to the next one, and stand in for layers that have run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sra_fast.measure.unserved import UnservedModelError


@dataclass(frozen=True)
class Outline:
    """The form of a layer's output, without its numbers.

    Attributes:
        alone: whether the output is one tensor, and no tuple of tensors.
        shapes: the shape of each tensor, or None where the tuple has None.
    """

    alone: bool
    shapes: tuple[tuple[int, ...] | None, ...]


@dataclass(frozen=True)
class LayerOutput:
    """The output of a layer for the sequences of one call.

    Attributes:
        tensors: the tensors of the output, the hidden states ``[B, T, H]`` first; None where the
            layer's tuple has None.
        alone: whether the layer gave one tensor, and no tuple.
    """

    tensors: tuple[Tensor | None, ...]
    alone: bool

    @property
    def outline(self) -> Outline:
        """The form of this output."""
        shapes = tuple(None if one is None else tuple(one.shape) for one in self.tensors)
        return Outline(self.alone, shapes)

    def given(self) -> Any:
        """Return the output as the layer gave it."""
        return self.tensors[0] if self.alone else self.tensors

    def blank(self, outline: Outline) -> Any:
        """Return an output of another form that holds NaN, of this one's dtype and device.

        Whatever is computed from it is NaN, which tells that it was used.
        """
        first = next(one for one in self.tensors if one is not None)
        tensors = tuple(
            None if shape is None else torch.full(shape, torch.nan).to(first)
            for shape in outline.shapes
        )
        return tensors[0] if outline.alone else tensors

    def is_nan(self) -> bool:
        """Return whether a number in the output is NaN."""
        return any(one is not None and bool(one.sum().isnan()) for one in self.tensors)


def read_output(name: str, layer: Any, output: Any) -> LayerOutput:
    """Read the output of a layer.

    Args:
        name: the name of the model in messages.
        layer: the layer.
        output: what its forward pass returned.

    Raises:
        UnservedModelError: it is no tensor of floating-point numbers, and no tuple of these.
    """
    alone = isinstance(output, Tensor)
    tensors = (output,) if alone else output
    if not isinstance(tensors, tuple) or not all(
        one is None or (isinstance(one, Tensor) and one.is_floating_point()) for one in tensors
    ):
        raise UnservedModelError(
            f"{name} cannot run layer by layer: its layer {type(layer).__name__} gives something "
            f"else than hidden states ({type(output).__name__}), so the next layer may need more"
        )
    return LayerOutput(tensors, alone)
