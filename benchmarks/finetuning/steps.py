"""Steps of one LoRA training, four ways: nobody watches, the callback does, SRA is in the loss, and
what people do without this library, a second forward pass for its attention maps.

Every way runs the same Trainer on the same row of tokens, and logs each step. The learning rate is
0: the optimizer works as ever, but each step of each way computes the same numbers, so that they
can be compared.
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

WEIGHT = 0.1  # of SRA in the loss
STRATEGY = "Question"


@dataclass(frozen=True)
class Stepped:
    """Some steps of one way.

    Attributes:
        seconds: of each step but the first, from the end of the one before, logs included.
        loss: the language model's, of the last step.
        sra: under the paper's definition, of the last step; None if nobody watched.
    """

    seconds: tuple[float, ...]
    loss: float
    sra: float | None


class Training:
    """A model with a new adapter, and one conversation that fills a row.

    Args:
        model: on its device; it is wrapped.
        batch: ``input_ids``, ``strategy_mask`` and ``response_mask`` ``[1, T]``; the loss is on
            the response.
        rank: of LoRA, on all linear layers.
        checkpointing: keep the layers' inputs alone.
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
        """Takes the adapter off the model again."""
        self._model.unload()

    def run(self, way: TrainingWay, steps: int) -> Stepped:
        """Trains that many steps, at least two."""
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
    """When each step had ended and was logged."""

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
    """SRA from maps, of the same batch, in a forward pass of its own."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._sra: Tensor | None = None

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], *more: Any, **kwargs: Any
    ) -> Any:
        """As the parent's, and then the maps."""
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
        """As the parent's, with SRA."""
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
    """Every way in turn, each round; ends early when ``goes_on`` says so, not before a round."""
    done: dict[TrainingWay, list[Stepped]] = {way: [] for way in ways}
    for number in range(rounds):
        if number and not goes_on():
            break
        for way in ways:
            done[way].append(training.run(way, steps))
    return done


def ratios(done: Mapping[TrainingWay, Sequence[Stepped]]) -> dict[TrainingWay, float]:
    """Of each way's time to the plain one's, the median over rounds."""
    return {
        way: median(
            median(mine.seconds) / median(plain.seconds)
            for mine, plain in zip(turns, done["plain"], strict=True)
        )
        for way, turns in done.items()
    }
