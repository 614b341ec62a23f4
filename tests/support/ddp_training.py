"""Run one training step and one evaluation under `accelerate launch`, and write the outcome.

The first process writes it. The command is `accelerate launch … tests/support/ddp_training.py
FOLDER`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from marked_examples import COLLATORS, arguments, marked_examples
from model_families import FAMILIES
from sra_fast.training.sra.callback import SRACallback
from sra_fast.training.sra.trainer import SRATrainer

TRAINING, EVALUATION = marked_examples(8), marked_examples(5, seed=3)
WEIGHT = 0.5


def one_step(folder: Path, *, batch: int, collator: str, model: Any = None) -> SRATrainer:
    """Train a step on 8 examples, two accumulated batches per process, and evaluate on 5."""
    trainer = SRATrainer(
        FAMILIES[0].build() if model is None else model,
        arguments(
            folder,
            optim="sgd",
            learning_rate=0.05,
            max_grad_norm=0.0,
            lr_scheduler_type="constant",
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=2,
            eval_strategy="steps",
            eval_steps=1,
        ),
        train_dataset=TRAINING,
        eval_dataset=EVALUATION,
        data_collator=COLLATORS[collator],
        callbacks=[SRACallback()],
        sra_weight=WEIGHT,
    )
    trainer.train()
    return trainer


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    for collator in COLLATORS:
        trainer = one_step(folder / collator, batch=2, collator=collator)
        if trainer.is_world_process_zero():
            outcome = {"processes": trainer.args.world_size, "log": trainer.state.log_history}
            (folder / collator / "outcome.json").write_text(json.dumps(outcome))
            weights = {name: weight.clone() for name, weight in trainer.model.named_parameters()}
            save_file(weights, folder / collator / "weights.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
