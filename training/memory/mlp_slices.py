"""Run the MLPs of a model in slices over the sequence, exactly and in less memory.

A gated MLP of width I takes 6 I numbers per token at the peak of its backward pass: the two
projections, the activation and the product that it kept, and two gradients. With I = 14,336, 8,192
tokens and 16 bits that is 1.4 GB, in the layer that gradient checkpointing is about to leave. In s
slices that are recomputed one by one it is 1.4 / s GB, for one more forward pass of the MLP.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from sra_fast.measure import compat
from sra_fast.measure.served import serve

_MLP_NAMES = ("mlp", "feed_forward", "shared_mlp")
_EXPERT_NAMES = ("experts", "router")
_MIXES_TOKENS = (compat.convolution_class(), compat.batch_norm_class(), nn.RNNBase)


@contextmanager
def sliced_mlps(
    model: nn.Module, slices: int, *, recompute: bool = True
) -> Iterator[tuple[str, ...]]:
    """Run every MLP of the decoder in slices of the sequence, one by one, inside the block.

    Outputs and gradients are the same up to rounding, because an MLP treats every token by itself;
    only random draws inside (dropout) differ. Afterwards the model is as it was.

    Args:
        model: a model that ``sra_fast.score`` takes. Wrap it (PEFT) before, and call
            ``backward()`` inside.
        slices: number of slices; shorter sequences take fewer.
        recompute: whether to keep only the input of a slice for the backward pass, and compute the
            rest again. Without, the backward pass finds all slices kept, and training saves less
            than half.

    Yields:
        The names of the MLPs in the decoder.

    Raises:
        ValueError: ``slices`` is below 1, or a layer, which is named, has an MLP that is a mixture
            of experts (its router's record would come in pieces), that mixes tokens, or that is
            not a module of its own.
    """
    if slices < 1:
        raise ValueError(f"slices must be at least 1, found {slices}")
    mlps = _mlps(model)
    before = {name: vars(mlp).get("forward") for name, mlp in mlps.items()}
    try:
        for mlp in mlps.values():
            mlp.forward = _in_slices(mlp.forward, slices, recompute)
        yield tuple(mlps)
    finally:
        for name, mlp in mlps.items():
            vars(mlp).pop("forward", None)
            if before[name] is not None:
                mlp.forward = before[name]


def _in_slices(
    forward: Callable[[Tensor], Tensor], slices: int, recompute: bool
) -> Callable[[Tensor], Tensor]:
    def sliced(hidden_states: Tensor) -> Tensor:
        """Run the MLP over slices of its input: ``[B, T, H] -> [B, T, H]``."""
        count = min(slices, hidden_states.shape[-2])
        if count < 2:
            return forward(hidden_states)
        # Contiguous, as the MLP would see them: some take views.
        parts = [part.contiguous() for part in hidden_states.tensor_split(count, dim=-2)]
        if recompute and torch.is_grad_enabled():
            done = [checkpoint(forward, part, use_reentrant=False) for part in parts]
        else:
            done = [forward(part) for part in parts]
        return torch.cat(done, dim=-2)

    return sliced


def _mlps(model: nn.Module) -> dict[str, Any]:
    served = serve(model)
    found: dict[str, Any] = {}
    for name, layer in served.decoder.named_modules():
        if not isinstance(layer, GradientCheckpointingLayer):
            continue
        children = {f"{name}.{child}": getattr(layer, child, None) for child in _MLP_NAMES}
        mlps = {path: mlp for path, mlp in children.items() if isinstance(mlp, nn.Module)}
        if not mlps:
            raise ValueError(
                f"{served.name}: {name} ({type(layer).__name__}) has no module of its own for its "
                f"MLP (looked for {', '.join(_MLP_NAMES)}), so it cannot run in slices"
            )
        for part, module in layer.named_modules():
            if part.rpartition(".")[2] in _EXPERT_NAMES:
                raise ValueError(
                    f"{served.name}: {name}.{part} ({type(module).__name__}) belongs to a mixture "
                    "of experts, whose router keeps a record over the whole sequence; leave its "
                    "MLPs whole"
                )
        for path, mlp in mlps.items():
            mixing = [m for m in mlp.modules() if isinstance(m, _MIXES_TOKENS)]
            if mixing:
                raise ValueError(
                    f"{served.name}: {path} holds a {type(mixing[0]).__name__}, which looks at "
                    "other tokens, so it cannot run in slices"
                )
        found |= mlps
    if not found:
        raise ValueError(f"{served.name} has no layers of transformers' kind to find MLPs in")
    return found
