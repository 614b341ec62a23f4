"""Train with ``SRATrainer``, whose loss also draws attention towards the strategy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from sra_fast.tools.missing_extra import needed

with needed("train", "accelerate"):
    from transformers import Trainer

from sra_fast.measure.batch_keys import carries_masks, read_marks, without_marks
from sra_fast.measure.compat import checks_gradient_norm
from sra_fast.measure.served import ServedModel, serve, switched
from sra_fast.measure.watching import WatchedCall, is_watched, unwrapped, watching
from sra_fast.names import Differentiable

from .callback import HOW_MASKS_ARRIVE
from .regulariser import SRARegulariser

_WAYS_OUT = (
    "lower the learning rate or sra_weight, prefer bfloat16 to float16, or look for a broken "
    "checkpoint"
)


@checks_gradient_norm
class SRATrainer(Trainer):  # type: ignore[misc]
    """A trainer whose loss penalises responses that attend little to their strategy.

    The loss of an optimizer step is the model's own plus the mean over the step's N responses of

        −w · f(SRA)     or, with a target,     w · max(0, f(target) − f(SRA))

    where f is the natural logarithm (``sra_log``) or the identity (:mod:`.regulariser`). N counts
    the responses of every accumulated batch and process, as ``num_items_in_batch`` counts tokens:
    however a step is cut up, it is the same step. The gradient is the exact one, from the one
    forward pass. Evaluation losses are the language model's alone.

    Batches are as :class:`SRACallback` takes them, and the two go together. Logs of training steps
    gain ``sra_loss``, the penalty, and ``lm_loss``, the rest of ``loss``.

    Args:
        sra_weight: the weight w; 0 trains on the language-model loss alone.
        sra_target: the SRA to reach; None to raise it without end.
        sra_log: whether f is the logarithm.
        sra_layers: ``layer_idx`` of the layers whose SRA counts; all if None.
        sra_heads: numbers of the heads whose SRA counts, in each of these layers; all if None.
        sra_definition: the definition of SRA, "paper" or "mass".
        args, kwargs: the arguments of ``transformers.Trainer``.

    Raises:
        ValueError: a weight, target, layer or head that cannot be; reentrant checkpointing or
            ``nn.DataParallel`` with a weight; or, from a step, masks that do not arrive.
        UnservedModelError: the model does not take the attention interface.
        FloatingPointError: the loss or the gradient of a step is NaN or infinite. The step is not
            applied.
    """

    def __init__(
        self,
        *args: Any,
        sra_weight: float = 0.0,
        sra_target: float | None = None,
        sra_log: bool = True,
        sra_layers: Sequence[int] | None = None,
        sra_heads: Sequence[int] | None = None,
        sra_definition: Differentiable = "paper",
        **kwargs: Any,
    ) -> None:
        self.sra_regulariser = SRARegulariser(
            sra_weight, sra_target, sra_log, sra_definition, sra_layers, sra_heads
        )
        self._served: ServedModel | None = None
        self._answers: list[WatchedCall] = []
        self._responses = 0
        self._penalty = 0.0
        self._steps = 0
        super().__init__(*args, **kwargs)
        self.args.remove_unused_columns = False
        if not sra_weight:
            for name, value in (
                ("target", sra_target),
                ("layers", sra_layers),
                ("heads", sra_heads),
            ):
                if value is not None:
                    raise ValueError(f"sra_{name} has no effect without a weight; give sra_weight")
            return
        if self.args.n_gpu > 1:
            raise ValueError(
                "sra_weight does not go with nn.DataParallel; start one process per GPU "
                "(accelerate launch, torchrun)"
            )
        checkpointing = self.args.gradient_checkpointing_kwargs or {}
        if self.args.gradient_checkpointing and checkpointing.get("use_reentrant"):
            raise ValueError(
                "sra_weight needs gradient checkpointing that is not reentrant (the reentrant kind "
                "gives the attention mass no gradient): "
                "TrainingArguments(gradient_checkpointing_kwargs={'use_reentrant': False})"
            )
        served = self._serve()
        if served.attention_layers:
            self.sra_regulariser.check_layers(served.attention_layers, served.name)

    def get_batch_samples(
        self, epoch_iterator: Any, num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """Fetch the batches of an optimizer step, and count the responses in them."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self.sra_regulariser.weight and batches:
            own = torch.tensor([sum(map(self._count, batches))], device=device)
            self._responses = int(self.accelerator.gather(own).sum())
            self._steps += 1
        return batches, items

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train as ``Trainer.train`` does, with the penalty counted from 0."""
        self._penalty, self._steps = 0.0, 0
        return super().train(*args, **kwargs)

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        """Run the forward and backward pass of one batch, and keep the masses in between."""
        with ExitStack() as watched:
            if self.sra_regulariser.weight:
                served = self._serve()
                watched.enter_context(switched(served))  # until after the backward pass
                watched.enter_context(watching(served, self._answers.append, mass_grad=True))
            loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        if not bool(loss.isfinite()):
            raise FloatingPointError(
                f"the loss is {loss.item()} in step {self.state.global_step + 1}: {_WAYS_OUT}. "
                f"{self._nothing_lost}"
            )
        return loss

    def check_gradient_norm(self, norm: Any) -> None:
        """Refuse a gradient that is not finite, before the optimizer takes the step."""
        skips = self.accelerator.scaler is not None  # float16: steps that overflow are left out
        if norm is not None and not skips and not math.isfinite(float(norm)):
            raise FloatingPointError(
                f"the gradient is {float(norm)} in step {self.state.global_step + 1}, at a finite "
                f"loss: {_WAYS_OUT}. {self._nothing_lost}"
            )

    @property
    def _nothing_lost(self) -> str:
        return (
            f"This step was not applied; what was saved in {self.args.output_dir} before is valid, "
            "and training can go on from there"
        )

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Compute the model's loss and, in training, add the penalty."""
        if not self.sra_regulariser.weight or not torch.is_grad_enabled():
            if not is_watched(self.model):
                inputs = without_marks(inputs)
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        self._answers.clear()
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if not self._answers:
            raise ValueError(f"no masks arrived at the model in this step; {HOW_MASKS_ARRIVE}")
        total = sum(self.sra_regulariser.total(answer) for answer in self._answers)
        self._answers.clear()
        # Gradients are averaged over processes, which makes this the mean over all N responses.
        penalty = total * self.accelerator.num_processes / self._responses
        self._penalty = self._penalty + penalty.detach()
        if not self._loss_is_scaled(num_items_in_batch):
            penalty = penalty * self.current_gradient_accumulation_steps
        loss = loss + penalty.to(loss.device, loss.dtype)
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log as ``Trainer.log`` does, with the two parts of a training loss added."""
        if "loss" in logs and self._steps:
            penalty = torch.as_tensor(self._penalty, device=self.args.device).float().reshape(1)
            logs["sra_loss"] = self.accelerator.gather(penalty).mean().item() / self._steps
            logs["lm_loss"] = logs["loss"] - logs["sra_loss"]
            self._penalty, self._steps = 0.0, 0
        super().log(logs, start_time)

    def _serve(self) -> ServedModel:
        inner = unwrapped(self.model)
        if self._served is None or self._served.top is not inner:
            self._served = serve(inner)
        return self._served

    def _count(self, batch: dict[str, Any]) -> int:
        """Return the number of responses in a batch."""
        if not carries_masks(batch):
            raise ValueError(f"a batch has no masks to train on; {HOW_MASKS_ARRIVE}")
        marked = read_marks(self._serve(), batch)
        return sum(len(sequence.responses) for sequence in marked.sequences)

    def _loss_is_scaled(self, num_items_in_batch: Any) -> bool:
        """Return whether ``training_step`` does not divide the loss by the accumulated batches."""
        said = getattr(self, "loss_is_scaled_for_ga", None)
        if said is not None:
            return bool(said)
        return self.compute_loss_func is not None or (
            self.model_accepts_loss_kwargs and num_items_in_batch is not None
        )
