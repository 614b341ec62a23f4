"""``ReplyTrainer``: SRATrainer for long replies, with logits and evaluation by the token."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from sra_fast.measure.compat import prepared_inputs
from sra_fast.measure.watching import IGNORED_LABEL

from ..memory.reply_logits import keep_reply_logits, why_full_logits
from ..sra.repeated import last_batch
from ..sra.trainer import SRATrainer


class ReplyTrainer(SRATrainer):
    """Computes logits at labelled positions alone; an evaluation loss is a mean over tokens.

    ``Trainer`` averages the losses of evaluation batches, whatever they hold; packed batches differ
    much. With n_b labelled tokens in batch b, and ℓ_b their mean loss, this one gives
    Σ_b n_b·ℓ_b / Σ_b n_b, over all processes, without the examples that accelerate repeats to give
    each process as many. Its batches are those of this package's collators.

    Raises:
        FloatingPointError: also if an evaluation loss is NaN or infinite.
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
        """As the parent's, with fewer logits."""
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
        """As the parent's, of an evaluation for its loss."""
        if not prediction_loss_only:
            step: tuple[Tensor | None, Any, Any] = super().prediction_step(
                model, inputs, prediction_loss_only, ignore_keys
            )
            return step
        inputs = prepared_inputs(self, inputs)
        labels = self._without_repeated(inputs)
        tokens = int((labels[..., 1:] != IGNORED_LABEL).sum())
        if tokens:
            inputs["labels"] = labels  # else all is repeated, and the call is made for the others
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = self.compute_loss(model, inputs).detach()
        self._loss_sum += loss.item() * tokens
        self._tokens += tokens
        return loss, None, None

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """As the parent's, with the loss of :class:`ReplyTrainer`."""
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
                    "learning rate, or prefer bfloat16 to float16; what was saved before is valid"
                )
            prefix = kwargs.get("metric_key_prefix", "eval")
            output.metrics[f"{prefix}_loss"] = loss
        return output

    def _without_repeated(self, inputs: dict[str, Any]) -> Tensor:
        """The labels, -100 in what accelerate repeated in the last batch of several processes."""
        labels: Tensor = inputs["labels"]
        last = last_batch()
        if last is None:
            return labels
        if inputs.get("attention_mask") is None:  # packed in one row
            number = (inputs["position_ids"] == 0).cumsum(-1) - 1
        else:
            number = torch.arange(len(labels), device=labels.device)[:, None]
        return labels.masked_fill(number >= last.kept, IGNORED_LABEL)
