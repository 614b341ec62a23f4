"""Switch off some attention heads of a model: what they gather does not leave their layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sra_fast.measure.served import serve

_OUTPUTS = ("o_proj", "out_proj", "dense", "wo")


class AblationError(ValueError):
    """Raised when heads cannot be switched off; the message says which and why."""


@contextmanager
def ablated(model: nn.Module, heads: Sequence[tuple[int, int]]) -> Iterator[None]:
    """Set the outputs of some heads to 0, before their layer's output projection, inside ``with``.

    Args:
        model: any model that ``sra_fast.score`` takes.
        heads: the heads to switch off, each as ``(layer_idx, head)``, counted from 0.

    Raises:
        AblationError: the model has no such layer or head, or the output projection of the layer
            is not found.
    """
    by_layer: dict[int, list[int]] = {}
    for layer, head in heads:
        by_layer.setdefault(layer, []).append(head)
    served = serve(model)
    count = int(served.config.num_attention_heads)
    attentions = {
        module.layer_idx: module
        for module in served.decoder.modules()
        if isinstance(getattr(module, "layer_idx", None), int) and _projection(module) is not None
    }
    with ExitStack() as hooks:
        for layer, of_layer in by_layer.items():
            if layer not in attentions:
                raise AblationError(
                    f"{served.name} has no attention layer {layer} with an output projection "
                    f"({', '.join(_OUTPUTS)})"
                )
            projection: Any = _projection(attentions[layer])
            width, rest = divmod(projection.in_features, count)
            if rest or not all(0 <= head < count for head in of_layer):
                raise AblationError(
                    f"{served.name}, layer {layer}: no heads {of_layer} among {count} in an output "
                    f"of width {projection.in_features}"
                )
            kept = torch.ones(count, width)
            kept[of_layer] = 0.0
            hook = projection.register_forward_pre_hook(_scaling(kept.flatten()))
            hooks.callback(hook.remove)
        yield


def _projection(module: Any) -> Any:
    found = (getattr(module, name, None) for name in _OUTPUTS)
    return next((linear for linear in found if hasattr(linear, "in_features")), None)


def _scaling(kept: Tensor) -> Any:
    def scale(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        states, *others = args
        return (states * kept.to(states), *others)

    return scale
