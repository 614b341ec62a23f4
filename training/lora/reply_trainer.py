"""Train on long replies, with logits at labelled positions only and evaluation by the token."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from sra_fast.measure.batch_keys import IGNORED_LABEL
from sra_fast.measure.compat import prepared_inputs

from ..memory.reply_logits import keep_reply_logits, why_full_logits
from ..sra.repeated import last_batch
from ..sra.trainer import SRATrainer


class ReplyTrainer(SRATrainer):
    """An ``SRATrainer`` that takes less memory, and averages evaluation losses over tokens.

    Logits are computed at labelled positions only, where the model allows it.

    ``Trainer`` averages the losses of evaluation batches, however many tokens each has; packed
    batches differ a lot. With n_b labelled tokens in batch b, and ℓ_b their mean loss in nats, this
    class gives Σ_b n_b·ℓ_b / Σ_b n_b over all processes. Examples that accelerate repeats, so that
    each process has the same number, are left out. Batches come from this package's collators.

    Args:
        args, kwargs: the arguments of ``SRATrainer``.

    Attributes:
        why_full_logits: why logits are computed at every position all the same; None if they are
            not.

    Raises:
        FloatingPointError: the loss or gradient of a step, or an evaluation loss, is NaN or
            infinite.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.why_full_logits = why_full_logits(self.model)
        self._loss_sum, self._tokens = 0.0, 0

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Compute the loss as the parent class does, with logits at labelled positions only."""
        if self.why_full_logits is None:
            inputs = keep_reply_logits(inputs)
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Any, Any]:
        """Evaluate one batch, and add its loss to the sum over tokens if only that is wanted."""
        if not prediction_loss_only:
            step: tuple[Tensor | None, Any, Any] = super().prediction_step(
                model, inputs, prediction_loss_only, ignore_keys
            )
            return step
        inputs = prepared_inputs(self, inputs)
        labels = self._without_repeated(inputs)
        tokens = int((labels[..., 1:] != IGNORED_LABEL).sum())
        if tokens:
            inputs["labels"] = (
                labels  # otherwise all is repeated; the other processes wait for the call
            )
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = self.compute_loss(model, inputs).detach()
        self._loss_sum += loss.item() * tokens
        self._tokens += tokens
        return loss, None, None

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate as the parent class does, and report the mean loss over tokens in nats."""
        self._loss_sum, self._tokens = 0.0, 0
        output = super().evaluation_loop(*args, **kwargs)
        own = torch.tensor(
            [[self._loss_sum, float(self._tokens)]], dtype=torch.float64, device=self.args.device
        )
        total, tokens = self.accelerator.gather(own).sum(0).tolist()
        if tokens:
            loss = total / tokens
            if not math.isfinite(loss):
                raise FloatingPointError(
                    f"the evaluation loss is {loss} at step {self.state.global_step}: lower the "
                    "learning rate, or prefer bfloat16 to float16; earlier checkpoints are valid"
                )
            prefix = kwargs.get("metric_key_prefix", "eval")
            output.metrics[f"{prefix}_loss"] = loss
        return output

    def _without_repeated(self, inputs: dict[str, Any]) -> Tensor:
        """Return the labels, -100 in the examples that accelerate repeated in the last batch."""
        labels: Tensor = inputs["labels"]
        last = last_batch()
        if last is None:
            return labels
        if inputs.get("attention_mask") is None:  # packed in one row
            number = (inputs["position_ids"] == 0).cumsum(-1) - 1
        else:
            number = torch.arange(len(labels), device=labels.device)[:, None]
        return labels.masked_fill(number >= last.kept, IGNORED_LABEL)
