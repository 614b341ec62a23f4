"""Read the examples of a training run, hold some out, and list what the adapter depends on."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sra_fast.chat.conversations import read_conversations
from sra_fast.chat.strategies import DEFAULT_STRATEGIES, read_strategies
from sra_fast.chat.templates import TEMPLATES, PromptTemplate, get_template, read_template
from sra_fast.files.models import ModelSource
from sra_fast.files.provenance import versions
from sra_fast.files.run_date import DATE
from sra_fast.tools import launched_processes
from sra_fast.tools.missing_extra import needed

from ..data.dataset import split_by_conversation, training_examples
from ..data.examples import TrainingDataError
from ..data.trained_on import beginning
from .settings import TrainingConfig, settings_of


@dataclass(frozen=True)
class RunData:
    """The examples of a run, as ``training_examples`` makes them.

    Attributes:
        training: the data set of examples to train on.
        evaluation: the data set of held-out examples, or None if nothing is held out.
        template: the prompt template of the examples.
        strategies: the strategies as a mapping of names to descriptions.
        notes: what the length limit dropped or cut, one sentence each.
        beginnings: fingerprints of how the training dialogues begin, as the module ``trained_on``
            makes them.
    """

    training: Any
    evaluation: Any
    template: PromptTemplate
    strategies: dict[str, str]
    notes: tuple[str, ...]
    beginnings: frozenset[str]

    @property
    def longest(self) -> int:
        """Return the number of tokens of the longest example."""
        return max(int(max(part["length"])) for part in self._parts)

    def digest(self) -> str:
        """Return the SHA-256 of all examples, which a new tokenizer or chat template changes."""
        digest = hashlib.sha256()
        for part in self._parts:
            digest.update(f"{len(part)}\n".encode())
            for example in part:
                for column in ("input_ids", "labels", "strategy_mask", "response_mask"):
                    digest.update(example[column].tobytes())
                digest.update(example["strategy"].encode())
        return digest.hexdigest()

    @property
    def _parts(self) -> list[Any]:
        return [self.training] if self.evaluation is None else [self.training, self.evaluation]


def read_data(
    file: Path, tokenizer: Any, config: TrainingConfig, now: datetime | None = None
) -> RunData:
    """Read conversations, encode them as examples, and hold some out for evaluation.

    Args:
        file: the JSONL file of training conversations.
        tokenizer: the tokenizer of the model, with its chat template.
        config: the settings of the run.
        now: the date that a chat template with a date writes; this moment if None.

    Raises:
        ValueError: a conversation cannot be trained on, or there are too few to split.
        OSError: a file cannot be read.
    """
    of_file = Path(config.template).is_file() or config.template.endswith(".json")
    own_template = config.template not in TEMPLATES and of_file
    template = read_template(config.template) if own_template else get_template(config.template)
    own_strategies = config.strategies is not None
    strategies = dict(
        read_strategies(str(config.strategies)) if own_strategies else DEFAULT_STRATEGIES
    )
    notes: list[str] = []

    def examples(path: Path) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the notes repeat what is warned of
            found = training_examples(
                path,
                tokenizer,
                template=template,
                max_length=config.max_length,
                too_long=config.too_long,
                strategies=strategies,
                thoughts=config.tags_of_thoughts,
                now=now,
            )
        assert found.report is not None
        notes.extend(found.report.notes)
        return found.dataset.with_format("numpy")

    training, evaluation = examples(file), None
    if config.eval_data is not None:
        evaluation = examples(Path(config.eval_data))
        _check_apart(training, evaluation)
    elif config.eval_fraction:
        try:
            training, evaluation = split_by_conversation(
                training, config.eval_fraction, config.seed
            )
        except TrainingDataError as error:
            raise TrainingDataError(
                f"{error}; give conversations to evaluate on, or hold out the fraction 0",
                "eval_data",
                "eval_fraction",
            ) from error
    beginnings = _beginnings(file, training)
    if config.eval_data is not None:
        _check_unlike(beginnings, Path(config.eval_data))
    return RunData(training, evaluation, template, strategies, tuple(notes), beginnings)


def settings_of_run(
    source: ModelSource,
    data: RunData,
    config: TrainingConfig,
    device: str,
    day: str | None = None,
) -> dict[str, Any]:
    """Return everything that the adapter depends on, as values of JSON for ``run.json``.

    Args:
        source: the base model.
        data: the examples of the run.
        config: the settings of the run.
        device: the device to train on, "cpu" or "cuda".
        day: the day of the run's first start, if a chat template writes it.
    """
    needed("train", "peft")
    settings = settings_of(config)
    for name in ("report_to", "eval_data", "template", "strategies"):
        del settings[name]
    return {
        "kind": "train",
        "model": source.fingerprint(),
        "template": asdict(data.template),
        "strategies": data.strategies,
        **settings,
        "device": device,
        "processes": launched_processes.count(),
        "versions": versions("sra_fast", "torch", "transformers", "peft"),
        DATE: day,
        "examples_sha256": data.digest(),  # last, as an error names the first difference
    }


def _beginnings(file: Path, training: Any) -> frozenset[str]:
    known = set(training["conversation"])
    return frozenset(beginning(one) for one in read_conversations(file) if one.id in known)


def _check_unlike(beginnings: frozenset[str], file: Path) -> None:
    both = [one.id for one in read_conversations(file) if beginning(one) in beginnings]
    if both:
        raise TrainingDataError(
            f"{len(both)} conversations of {file.name} begin like one of the training data, the "
            f"first is {both[0]!r}: both come from one dialogue; hold out whole dialogues"
        )


def _check_apart(training: Any, evaluation: Any) -> None:
    known = set(training["dialogue"])
    both = [name for name in dict.fromkeys(evaluation["dialogue"]) if name in known]
    if both:
        raise TrainingDataError(
            f"{len(both)} dialogues are in the training and in the evaluation data, the first is "
            f"{str(both[0])!r}; hold out whole dialogues, or give them ids (or `dialogue`) of "
            "their own"
        )
