"""Make training examples for the tiny models, and arguments of Trainers that run in a second."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, TrainingArguments

import sra_fast
from marked_batches import marked_batch
from sra_fast.training import PackingCollator, PaddingCollator

STRATEGIES = ("Offer Hope", "Clarification", "Share Information")
COLLATORS: dict[str, Any] = {"packed": PackingCollator(), "padded": PaddingCollator()}


def marked_examples(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Make examples of several lengths, each with one response at its end and a strategy."""
    examples = []
    for index in range(count):
        length = 24 + 5 * (index % 4)
        row = marked_batch((length,), seed=100 * seed + index)
        response = row["response_mask"][0] == 2
        ids = row["input_ids"][0]
        examples.append(
            {
                "input_ids": ids,
                "labels": ids.masked_fill(~response, -100),
                "strategy_mask": row["strategy_mask"][0],
                "response_mask": response,
                "strategy": STRATEGIES[index % len(STRATEGIES)],
            }
        )
    return examples


def scores(model: PreTrainedModel, examples: Sequence[dict[str, Any]]) -> torch.Tensor:
    """Return the SRA of each example by ``sra_fast.score``, ``[n]``."""
    batch = PaddingCollator()(examples)
    return sra_fast.score(model, batch).sra.double()


def arguments(folder: Path, **changes: Any) -> TrainingArguments:
    """Return the arguments of a run that keeps its examples' order and needs nothing else."""
    defaults: dict[str, Any] = dict(
        output_dir=str(folder),
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
        train_sampling_strategy="sequential",
        per_device_train_batch_size=2,
        per_device_eval_batch_size=2,
        num_train_epochs=1,
        logging_steps=1,
        learning_rate=0.0,
    )
    return TrainingArguments(**defaults | changes)
