"""Define the settings of a LoRA training run, and read them from a YAML file.

The defaults are those of the paper (arXiv 2402.10453, fine-tuning), which trained on one A100. It
gives no learning rate; 1e-4 is usual for LoRA on all linear layers with ranks of this size.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sra_fast.chat.thoughts import Thoughts
from sra_fast.names import Differentiable, DType, TooLong
from sra_fast.tools.argument_error import ArgumentError
from sra_fast.tools.missing_extra import needed
from sra_fast.tools.number_text import finite_number, whole_number
from sra_fast.tools.suggestions import did_you_mean


class TrainingConfigError(ArgumentError):
    """Raised when a setting is unknown or out of range; the message names it and the way out."""


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
    given = {} if path is None else _read_yaml(path)
    where = "" if path is None else f"{path.name}: "
    known = typing.get_type_hints(TrainingConfig)
    settings: dict[str, Any] = {}
    for name, value in given.items():
        if name not in known:
            raise TrainingConfigError(
                f"{where}unknown setting {name!r}{did_you_mean(name, known) or _all_of(known)}"
            )
        settings[name] = _as_type(value, known[name], f"{where}{name}")
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


def _read_yaml(path: Path) -> dict[str, Any]:
    with needed("train", "yaml"):
        import yaml

    class UniqueKeys(yaml.SafeLoader):  # type: ignore[misc]
        """A YAML loader that refuses a key given twice, as YAML demands and PyYAML does not."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
            for key in keys:
                if keys.count(key) > 1:
                    raise TrainingConfigError(f"{path.name}: {key!r} is given twice; keep one")
            found: dict[Any, Any] = super().construct_mapping(node, deep)
            return found

    def decimal(loader: Any, node: Any) -> int | float:
        """Read a number in decimal digits: to YAML 1.1 ``1_0`` is 10, ``010`` 8, ``1:30`` 90."""
        whole, number = whole_number(node.value), finite_number(node.value)
        if number is None or (whole is not None and node.value.lstrip("+-") != str(abs(whole))):
            raise TrainingConfigError(
                f"{path.name} line {node.start_mark.line + 1}: {node.value!r} is not a finite "
                "number in plain decimal digits; write it as 10, 0.5 or 1e-4, or a text in quotes"
            )
        return number if whole is None else whole

    for kind in ("int", "float"):
        UniqueKeys.add_constructor(f"tag:yaml.org,2002:{kind}", decimal)
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=UniqueKeys)
    except UnicodeDecodeError as error:
        raise TrainingConfigError(
            f"{path.name}: is not in UTF-8; save the file as UTF-8"
        ) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or error
        raise TrainingConfigError(f"{path.name}{place}: not valid YAML ({problem})") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise TrainingConfigError(
            f"{path.name}: expected settings, one 'name: value' a line, found "
            f"{type(content).__name__}"
        )
    return content


def _as_type(value: Any, wanted: Any, what: str) -> Any:
    """Convert a value of YAML to the type of a setting, where that changes no meaning.

    Raises:
        TrainingConfigError: the value is of another type.
    """
    for option in _options(wanted):
        found = _as_one(value, option)
        if found is not _NOT:
            return found
    names = " or ".join(_shown(option) for option in _options(wanted))
    raise TrainingConfigError(f"{what} must be {names}, found {value!r}")


_NOT: Any = object()


def _as_one(value: Any, wanted: Any) -> Any:
    if typing.get_origin(wanted) is Literal:
        return value if value in typing.get_args(wanted) else _NOT
    if typing.get_origin(wanted) is tuple:
        (kind, _) = typing.get_args(wanted)
        if isinstance(value, str) and kind is str:
            return (value,)
        if not isinstance(value, Sequence) or isinstance(value, str):
            return _NOT
        items = [_as_one(item, kind) for item in value]
        return _NOT if any(item is _NOT for item in items) else tuple(items)
    if wanted is float and isinstance(value, str):  # YAML 1.1 reads 1e-4 as a text
        value = finite_number(value)
    if isinstance(value, bool) and wanted is not bool:
        return _NOT
    if wanted is float and isinstance(value, int):
        value = float(value)
    if not isinstance(value, wanted) or (wanted is float and not math.isfinite(value)):
        return _NOT
    return value


def _options(wanted: Any) -> tuple[Any, ...]:
    if typing.get_origin(wanted) in (typing.Union, types.UnionType):
        return typing.get_args(wanted)
    return (wanted,)


def _shown(wanted: Any) -> str:
    if typing.get_origin(wanted) is Literal:
        return f"one of {', '.join(typing.get_args(wanted))}"
    if typing.get_origin(wanted) is tuple:
        return f"a list of {_shown(typing.get_args(wanted)[0]).removeprefix('a ')}s"
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    return names.get(wanted, "null")
