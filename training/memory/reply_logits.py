"""Compute logits for the labelled positions of a batch alone, to save memory in training.

With V words, the loss of one position takes, in a model in 16 bits, its logits (2 V bytes), their
logarithms of probabilities in float32 (4 V), and in the backward pass two gradients in float32
(8 V): 14 V bytes at the peak. For a row of 8,192 tokens and a vocabulary of 128,256 that is
14.7 GB; for the 600 of its positions that are labelled, perhaps, 1.1 GB.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from transformers.loss.loss_utils import ForCausalLMLoss

from sra_fast.measure.batch_keys import IGNORED_LABEL
from sra_fast.measure.watching import unwrapped
from sra_fast.tools.sra_warning import SRAWarning


@dataclass(frozen=True, eq=False)
class ReplyLoss:
    """The loss that :func:`reply_loss` computed, and what came with it.

    Attributes:
        loss: scalar, with its gradient.
        outputs: the model's own outputs; ``outputs.logits`` are those that were computed.
        full_logits: whether the model computed the logits of every position, because it cannot be
            asked for fewer.
    """

    loss: Tensor
    outputs: Any
    full_logits: bool


def keep_reply_logits(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Make a batch for which a causal language model computes logits at labelled positions alone.

    A model of transformers that is called with it gives the loss it gives for ``batch``, and logits
    ``[B, K, V]``, not ``[B, T, V]``. Caps and scales on the logits are the model's own as ever.

    Args:
        batch: the model's inputs and ``labels [B, T]``, which are -100 where there is no loss.

    Returns:
        The batch and ``logits_to_keep [K]`` int64, the positions that predict a labelled token in
        any row, ascending, and ``shift_labels [B, K]``, the tokens that they predict.

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
    """Compute the model's own loss from the logits of the labelled positions alone.

    Args:
        model: a causal language model, also PEFT-wrapped, compiled or in DDP; it is called as a
            whole, so its hooks run.
        batch: the arguments of its call, with ``labels [B, T]``.
        num_items_in_batch: what the sum over tokens is divided by; the number of labelled tokens
            if None.

    Raises:
        ValueError: no token is labelled.
    """
    reason = why_full_logits(model)
    if reason is None:
        batch = keep_reply_logits(batch)
    else:
        warnings.warn(
            f"logits are computed for every position, not for the replies alone: {reason}",
            SRAWarning,
            stacklevel=2,
        )
    scaled = {} if num_items_in_batch is None else {"num_items_in_batch": num_items_in_batch}
    outputs = model(**batch, **scaled)
    return ReplyLoss(outputs.loss, outputs, reason is not None)


def why_full_logits(model: nn.Module) -> str | None:
    """Return why a model cannot use :func:`keep_reply_logits`, or None if it can."""
    inner = _unwrapped(model)
    if "logits_to_keep" not in inspect.signature(inner.forward).parameters:
        return f"{type(inner).__name__} takes no logits_to_keep"
    if getattr(inner, "loss_function", None) is not ForCausalLMLoss:
        return f"{type(inner).__name__} has a loss of its own"
    return None


def _unwrapped(model: nn.Module) -> Any:
    inner: Any = unwrapped(model)
    return inner.get_base_model() if hasattr(inner, "get_base_model") else inner
