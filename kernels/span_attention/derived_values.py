"""Keep what is derived from tensors once, until somebody writes into them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from .torch_state import writes

_Value = TypeVar("_Value")
_WRITES = ("writes",)


class DerivedValues(dict[tuple[object, ...], Any]):
    """The values derived from some tensors, by the key that each was first asked for under."""

    def forget_if_written(self, *tensors: Tensor) -> None:
        """Forget all values if the tensors were written into since they were last named here.

        Tensors of inference mode do not count who writes into them, so that is not noticed there.
        """
        now = writes(*tensors)
        if now is not None and self.setdefault(_WRITES, now) != now:
            self.clear()
            self[_WRITES] = now

    def of(self, key: tuple[object, ...], make: Callable[[], _Value]) -> _Value:
        """Return what ``make`` returned when it was first asked for under ``key``."""
        if key not in self:
            if torch.is_inference_mode_enabled():
                with torch.inference_mode(False):  # a later call may train with the same tensors
                    self[key] = make()
            else:
                self[key] = make()
        found: _Value = self[key]
        return found
