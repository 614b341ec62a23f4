"""Check that a layer is handed nothing but hidden states, positions, masks and settings.

A layer that needs more, such as keys that an earlier layer left in a dictionary, would find there
what an unfinished pass left behind.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from sra_fast.measure import compat
from sra_fast.measure.layerwise.layer_output import LayerOutput
from sra_fast.measure.request import SpanRequest
from sra_fast.measure.unserved import UnservedModelError

_SETTINGS = (type(None), bool, int, float, complex, str)


class HandedArguments:
    """The arguments that one call of a layer was handed.

    Args:
        name: the name of the model in messages.
        layer: the layer.
        arguments: its arguments, the positional ones by their numbers.
        before: the output of the layer before, None if this is the first one.

    Raises:
        UnservedModelError: an argument is of a kind that may carry something from layer to layer,
            or was computed from an earlier layer than the one before.
    """

    def __init__(
        self, name: str, layer: Any, arguments: Mapping[str, Any], before: LayerOutput | None
    ) -> None:
        self._name, self._layer = name, type(layer).__name__
        self._leaves = list(_leaves(arguments, ""))
        for place, one in self._leaves:
            if not isinstance(one, (Tensor, SpanRequest, Mapping, list, *_SETTINGS)):
                self._refuse(f"is handed something of type {type(one).__name__} ({place})")
        self._as_handed = self._contents()
        if before is not None and not before.is_nan():
            for place, one in self._leaves:
                if isinstance(one, Tensor) and one.is_floating_point() and bool(one.sum().isnan()):
                    self._refuse(f"is handed more than the layer before it gave ({place})")

    def check_unchanged(self) -> None:
        """Check that the layer left nothing in its arguments for later layers.

        Raises:
            UnservedModelError: it did.
        """
        for place, content in self._contents().items():
            if self._as_handed.get(place) != content:
                self._refuse(f"leaves something for later layers in its arguments ({place})")

    def _contents(self) -> dict[str, Any]:
        """Return what tells whether an argument was changed, by its place."""
        found: dict[str, Any] = {}
        for place, one in self._leaves:
            if isinstance(one, Tensor):
                found[place] = compat.writes_into(one)
            elif isinstance(one, Mapping):
                found[place] = {key: id(value) for key, value in one.items()}
            elif isinstance(one, list):
                found[place] = [id(value) for value in one]
        return found

    def _refuse(self, what: str) -> None:
        raise UnservedModelError(
            f"{self._name} cannot run layer by layer: its layer {self._layer} {what}, so that it "
            "needs more than hidden states, positions and masks; score it whole"
        )


def _leaves(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    """Yield everything inside an argument with its place; of containers also the container."""
    if isinstance(value, Mapping):
        if place:
            yield place, value
        for key, one in value.items():
            yield from _leaves(one, f"{place}.{key}" if place else str(key))
    elif isinstance(value, (list, tuple)):
        if isinstance(value, list):
            yield place, value
        for number, one in enumerate(value):
            yield from _leaves(one, f"{place}[{number}]")
    else:
        yield place, value
