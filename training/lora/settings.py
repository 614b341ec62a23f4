"""What a LoRA training run is asked to do: the paper's hyper-parameters, a YAML file over them.

The defaults are those of the paper (arXiv 2402.10453, fine-tuning), for its one A100. It gives no
learning rate; 1e-4 is usual for LoRA on all linear layers with ranks of this size.
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

from sra_fast.names import Differentiable, DType, TooLong
from sra_fast.tools.argument_error import ArgumentError
from sra_fast.tools.missing_extra import needed
from sra_fast.tools.suggestions import did_you_mean


class TrainingConfigError(ArgumentError):
    """A setting is unknown or cannot be; the message names it and the way out."""


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of a run. Lengths are in tokens, intervals in optimizer steps.

    Attributes:
        template: one of the seven by name, or a JSON file with one.
        strategies: JSON file, name to description; the library's if None.
        max_length, too_long: as for ``training_examples``.
        eval_data: file of held-out conversations.
        eval_fraction: of the dialogues that are held out where there is no ``eval_data``; 0 for
            no evaluation, which leaves no early stopping either.
        rank, alpha, dropout: of LoRA. ``alpha`` is twice the rank if None. The dropout lies on what
            goes into the adapters; a model's own attention dropout is another thing, and must be 0.
        targets: "all-linear" (the head apart), names of modules, or one regular expression.
        batch_size: conversations of one forward pass and process, packed into one row.
        accumulation: forward passes of an optimizer step.
        epochs, max_steps: the end; ``max_steps`` counts if it is given.
        learning_rate, weight_decay, max_grad_norm: of AdamW.
        scheduler, cycles, warmup_ratio: of the learning rate; ``cycles`` restarts it so often.
        eval_steps: between evaluations, and checkpoints.
        patience: evaluations without a lower loss before the run stops; None for no such end.
        logging_steps: between logs; ``eval_steps`` is a multiple.
        save_total_limit: checkpoints that are kept, the best among them.
        sra_weight, sra_target, sra_log, sra_layers, sra_heads, sra_definition: of ``SRATrainer``.
        dtype: of the base model's weights; adapters are float32.
        load_4bit: load the base model in 4 bits (bitsandbytes).
        gradient_checkpointing: keep the layers' inputs alone, and compute the rest again.
        reentrant_checkpointing: the older kind, which SRA cannot be trained through.
        mlp_slices: MLPs run over so many slices of the sequence; 1 for whole.
        seed: of adapters, order, dropout and the split.
        report_to: trackers, as transformers names them.
    """

    template: str = "standard"
    strategies: str | None = None
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
                f"({self.logging_steps}): a run that goes on from a checkpoint begins a log anew",
                "eval_steps",
            )
        if self.reentrant_checkpointing and self.sra_weight:
            raise TrainingConfigError(
                "sra_weight needs gradient checkpointing that is not reentrant, because that kind "
                "gives the attention mass no gradient; set reentrant_checkpointing: false"
            )
        for name in ("sra_target", "sra_layers", "sra_heads"):
            if getattr(self, name) is not None and not self.sra_weight:
                raise TrainingConfigError(
                    f"{name} says nothing without a weight; give sra_weight", "sra_weight"
                )
        if self.scheduler not in SCHEDULERS:
            near = did_you_mean(self.scheduler, SCHEDULERS)
            raise TrainingConfigError(
                f"scheduler must be one of {', '.join(SCHEDULERS)}, found {self.scheduler!r}{near}"
            )

    @property
    def lora_alpha(self) -> int:
        """``alpha``, or twice the rank."""
        return 2 * self.rank if self.alpha is None else self.alpha


SCHEDULERS = ("cosine_with_restarts", "cosine", "linear", "constant", "constant_with_warmup")

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
        ("dropout", "warmup_ratio", "eval_fraction"),
        "at least 0 and below 1",
        lambda value: 0 <= value < 1,
    ),
)


def read_config(path: Path | None, overrides: Mapping[str, Any]) -> TrainingConfig:
    """The defaults, under a YAML file, under ``overrides``.

    Args:
        path: a mapping of the names of :class:`TrainingConfig`.
        overrides: more of them; None leaves a setting as it is.

    Raises:
        TrainingConfigError: the file is no such mapping, or a setting is unknown, there twice, of
            another type, or out of range.
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
    """As JSON can say it."""
    return dataclasses.asdict(config)


def _all_of(known: Mapping[str, object]) -> str:
    return f"; the settings are {', '.join(known)}"


def _read_yaml(path: Path) -> dict[str, Any]:
    with needed("train", "yaml"):
        import yaml

    class UniqueKeys(yaml.SafeLoader):  # type: ignore[misc]
        """YAML's own rule, which PyYAML leaves out."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
            for key in keys:
                if keys.count(key) > 1:
                    raise TrainingConfigError(f"{path.name}: {key!r} stands there twice; keep one")
            found: dict[Any, Any] = super().construct_mapping(node, deep)
            return found

    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=UniqueKeys)
    except UnicodeDecodeError as error:
        raise TrainingConfigError(f"{path.name}: not UTF-8; save the file as UTF-8") from error
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
    """``value`` as a field's type, where YAML means the same.

    Raises:
        TrainingConfigError: it does not.
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
        try:
            value = float(value)
        except ValueError:
            return _NOT
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
