"""A KV cache with room: a new token is written behind the others, which stay where they are.

``DynamicLayer`` concatenates, so that every token copies all keys and values before it. On a CPU
that takes longer than the model itself.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer

_ROOM = 64  # tokens that fit before everything moves to a larger place


def growing_cache(config: PreTrainedConfig) -> DynamicCache:
    """An empty cache for a model; layers that do not keep all keys stay as they are."""
    cache = DynamicCache(config=config)
    cache.layers = [
        GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers
    ]
    return cache


class GrowingLayer(DynamicLayer):  # type: ignore[misc]
    """``keys`` and ``values``, ``[B, H, T, D]``, are the front of tensors with room behind them."""

    keys: Tensor
    values: Tensor

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Empty, in the dtype and on the device of these."""
        super().lazy_initialization(key_states, value_states)
        self._key_place, self._value_place = self.keys, self.values

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Appends ``[B, H, N, D]`` each; returns all."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys, self._key_place = _appended(self.keys, key_states, self._key_place)
        self.values, self._value_place = _appended(self.values, value_states, self._value_place)
        return self.keys, self.values


def _appended(held: Tensor, new: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    """Both along T, and where they lie: in ``place`` if they fit there behind ``held``."""
    begun = held.shape[-2] if held.numel() else 0
    end = begun + new.shape[-2]
    is_front = begun > 0 and held.data_ptr() == place.data_ptr()  # not so when rows were selected
    if not is_front or place.shape[-2] < end:
        place = new.new_empty(*new.shape[:-2], end + _ROOM, new.shape[-1])
        if begun:
            place[..., :begun, :] = held
    place[..., begun:end, :] = new
    return place[..., :end, :], place
