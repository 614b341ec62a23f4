"""Evaluate models under prompt templates: generate, score and classify replies to conversations.

Each model under a template is a condition, which the folder of a run calls a row:

    run.json                          the settings; a run with others is refused here
    rows/NAME/replies/00007.jsonl     the replies of the condition NAME, batch by batch
    rows/NAME/scores-DIGEST/          a run folder with the masses of these replies
    rows/NAME/perplexities.json       the perplexity of each reply
    conversations/NAME.jsonl          the conversations with these replies, for judges, annotators
                                      and sra-fast score
    replies.jsonl                     every reply with its figures (the only table with texts)
    report.md, results.json, *.png    the results: numbers, no texts
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sra_fast.chat.conversations import Conversation, read_conversations, write_conversations
from sra_fast.chat.templates import TEMPLATES, PromptTemplate
from sra_fast.chat.thoughts import Thoughts
from sra_fast.files.models import ModelSource, choose_device
from sra_fast.files.provenance import file_sha256, versions
from sra_fast.files.run_date import DATE, first_day, start_of
from sra_fast.files.run_folder import RunFolder
from sra_fast.names import Device, DType
from sra_fast.tools.argument_error import ArgumentError

from ...data.trained_on import beginning, read_trained_on
from ..classifiers import StrategyClassifier
from ..generation.sampling import Sampling
from ..items import draw
from .condition_records import records
from .conditions import (
    Condition,
    ConditionPlan,
    fill_condition,
)
from .perplexity import condition_perplexities
from .records import Record, write_records

CONDITIONS, ALL_REPLIES, CONVERSATIONS = "rows", "replies.jsonl", "conversations"
TUNED = "fine-tuned"
LANGUAGE_TEMPLATE = "standard"  # the perplexity of every reply is measured under this template

_NAME = re.compile(r"\w[\w.-]*")


class EvaluationError(ArgumentError):
    """Raised when an evaluation cannot begin; the message says why and what to do."""


@dataclass(frozen=True)
class Evaluation:
    """The settings of an evaluation: models, templates, conversations and how replies are drawn.

    Attributes:
        file: a file of conversations; the last reply of each is written anew under its strategy.
        out: the folder of the run.
        base: the model of all conditions but that of ``tuned``; it also measures perplexity.
        tuned: a fine-tuned model, evaluated under the standard template as the last condition, or
            None.
        templates: the prompt templates that the base model is evaluated under, one condition each.
        strategies: the description of each strategy, by its name.
        classifier: says which strategy a reply follows.
        classifier_name: what the report calls the classifier.
        sampling: how replies are drawn.
        items: how many conversations to evaluate, drawn by the seed of ``sampling``; None for all.
        dtype, device: the number format of the models and the device they run on.
        batch: how many prompts go through the model at once.
        perplexity: whether to measure the perplexity of the replies.
        thoughts: the tags around a thought before a reply, as :func:`sra_fast.encode` takes them.
        part_of: the folder of the run that this evaluation is a stage of, whose date counts; None
            for one that stands alone.
        check: whether a model is checked before its first score (no score depends on it).
    """

    file: Path
    out: Path
    base: ModelSource
    tuned: ModelSource | None
    templates: Sequence[PromptTemplate]
    strategies: Mapping[str, str]
    classifier: StrategyClassifier
    classifier_name: str
    sampling: Sampling
    items: int | None = None
    dtype: DType = "auto"
    device: Device = "auto"
    batch: int = 32
    perplexity: bool = True
    thoughts: Thoughts | None = None
    part_of: Path | None = None
    check: bool = True

    @property
    def now(self) -> datetime | None:
        """The date that templates with a date write: the day of the run's first start."""
        return start_of(self._first_day)

    @property
    def _first_day(self) -> str | None:
        return first_day(self.part_of or self.out, self.base, self.tuned)

    def settings(self) -> dict[str, Any]:
        """Return everything that the replies and their scores depend on, as ``run.json`` holds it.

        The classifier, perplexities and the experiment without heads are not among it: a call that
        changes only these finds the replies and scores already done.
        """
        return {
            "kind": "evaluate",
            "model": self.base.fingerprint(),
            "tuned": None if self.tuned is None else self.tuned.fingerprint(),
            "templates": [asdict(template) for template in self.templates],
            "strategies": dict(self.strategies),
            "sampling": asdict(self.sampling),
            "thoughts": self.thoughts,
            "items": self.items,
            "dtype": self.dtype,
            "device": choose_device(self.device),
            "versions": versions("sra_fast", "torch", "transformers"),
            DATE: self._first_day,
            "file_sha256": file_sha256(self.file),
        }

    def plans(self) -> list[ConditionPlan]:
        """Return the conditions to evaluate, in the order of the table.

        Raises:
            EvaluationError: the name of a template cannot be the name of a condition.
        """
        for template in self.templates:
            if not _NAME.fullmatch(template.name) or template.name == TUNED:
                raise EvaluationError(
                    f"template {template.name!r}: its name also names a condition and a folder; "
                    f"give it a name of letters, digits, '-', '_' and '.', other than {TUNED!r}"
                )
        conditions = [
            ConditionPlan(template.name, self.base, template) for template in self.templates
        ]
        if self.tuned is not None:
            conditions.append(ConditionPlan(TUNED, self.tuned, TEMPLATES["standard"]))
        return conditions


@dataclass(frozen=True, eq=False)
class Evaluated:
    """The conditions of an evaluation with their replies, scores and records.

    Attributes:
        conditions: all conditions, in the order of the table.
        records: the records of all replies, condition by condition.
    """

    conditions: list[Condition]
    records: list[Record]


OnProgress = Callable[[str, int, int], None]
"""Called with the name of a condition, how many replies a batch brought, and how many it needs."""


def collect(
    evaluation: Evaluation, on_progress: OnProgress = lambda condition, done, total: None
) -> Evaluated:
    """Generate, score and classify the replies that the folder of the run does not hold yet.

    Call it inside :func:`opened`.

    Args:
        evaluation: the settings.
        on_progress: called after each batch of replies.

    Raises:
        ValueError: conversations, models, classifier and folder do not go together.
        OSError: a file cannot be read or written.
    """
    conversations = chosen(evaluation)
    loaded = LoadedModels(evaluation)
    conditions: dict[str, Condition] = {}
    perplexity: dict[str, list[float | None]] = {}
    plans = evaluation.plans()
    # The base model comes last, so that it is still loaded for the perplexities.
    for plan in sorted(plans, key=lambda plan: plan.source is evaluation.base):
        conditions[plan.name] = answer(
            evaluation, plan, loaded, conversations, plan.name, on_progress
        )
    for name, condition in conditions.items():
        perplexity[name] = [None] * len(condition.conversations)
        if evaluation.perplexity:
            perplexity[name] = list(
                condition_perplexities(
                    condition,
                    lambda: loaded.get(evaluation.base),
                    TEMPLATES[LANGUAGE_TEMPLATE],
                    evaluation.strategies,
                    evaluation.out / CONDITIONS / name,
                    thoughts=evaluation.thoughts,
                    now=evaluation.now,
                )
            )
        conversations_of = evaluation.out / CONVERSATIONS / f"{name}.jsonl"
        conversations_of.parent.mkdir(exist_ok=True)
        write_conversations(conversations_of, [one.record for one in condition.conversations])
    in_order = [conditions[plan.name] for plan in plans]
    found = [
        record
        for condition in in_order
        for record in records(condition, evaluation.classifier, perplexity[condition.plan.name])
    ]
    write_records(evaluation.out / ALL_REPLIES, found)
    return Evaluated(in_order, found)


def answer(
    evaluation: Evaluation,
    plan: ConditionPlan,
    models: LoadedModels,
    conversations: Sequence[Conversation],
    folder: str,
    on_progress: OnProgress,
) -> Condition:
    """Generate and score the replies that a condition still lacks, with the evaluation's settings.

    Args:
        evaluation: the settings.
        plan: the condition.
        models: loads the model of the condition, unless it is the one already loaded.
        conversations: the conversations whose last reply is written anew.
        folder: the name of the condition's folder.
        on_progress: called after each batch of replies.

    Raises:
        ValueError: all replies are empty, or a conversation cannot be used.
    """
    model, tokenizer = models.get(plan.source)
    return fill_condition(
        plan,
        model,
        tokenizer,
        conversations,
        evaluation.strategies,
        evaluation.sampling,
        evaluation.batch,
        evaluation.out / CONDITIONS / folder,
        lambda done: on_progress(plan.name, done, len(conversations)),
        thoughts=evaluation.thoughts,
        now=evaluation.now,
        check=evaluation.check,
    )


@contextmanager
def opened(evaluation: Evaluation) -> Iterator[None]:
    """Open the folder of a run inside ``with``: no other process may work in it meanwhile.

    Raises:
        ValueError: the conversations cannot be evaluated, the folder holds something else, or the
            files of a model do not hold all of its weights.
    """
    evaluation.plans()
    _check_unseen(evaluation, chosen(evaluation))  # before the folder takes the file as its own
    folder = RunFolder(evaluation.out, evaluation.settings())
    folder.check()
    for source in (evaluation.base, evaluation.tuned):
        if source is not None:
            source.check()  # the base model is loaded last, after all replies of the tuned one
    with folder.opened():
        yield
        folder.finish()


def chosen(evaluation: Evaluation) -> list[Conversation]:
    """Return the conversations whose last reply is written anew, in the order of the file.

    Raises:
        EvaluationError: the classifier does not know a strategy, or there are fewer conversations
            than are asked for.
    """
    conversations = read_conversations(evaluation.file)
    if evaluation.items is not None and evaluation.items > len(conversations):
        raise EvaluationError(
            f"{evaluation.file.name} holds {len(conversations)} conversations, and "
            f"{evaluation.items} are asked for; ask for fewer",
            "items",
        )
    if evaluation.items is not None and evaluation.items < len(conversations):
        conversations = draw(conversations, evaluation.items, evaluation.sampling.seed)
    known = set(evaluation.classifier.classes)
    unknown = sorted({one.strategy for one in conversations} - known)
    if unknown:
        raise EvaluationError(
            f"{evaluation.file.name}: the classifier {evaluation.classifier_name} does not know "
            f"the strategies {', '.join(unknown)}; train one that does",
            "classifier",
        )
    return conversations


def _check_unseen(evaluation: Evaluation, conversations: Sequence[Conversation]) -> None:
    for source in (evaluation.base, evaluation.tuned):
        if source is None:
            continue
        learnt = read_trained_on(Path(source.place))
        both = [one.id for one in conversations if beginning(one) in learnt]
        if both:
            raise EvaluationError(
                f"{evaluation.file.name}: {len(both)} of {len(conversations)} conversations are of "
                f"dialogues that {source.name} was trained on, the first is {both[0]!r}; evaluate "
                "dialogues that were held out (the test part of an extension)"
            )


class LoadedModels:
    """A loader that loads a model when it is first needed, and holds one at a time."""

    def __init__(self, evaluation: Evaluation) -> None:
        self._evaluation = evaluation
        self._source: ModelSource | None = None
        self._loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase] | None = None

    def get(self, source: ModelSource) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """Return a model and its tokenizer; loading one gives up the model loaded before."""
        if self._loaded is None or self._source is not source:
            self._loaded = None
            device = choose_device(self._evaluation.device)
            self._loaded = source.load(self._evaluation.dtype, device), source.tokenizer()
            self._source = source
        return self._loaded
