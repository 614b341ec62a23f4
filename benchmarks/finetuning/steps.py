"""Run steps of one LoRA training in four ways that watch SRA differently, and time them.

Nobody watches, the callback does, SRA is in the loss, or, as people do without this library, a
second forward pass returns attention maps. Every way runs the same Trainer on the same row of
tokens, and logs each step. The learning rate is 0: the optimizer works as ever, but each step of
each way computes the same numbers, so that they can be compared.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PrinterCallback, TrainerCallback, TrainingArguments
from transformers.utils.logging import disable_progress_bar

from benchmarks.measuring.alternatives import attending
from sra_fast.training import PackingCollator, SRACallback
from sra_fast.training.lora.reply_trainer import ReplyTrainer

TrainingWay = Literal["plain", "callback", "regulariser", "maps"]
WAYS: dict[TrainingWay, str] = {
    "plain": "nobody watches",
    "callback": "SRACallback",
    "regulariser": "SRA in the loss",
    "maps": "a second, eager forward with output_attentions",
}

WEIGHT = 0.1  # the weight of SRA in the loss
STRATEGY = "Question"


@dataclass(frozen=True)
class Stepped:
    """The time and the results of some steps of one way.

    Attributes:
        seconds: the time of each step but the first, from the end of the one before, logs
            included.
        loss: the language model's loss in the last step.
        sra: the SRA of the last step under the paper's definition; None if nobody watched.
    """

    seconds: tuple[float, ...]
    loss: float
    sra: float | None


class Training:
    """A training of a model with a new adapter on one conversation that fills a row.

    Args:
        model: the model on its device; it is wrapped in an adapter.
        batch: ``input_ids``, ``strategy_mask`` and ``response_mask`` ``[1, T]``; the loss is on
            the response.
        rank: the rank of LoRA, on all linear layers.
        checkpointing: whether the forward pass keeps only the layers' inputs.
    """

    def __init__(
        self, model: nn.Module, batch: Mapping[str, Tensor], rank: int, *, checkpointing: bool
    ) -> None:
        from peft import LoraConfig, get_peft_model

        ids, response = batch["input_ids"][0], batch["response_mask"][0]
        self._example = {
            "input_ids": ids,
            "labels": ids.masked_fill(~response, -100),
            "strategy_mask": batch["strategy_mask"][0],
            "response_mask": response,
            "strategy": STRATEGY,
        }
        self._checkpointing = checkpointing
        torch.manual_seed(0)
        adapter = LoraConfig(
            r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM"
        )
        self._model = get_peft_model(model, adapter)
        disable_progress_bar()

    def unload(self) -> None:
        """Take the adapter off the model again."""
        self._model.unload()

    def run(self, way: TrainingWay, steps: int) -> Stepped:
        """Train this many steps, at least two, in one of the ways."""
        clock = _Clock()
        callbacks: list[TrainerCallback] = [clock]
        if way in ("callback", "regulariser"):
            callbacks.append(SRACallback())
        kind = _WithMaps if way == "maps" else ReplyTrainer
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            trainer = kind(
                self._model,
                self._arguments(folder, steps),
                data_collator=PackingCollator(),
                train_dataset=[self._example] * steps,
                callbacks=callbacks,
                sra_weight=WEIGHT if way == "regulariser" else 0.0,
            )
            trainer.remove_callback(PrinterCallback)
            for callback in callbacks[1:]:
                stack.callback(callback.close)
            trainer.train()
        last = [entry for entry in trainer.state.log_history if "loss" in entry][-1]
        return Stepped(
            seconds=tuple(after - before for before, after in pairwise(clock.ended)),
            loss=last.get("lm_loss", last["loss"]),
            sra=last.get("sra"),
        )

    def _arguments(self, folder: str, steps: int) -> TrainingArguments:
        parameter = next(self._model.parameters())
        return TrainingArguments(
            output_dir=folder,
            use_cpu=parameter.device.type == "cpu",
            bf16=parameter.dtype is torch.bfloat16,
            per_device_train_batch_size=1,
            max_steps=steps,
            learning_rate=0.0,
            logging_steps=1,
            save_strategy="no",
            gradient_checkpointing=self._checkpointing,
            gradient_checkpointing_kwargs={"use_reentrant": False},
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            disable_tqdm=True,
            report_to=[],
        )


class _Clock(TrainerCallback):  # type: ignore[misc]
    """A callback that notes the moment at which each step had ended and was logged."""

    def __init__(self) -> None:
        self.ended: list[float] = []

    def on_log(
        self, args: TrainingArguments, state: Any, control: Any, logs: Any, **kwargs: Any
    ) -> None:
        if "loss" not in logs:
            return
        if args.device.type == "cuda":
            torch.cuda.synchronize()
        self.ended.append(time.perf_counter())


class _WithMaps(ReplyTrainer):
    """A trainer that computes SRA from attention maps, in a forward pass of its own."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._sra: Tensor | None = None

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], *more: Any, **kwargs: Any
    ) -> Any:
        """Return the parent's loss, and compute SRA from maps after it."""
        loss = super().compute_loss(model, inputs, *more, **kwargs)
        base = self.model.get_base_model()
        with attending(base, "eager"):
            maps = base.model(
                inputs["input_ids"], use_cache=False, output_attentions=True
            ).attentions
        rows, span = inputs["response_mask"][0] > 0, inputs["strategy_mask"][0]
        on_span = [weights[0][:, rows][:, :, span].float().mean() for weights in maps]
        self._sra = torch.stack(on_span).mean()
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log what the parent logs, with SRA beside the loss."""
        if self._sra is not None and "loss" in logs:
            logs["sra"] = self._sra.item()
        super().log(logs, start_time)


def alternate(
    training: Training,
    ways: Sequence[TrainingWay],
    rounds: int,
    steps: int,
    goes_on: Callable[[], bool],
) -> dict[TrainingWay, list[Stepped]]:
    """Run every way in turn, once per round, and return what each found.

    It ends before a round, but not before the first, if ``goes_on`` returns False.
    """
    done: dict[TrainingWay, list[Stepped]] = {way: [] for way in ways}
    for number in range(rounds):
        if number and not goes_on():
            break
        for way in ways:
            done[way].append(training.run(way, steps))
    return done


def ratios(done: Mapping[TrainingWay, Sequence[Stepped]]) -> dict[TrainingWay, float]:
    """Return each way's time divided by the plain one's, the median over rounds."""
    return {
        way: median(
            median(mine.seconds) / median(plain.seconds)
            for mine, plain in zip(turns, done["plain"], strict=True)
        )
        for way, turns in done.items()
    }
