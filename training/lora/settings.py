"""Define the settings of a LoRA training run, and read them from a YAML file.

The defaults are those of the paper (arXiv 2402.10453, fine-tuning), which trained on one A100. It
gives no learning rate; 1e-4 is usual for LoRA on all linear layers with ranks of this size.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sra_fast.chat.thoughts import Thoughts
from sra_fast.names import Differentiable, DType, TooLong
from sra_fast.tools.suggestions import did_you_mean

from .yaml_settings import TrainingConfigError as TrainingConfigError
from .yaml_settings import as_type, read_yaml


@dataclass(frozen=True)
class TrainingConfig:
    """The settings of a training run; the defaults are the paper's where it gives them.

    Attributes:
        template: the prompt template: the name of one of the seven, or a JSON file with one.
        strategies: a JSON file with names and descriptions of the strategies; null for those of the
            library.
        thoughts: the opening and the closing tag of a thought before a reply, as a list of two
            texts, such as ["<think>", "</think>"]; null for those that the chat template takes
            thoughts away by, if it does. Thoughts have no loss.
        max_length: the most tokens of a conversation.
        too_long: what happens to a longer conversation: "error" refuses it, "drop" leaves it out,
            "cut_oldest_turns" leaves out as few messages at its beginning as possible.
        eval_data: a JSONL file of held-out conversations to evaluate on; null to hold out some of
            the training data.
        eval_fraction: the share of dialogues that are held out if there is no ``eval_data``. 0
            turns evaluation off, and with it early stopping.
        rank: the rank of the LoRA matrices.
        alpha: LoRA's alpha: what an adapter adds is multiplied by alpha / rank. Null means twice
            the rank.
        dropout: the probability of dropout on the inputs of the adapters. The attention dropout of
            the model itself is another setting, and must be 0.
        targets: the modules that get an adapter: "all-linear" (every linear layer but the output
            head), a list of module names, or one regular expression.
        batch_size: the number of conversations in one forward pass of one process; they are packed
            into one row where the model allows it.
        accumulation: the number of forward passes whose gradients make one optimizer step.
        epochs: how many times to go through the training conversations.
        max_steps: the number of optimizer steps after which training ends; if given, it counts
            instead of ``epochs``.
        learning_rate: the highest learning rate of AdamW, reached after the warm-up.
        weight_decay: the weight decay of AdamW.
        max_grad_norm: the norm to which a longer gradient is cut before an optimizer step; 0 cuts
            none.
        scheduler: how the learning rate changes over the run: "cosine_with_restarts", "cosine",
            "linear", "constant" or "constant_with_warmup".
        cycles: the number of cosine cycles of the scheduler "cosine_with_restarts".
        warmup_ratio: the share of optimizer steps in which the learning rate rises from 0.
        eval_steps: the number of optimizer steps between two evaluations; a checkpoint is saved as
            often. It must be a multiple of ``logging_steps``.
        patience: the number of evaluations in a row without a lower loss after which training
            stops early; null never stops it early.
        logging_steps: the number of optimizer steps between two entries of the log.
        save_total_limit: the most checkpoints that are kept; the best one is always among them.
        sra_weight: the weight of the penalty on a low SRA in the loss; 0 trains without it.
        sra_target: the SRA from which on there is no penalty; null keeps raising SRA without end.
        sra_log: whether the penalty uses the natural logarithm of SRA instead of SRA itself.
        sra_layers: the layers whose SRA is raised, as a list of numbers from 0; null for all.
        sra_heads: the heads whose SRA is raised in each of these layers, as a list of numbers from
            0; null for all.
        sra_definition: the definition of SRA that the penalty uses.
        dtype: the dtype of the base model's weights, "auto" for that of its files; adapters are
            always float32.
        load_4bit: whether to load the base model in 4 bits, which takes less memory; needs CUDA and
            the package bitsandbytes.
        gradient_checkpointing: whether to keep only the inputs of layers in memory and compute
            everything else again in the backward pass: less memory, more time.
        reentrant_checkpointing: whether gradient checkpointing is of the older, reentrant kind,
            which cannot be combined with ``sra_weight``.
        mlp_slices: into how many slices of the sequence the MLP layers cut their work to take less
            memory; 1 runs them whole.
        seed: seed of every random number: new adapters, order of examples, dropout and the split.
        report_to: the trackers that get the log, by the names that transformers gives them, such as
            "tensorboard" or "wandb".

    Raises:
        TrainingConfigError: a setting is out of range, or two settings exclude each other.
    """

    template: str = "standard"
    strategies: str | None = None
    thoughts: tuple[str, ...] | None = None
    max_length: int = 4096
    too_long: TooLong = "error"
    eval_data: str | None = None
    eval_fraction: float = 0.1

    rank: int = 128
    alpha: int | None = None
    dropout: float = 0.05
    targets: str | tuple[str, ...] = "all-linear"

    batch_size: int = 2
    accumulation: int = 32
    epochs: float = 5.0
    max_steps: int | None = None
    learning_rate: float = 1e-4
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    scheduler: str = "cosine_with_restarts"
    cycles: int = 5
    warmup_ratio: float = 0.1

    eval_steps: int = 20
    patience: int | None = 10
    logging_steps: int = 1
    save_total_limit: int = 2

    sra_weight: float = 0.0
    sra_target: float | None = None
    sra_log: bool = True
    sra_layers: tuple[int, ...] | None = None
    sra_heads: tuple[int, ...] | None = None
    sra_definition: Differentiable = "paper"

    dtype: DType = "auto"
    load_4bit: bool = False
    gradient_checkpointing: bool = False
    reentrant_checkpointing: bool = False
    mlp_slices: int = 1
    seed: int = 42
    report_to: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for names, rule, holds in _RULES:
            for name in names:
                value = getattr(self, name)
                if value is not None and not holds(value):
                    raise TrainingConfigError(f"{name} must be {rule}, found {value!r}", name)
        if self.eval_steps % self.logging_steps:
            raise TrainingConfigError(
                f"eval_steps ({self.eval_steps}) must be a multiple of logging_steps "
                f"({self.logging_steps}), because a run that continues from a checkpoint starts a "
                "new entry of the log there",
                "eval_steps",
            )
        if self.reentrant_checkpointing and self.sra_weight:
            raise TrainingConfigError(
                "sra_weight cannot be combined with reentrant gradient checkpointing, which gives "
                "the attention mass no gradient; set reentrant_checkpointing: false"
            )
        for name in ("sra_target", "sra_layers", "sra_heads"):
            if getattr(self, name) is not None and not self.sra_weight:
                raise TrainingConfigError(
                    f"{name} has no effect while sra_weight is 0; give a weight above 0",
                    "sra_weight",
                )
        if self.scheduler not in SCHEDULERS:
            near = did_you_mean(self.scheduler, SCHEDULERS)
            raise TrainingConfigError(
                f"scheduler must be one of {', '.join(SCHEDULERS)}, found {self.scheduler!r}{near}"
            )

    @property
    def lora_alpha(self) -> int:
        """Return ``alpha``, or twice the rank if it is None."""
        return 2 * self.rank if self.alpha is None else self.alpha

    @property
    def tags_of_thoughts(self) -> Thoughts | None:
        """Return ``thoughts`` as a pair."""
        return None if self.thoughts is None else (self.thoughts[0], self.thoughts[1])


SCHEDULERS = ("cosine_with_restarts", "cosine", "linear", "constant", "constant_with_warmup")
"""The schedules of the learning rate, by the names that transformers gives them."""

_RULES: tuple[tuple[tuple[str, ...], str, Callable[[Any], bool]], ...] = (
    (
        (
            *("max_length", "rank", "alpha", "batch_size", "accumulation", "max_steps", "cycles"),
            *("eval_steps", "patience", "logging_steps", "save_total_limit", "mlp_slices"),
        ),
        "a whole number from 1 on",
        lambda value: value >= 1,
    ),
    (
        ("epochs", "learning_rate", "sra_target"),
        "a finite number above 0",
        lambda value: 0 < value < math.inf,
    ),
    (
        ("sra_weight", "weight_decay", "max_grad_norm", "seed"),
        "a finite number from 0 on",
        lambda value: 0 <= value < math.inf,
    ),
    (
        ("thoughts",),
        "the opening and the closing tag of a thought, two texts",
        lambda value: len(value) == 2 and bool(value[1].strip()),
    ),
    (
        ("dropout", "warmup_ratio", "eval_fraction"),
        "at least 0 and below 1",
        lambda value: 0 <= value < 1,
    ),
)


def read_config(path: Path | None, overrides: Mapping[str, Any]) -> TrainingConfig:
    """Read settings from a YAML file and overrides; the defaults fill in what neither gives.

    Args:
        path: a YAML file that maps names of :class:`TrainingConfig` to values; None for no file.
        overrides: settings that count instead of the file's; None leaves a setting as it is.

    Raises:
        TrainingConfigError: the file is no such mapping, or a setting is unknown, given twice, of
            the wrong type, or out of range.
        OSError: the file cannot be read.
    """
    given = {} if path is None else read_yaml(path)
    where = "" if path is None else f"{path.name}: "
    known = typing.get_type_hints(TrainingConfig)
    settings: dict[str, Any] = {}
    for name, value in given.items():
        if name not in known:
            raise TrainingConfigError(
                f"{where}unknown setting {name!r}{did_you_mean(name, known) or _all_of(known)}"
            )
        settings[name] = as_type(value, known[name], f"{where}{name}")
    settings |= {name: value for name, value in overrides.items() if value is not None}
    try:
        return TrainingConfig(**settings)
    except TrainingConfigError as error:
        raise TrainingConfigError(f"{where}{error}", *error.arguments) from error


def settings_of(config: TrainingConfig) -> dict[str, Any]:
    """Return the settings by their names.

    Args:
        config: the settings of a run.
    """
    return dataclasses.asdict(config)


def _all_of(known: Mapping[str, object]) -> str:
    return f"; the settings are {', '.join(known)}"
