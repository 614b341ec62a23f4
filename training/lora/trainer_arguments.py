"""Turn the settings of a training run into the arguments of transformers' Trainer."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from sra_fast.tools.missing_extra import needed

with needed("train", "accelerate"):
    from transformers import PreTrainedModel, TrainingArguments

from sra_fast.measure.compat import use_one_gpu

from .settings import TrainingConfig
from .yaml_settings import TrainingConfigError


def training_arguments(
    config: TrainingConfig, out: Path, device: str, base: PreTrainedModel, *, evaluated: bool
) -> TrainingArguments:
    """Return the arguments of ``Trainer``; a base model in 16 bits is trained with autocast.

    Args:
        config: the settings of the run.
        out: the folder of the run.
        device: the device to train on, "cpu" or "cuda".
        base: the base model, whose dtype decides on autocast.
        evaluated: whether there are conversations to evaluate on.

    Raises:
        TrainingConfigError: the model is in float16 and the device is the CPU.
    """
    dtype = base.dtype
    if dtype is torch.float16 and device == "cpu":
        raise TrainingConfigError(
            "float16 can be trained on CUDA only; choose the dtype bfloat16 or float32", "dtype"
        )
    interval = "steps" if evaluated else "no"
    restarts = config.scheduler == "cosine_with_restarts"
    arguments = TrainingArguments(
        output_dir=str(out),
        use_cpu=device == "cpu",
        bf16=dtype is torch.bfloat16,
        fp16=dtype is torch.float16,
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=config.batch_size,
        gradient_accumulation_steps=config.accumulation,
        num_train_epochs=config.epochs,
        max_steps=-1 if config.max_steps is None else config.max_steps,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        lr_scheduler_type=config.scheduler,
        lr_scheduler_kwargs={"num_cycles": config.cycles} if restarts else {},
        warmup_steps=config.warmup_ratio,  # Trainer takes a number below 1 as a share of all steps
        logging_steps=config.logging_steps,
        eval_strategy=interval,
        eval_steps=config.eval_steps,
        eval_on_start=evaluated,
        prediction_loss_only=True,
        save_strategy="steps",
        save_steps=config.eval_steps,
        save_total_limit=config.save_total_limit,
        load_best_model_at_end=evaluated,
        metric_for_best_model="loss" if evaluated else None,
        greater_is_better=False if evaluated else None,
        restore_callback_states_from_checkpoint=True,  # keeps the patience that is left
        **_checkpointing(config),
        remove_unused_columns=False,
        dataloader_pin_memory=device != "cpu",
        disable_tqdm=True,
        seed=config.seed,
        report_to=list(config.report_to),
    )
    use_one_gpu(arguments)  # one process, one GPU; accelerate starts more
    return arguments


def _checkpointing(config: TrainingConfig) -> dict[str, Any]:
    """Return the arguments for gradient checkpointing by their names in this transformers."""
    new = any(field.name == "activation_checkpointing" for field in fields(TrainingArguments))
    name = f"{'activation' if new else 'gradient'}_checkpointing"
    kind = {"use_reentrant": config.reentrant_checkpointing}
    return {name: config.gradient_checkpointing, f"{name}_kwargs": kind}
