"""The steering of one forward call, which travels to its attention layers like a request."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sra_fast.kernels.steering import Steering
from sra_fast.measure import model_kinds
from sra_fast.measure.split_heads import SplitHeads
from sra_fast.measure.strengths.strength import Strength
from sra_fast.measure.unserved import UnservedAttentionError

STEERING = "sra_steering"  # the keyword argument of the model call


class CallSteering:
    """The steering of one forward call.

    It is no tensor, mapping or tuple, for the reasons that a
    :class:`~sra_fast.measure.request.SpanRequest` is none.

    Args:
        strength: what is done to the steered keys.
        heads: the heads that are steered, by the ``layer_idx`` of the layers that are; None in
            place of the heads for all.
        keys: ``[B, T]`` bool, the tokens whose logits are changed, among all that the call sees,
            cached ones included.
        rows: ``[B, M]`` bool, the call's tokens whose attention is steered; None for all.
        split: how the heads are split over processes; None if they are all here.

    Attributes:
        reached: the ``layer_idx`` of the layers that asked for their steering.
    """

    def __init__(
        self,
        strength: Strength,
        heads: Mapping[int, tuple[int, ...] | None],
        keys: Tensor,
        rows: Tensor | None,
        split: SplitHeads | None = None,
    ) -> None:
        self._strength = strength
        self._heads = heads
        self._keys = keys
        self._split = split
        self._rows = rows
        self._nothing = not bool(keys.any()) or (rows is not None and not bool(rows.any()))
        self._made: dict[tuple[object, ...], Steering] = {}
        self.reached: set[int] = set()

    def of_layer(
        self, module: nn.Module, heads: int, keys: int, *, windowed: bool
    ) -> Steering | None:
        """Return the steering for a layer's attention, or None if nothing is steered there.

        Args:
            module: the attention layer, known by its ``layer_idx``.
            heads: its number of query heads that are here.
            keys: how many keys it holds; the last ones of the call's tokens.
            windowed: whether its queries see no keys but the last ones, so that it may drop others.

        Raises:
            ValueError: the layer's cache has dropped steered keys that its queries should see, or
                holds more keys than the call has tokens, or there is no such head.
            UnservedAttentionError: the strength is one for all rows of a sequence, and the layer
                attends in chunks.
        """
        layer = int(module.layer_idx)  # type: ignore[arg-type]
        self.reached.add(layer)
        if layer not in self._heads or self._nothing:
            return None
        kind = model_kinds.layer_type(module, getattr(module, "config", None))
        if self._strength.pools_rows and kind == "chunked_attention":
            raise UnservedAttentionError(
                f"steer: layer {layer} attends in chunks, of which no mean over all rows of a "
                "sequence is taken, as this way of steering asks; leave such layers out (layers=)"
            )
        dropped = self._keys.shape[1] - keys
        if dropped < 0:
            raise ValueError(
                f"steer: layer {layer} holds {keys} keys and the call has {self._keys.shape[1]} "
                "tokens, cached ones included, so the span's keys cannot be told"
            )
        if dropped and not windowed and bool(self._keys[:, :dropped].any()):
            raise ValueError(
                f"steer: the cache of layer {layer} has dropped {dropped} keys, and steered "
                "ones are among them; take a cache that keeps all keys"
            )
        chosen = self._heads[layer]
        return self._of(heads, dropped, chosen, layer)

    def _of(self, heads: int, dropped: int, chosen: tuple[int, ...] | None, layer: int) -> Steering:
        """Return the steering of some heads without the first keys, made once for all layers."""
        key = (heads, dropped, chosen)
        if key not in self._made:
            mask = None
            here = None if self._split is None else self._split.held_here(heads)
            if self._split is not None and here is not None:
                heads = self._split.total
            if chosen is not None:
                if not all(0 <= head < heads for head in chosen):
                    raise ValueError(
                        f"steer: heads: layer {layer} has the heads 0 to {heads - 1}, got "
                        f"{list(chosen)}"
                    )
                mask = torch.zeros(heads, dtype=torch.bool)
                mask[list(chosen)] = True
                mask = mask if here is None else mask[here]
            keys = self._keys[:, dropped:]
            self._made[key] = self._strength.steering(keys, self._rows, mask)
        return self._made[key]
