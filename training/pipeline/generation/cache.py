"""Keep keys and values in a cache with spare room, where a new token is written in place.

``DynamicLayer`` of transformers concatenates, so that every new token copies all keys and values
before it. On a CPU the copies take longer than the model itself.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer

_ROOM = 64  # spare tokens; when they are used up, everything moves to a larger tensor


def growing_cache(config: PreTrainedConfig) -> DynamicCache:
    """Return an empty cache for a model, with room in every layer that keeps all keys.

    Other layers, such as those with a sliding window, are those of transformers.

    Args:
        config: the configuration of the model.
    """
    cache = DynamicCache(config=config)
    cache.layers = [
        GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers
    ]
    return cache


class GrowingLayer(DynamicLayer):  # type: ignore[misc]
    """The keys and values of one layer in tensors with spare room at the end.

    Attributes:
        keys: ``[B, H, T, D]``, a view of the front of a longer tensor.
        values: ``[B, H, T, D]``, a view of the front of a longer tensor.
    """

    keys: Tensor
    values: Tensor

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Make the layer empty, in the dtype and on the device of the given states."""
        super().lazy_initialization(key_states, value_states)
        self._key_place, self._value_place = self.keys, self.values

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append the keys and values of N new tokens, and return those of all tokens.

        Args:
            key_states: the new keys, ``[B, H, N, D]``.
            value_states: the new values, ``[B, H, N, D]``.

        Returns:
            All keys and all values, ``[B, H, T + N, D]`` each.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys, self._key_place = _appended(self.keys, key_states, self._key_place)
        self.values, self._value_place = _appended(self.values, value_states, self._value_place)
        return self.keys, self.values


def _appended(held: Tensor, new: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``held`` followed by ``new`` along T, and the tensor whose front they are.

    That tensor is ``place`` if ``held`` is its front and ``new`` fits after it, else a larger one.
    """
    begun = held.shape[-2] if held.numel() else 0
    end = begun + new.shape[-2]
    is_front = begun > 0 and held.data_ptr() == place.data_ptr()  # False once rows were selected
    if not is_front or place.shape[-2] < end:
        place = new.new_empty(*new.shape[:-2], end + _ROOM, new.shape[-1])
        if begun:
            place[..., :begun, :] = held
    place[..., begun:end, :] = new
    return place[..., :end, :], place
