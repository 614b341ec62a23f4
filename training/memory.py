"""Memory at long context: logits for the labelled positions alone, MLPs in slices.

Logits. With V words, the loss of one position takes, in a model in 16 bits, its logits (2 V bytes),
their logarithms of probabilities in float32 (4 V), and in the backward pass two gradients in
float32 (8 V): 14 V bytes at the peak. For a row of 8,192 tokens and a vocabulary of 128,256 that is
14.7 GB; for the 600 of its positions that are labelled, perhaps, 1.1 GB.

MLPs. A gated MLP of width I takes 6 I numbers per token at the peak of its backward pass: the two
projections, the activation and the product that it kept, and two gradients. With I = 14,336, 8,192
tokens and 16 bits that is 1.4 GB, in the layer that gradient checkpointing is about to leave. In s
slices that are recomputed one by one it is 1.4 / s GB, for one more forward pass of the MLP.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers.loss.loss_utils import ForCausalLMLoss
from transformers.modeling_layers import GradientCheckpointingLayer

from sra_fast.served import serve
from sra_fast.watching import IGNORED_LABEL, unwrapped

_MLP_NAMES = ("mlp", "feed_forward", "shared_mlp")
_EXPERT_NAMES = ("experts", "router")
_MIXES_TOKENS = (nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm, nn.RNNBase)


# --- Logits ----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class ReplyLoss:
    """What :func:`reply_loss` gives.

    Attributes:
        loss: scalar, with its gradient.
        outputs: the model's own; ``outputs.logits`` are those that were computed.
        full_logits: the model computed those of every position, because it takes no choice.
    """

    loss: Tensor
    outputs: Any
    full_logits: bool


def keep_reply_logits(batch: Mapping[str, Any]) -> dict[str, Any]:
    """A batch that makes a causal language model compute logits for labelled positions alone.

    A model of transformers that is called with it gives the loss it gives for ``batch``, and logits
    ``[B, K, V]``, not ``[B, T, V]``. Caps and scales on the logits are the model's own as ever.

    Args:
        batch: with ``labels [B, T]``, -100 where there is no loss.

    Returns:
        The batch and ``logits_to_keep [K]`` int64, the positions that predict a labelled token in
        any row, ascending, and ``shift_labels [B, K]``, what they predict.

    Raises:
        ValueError: no token is labelled.
    """
    predicted = F.pad(batch["labels"], (0, 1), value=IGNORED_LABEL)[:, 1:]
    kept = (predicted != IGNORED_LABEL).any(0).nonzero().flatten()
    if not len(kept):
        raise ValueError("labels: no token is labelled, so there is no loss to compute")
    return {**batch, "logits_to_keep": kept, "shift_labels": predicted[:, kept]}


def reply_loss(
    model: nn.Module,
    batch: Mapping[str, Any],
    num_items_in_batch: Tensor | int | None = None,
) -> ReplyLoss:
    """The model's own loss, from the logits of the labelled positions alone.

    Args:
        model: a causal language model, PEFT-wrapped, compiled or in DDP as it may be; it is called
            as a whole, so its hooks run.
        batch: the arguments of its call, with ``labels [B, T]``.
        num_items_in_batch: what the sum over tokens is divided by; their number here if None.

    Raises:
        ValueError: no token is labelled.
    """
    reason = why_full_logits(model)
    if reason is None:
        batch = keep_reply_logits(batch)
    else:
        warnings.warn(
            f"logits are computed for every position, not for the replies alone: {reason}",
            stacklevel=2,
        )
    scaled = {} if num_items_in_batch is None else {"num_items_in_batch": num_items_in_batch}
    outputs = model(**batch, **scaled)
    return ReplyLoss(outputs.loss, outputs, reason is not None)


def why_full_logits(model: nn.Module) -> str | None:
    """Why a model's loss cannot be had from :func:`keep_reply_logits`; None if it can."""
    inner = _unwrapped(model)
    if "logits_to_keep" not in inspect.signature(inner.forward).parameters:
        return f"{type(inner).__name__} takes no logits_to_keep"
    if getattr(inner, "loss_function", None) is not ForCausalLMLoss:
        return f"{type(inner).__name__} has a loss of its own"
    return None


def _unwrapped(model: nn.Module) -> Any:
    inner: Any = unwrapped(model)
    return inner.get_base_model() if hasattr(inner, "get_base_model") else inner


# --- MLPs ------------------------------------------------------------------------------------


@contextmanager
def sliced_mlps(
    model: nn.Module, slices: int, *, recompute: bool = True
) -> Iterator[tuple[str, ...]]:
    """Inside, every MLP of the decoder runs over slices of the sequence, one after the other.

    Outputs and gradients are the same up to rounding, because an MLP treats every token by itself;
    only random draws inside (dropout) differ. Afterwards the model is as it was.

    Args:
        model: as for ``sra_fast.score``. Wrap it (PEFT) before, call ``backward()`` inside.
        slices: how many; shorter sequences take fewer.
        recompute: keep nothing of a slice for the backward pass but what went into it. Without,
            the backward pass finds all slices kept, and training saves less than half.

    Yields:
        The names of the MLPs in the decoder.

    Raises:
        ValueError: ``slices`` below 1, or a layer whose MLP is a mixture of experts (its router's
            record would come in pieces), mixes tokens, or is not a module of its own; names it.
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
        """``[B, T, H] -> [B, T, H]``."""
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
