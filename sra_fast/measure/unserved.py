"""Define the errors that say, by name, what cannot be scored and why."""

from __future__ import annotations

from sra_fast.tools.argument_error import ArgumentError


class UnservedModelError(ValueError):
    """Raised when a model cannot be scored; the message names it and says why."""


class UnservedAttentionError(ValueError):
    """Raised when a layer asks the attention for something that it cannot do exactly."""


class SelfCheckError(ArgumentError, UnservedModelError):
    """Raised when a model's masses are not those of its own eager attention.

    Attributes:
        layer: the ``layer_idx`` of the first layer that differs.
        difference: the largest difference in that layer.
    """

    def __init__(self, name: str, layer: int, difference: float, what: str) -> None:
        super().__init__(
            f"{name} is not measured right: in layer {layer}, {what}, so its scores would be "
            "wrong; please report this family. check=False scores it unchecked",
            "check",
        )
        self.layer = layer
        self.difference = difference
