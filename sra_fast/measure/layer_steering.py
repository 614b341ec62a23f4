"""The steering of one forward call, which travels to its attention layers like a request."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sra_fast.kernels.steering import Steering
from sra_fast.measure.split_heads import SplitHeads

STEERING = "sra_steering"  # the keyword argument of the model call


@dataclass(frozen=True)
class SteeringStrength:
    """The strength of a steering, and the layers and heads that it reaches.

    Attributes:
        bias: β, as in :class:`~sra_fast.Steering`.
        share: the span's share of the attention, as there.
        exact: whether the share is met exactly, as there.
        heads: the heads that are steered, by ``layer_idx``; None in place of the heads for all.
    """

    bias: float | None
    share: float | None
    exact: bool
    heads: dict[int, tuple[int, ...] | None]


class CallSteering:
    """The steering of one forward call.

    It is no tensor, mapping or tuple, for the reasons that a
    :class:`~sra_fast.measure.request.SpanRequest` is none.

    Args:
        strength: what is done to the span.
        span: ``[B, T]`` bool, the span's tokens among all that the call sees, cached ones included.
        rows: ``[B, M]`` bool, the call's tokens whose attention is steered; None for all.
        split: how the heads are split over processes; None if they are all here.

    Attributes:
        reached: the ``layer_idx`` of the layers that asked for their steering.
    """

    def __init__(
        self,
        strength: SteeringStrength,
        span: Tensor,
        rows: Tensor | None,
        split: SplitHeads | None = None,
    ) -> None:
        self._strength = strength
        self._split = split
        self._span = span
        self._rows = rows
        self._nothing = not bool(span.any()) or (rows is not None and not bool(rows.any()))
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
            ValueError: the layer's cache has dropped keys of the span that its queries should see,
                or holds more keys than the call has tokens, or there is no such head.
        """
        layer = int(module.layer_idx)  # type: ignore[arg-type]
        self.reached.add(layer)
        if layer not in self._strength.heads or self._nothing:
            return None
        dropped = self._span.shape[1] - keys
        if dropped < 0:
            raise ValueError(
                f"steer: layer {layer} holds {keys} keys and the call has {self._span.shape[1]} "
                "tokens, cached ones included, so the span's keys cannot be told"
            )
        if dropped and not windowed and bool(self._span[:, :dropped].any()):
            raise ValueError(
                f"steer: the cache of layer {layer} has dropped {dropped} keys, and tokens of the "
                "span are among them; take a cache that keeps all keys"
            )
        chosen = self._strength.heads[layer]
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
            strength = self._strength
            self._made[key] = Steering(
                self._span[:, dropped:],
                bias=strength.bias,
                share=strength.share,
                exact=strength.exact,
                rows=self._rows,
                heads=mask,
            )
        return self._made[key]
