"""``evaluate``: models under templates, from conversations to the paper's tables and figures.

What lies in the folder of a run:

    run.json                          everything the results depend on; another run's is refused
    rows/NAME/replies/00007.jsonl     what each row's model said, batch by batch
    rows/NAME/scores-DIGEST/          a run folder with the masses of these replies
    rows/NAME/perplexities.json
    conversations/NAME.jsonl          with these replies, for judges, annotators and sra-fast score
    replies.jsonl                     every reply with its figures (the only table with texts)
    report.md, results.json, *.png    numbers alone
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sra_fast.chat.conversations import Conversation, read_conversations, write_conversations
from sra_fast.chat.templates import TEMPLATES, PromptTemplate
from sra_fast.files.models import ModelSource, choose_device
from sra_fast.files.provenance import file_sha256, versions
from sra_fast.files.run_folder import RunFolder
from sra_fast.names import Device, DType
from sra_fast.tools.argument_error import ArgumentError

from ...data.trained_on import beginning, read_trained_on
from ..classifiers import StrategyClassifier
from ..generation.sampling import Sampling
from ..items import draw
from .records import Record, write_records
from .rows import (
    Row,
    RowPlan,
    fill_row,
    records,
    row_perplexities,
)

ROWS, ALL_REPLIES, CONVERSATIONS = "rows", "replies.jsonl", "conversations"
TUNED = "fine-tuned"
LANGUAGE_TEMPLATE = "standard"  # under which every reply's perplexity is measured

_NAME = re.compile(r"\w[\w.-]*")


class EvaluationError(ArgumentError):
    """An evaluation cannot begin; the message says why and the way out."""


@dataclass(frozen=True)
class Evaluation:
    """What to evaluate.

    Attributes:
        file: conversations; the last reply of each is written anew under its strategy.
        out: the run's folder.
        base: the model of every row but the last, and the judge of everybody's language.
        tuned: a fine-tuned model for one more row under the standard template, or None.
        templates: of the base model's rows.
        strategies: name to description.
        classifier: says which strategy a reply follows.
        classifier_name: for ``run.json`` and the report.
        sampling: how replies are drawn.
        items: most conversations, drawn by the seed; None for all.
        dtype, device: of the models.
        batch: prompts of a forward pass.
        perplexity: whether to measure it.
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

    def settings(self) -> dict[str, Any]:
        """Everything the replies and their scores depend on.

        Classifiers, perplexities and ablations are computed from these: another call with others
        finds the replies done.
        """
        return {
            "kind": "evaluate",
            "model": self.base.fingerprint(),
            "tuned": None if self.tuned is None else self.tuned.fingerprint(),
            "templates": [asdict(template) for template in self.templates],
            "strategies": dict(self.strategies),
            "sampling": asdict(self.sampling),
            "items": self.items,
            "dtype": self.dtype,
            "device": choose_device(self.device),
            "versions": versions("sra_fast", "torch", "transformers"),
            "file_sha256": file_sha256(self.file),
        }

    def plans(self) -> list[RowPlan]:
        """The rows, in the order of the table.

        Raises:
            EvaluationError: a template's name cannot be a row's.
        """
        for template in self.templates:
            if not _NAME.fullmatch(template.name) or template.name == TUNED:
                raise EvaluationError(
                    f"template {template.name!r}: rows and their folders are called so; give it a "
                    f"name of letters, digits, '-', '_' and '.', other than {TUNED!r}"
                )
        rows = [RowPlan(template.name, self.base, template) for template in self.templates]
        if self.tuned is not None:
            rows.append(RowPlan(TUNED, self.tuned, TEMPLATES["standard"]))
        return rows


@dataclass(frozen=True, eq=False)
class Evaluated:
    """What an evaluation found.

    Attributes:
        rows: in the order of the table.
        records: of all replies, row by row.
    """

    rows: list[Row]
    records: list[Record]


OnProgress = Callable[[str, int, int], None]
"""Called with a row's name, the replies that a batch brought, and the number of a row's."""


def collect(
    evaluation: Evaluation, on_progress: OnProgress = lambda row, done, total: None
) -> Evaluated:
    """Generates, scores and classifies whatever is missing. Call it inside :func:`opened`.

    Raises:
        ValueError: conversations, models, classifier and folder do not go together.
        OSError: a file cannot be read or written.
    """
    conversations = chosen(evaluation)
    loaded = LoadedModels(evaluation)
    rows: dict[str, Row] = {}
    perplexity: dict[str, list[float | None]] = {}
    plans = evaluation.plans()
    # The base model comes last, and stays for the perplexities.
    for plan in sorted(plans, key=lambda plan: plan.source is evaluation.base):
        rows[plan.name] = answer(evaluation, plan, loaded, conversations, plan.name, on_progress)
    for name, row in rows.items():
        perplexity[name] = [None] * len(row.conversations)
        if evaluation.perplexity:
            perplexity[name] = list(
                row_perplexities(
                    row,
                    lambda: loaded.get(evaluation.base),
                    TEMPLATES[LANGUAGE_TEMPLATE],
                    evaluation.strategies,
                    evaluation.out / ROWS / name,
                )
            )
        conversations_of = evaluation.out / CONVERSATIONS / f"{name}.jsonl"
        conversations_of.parent.mkdir(exist_ok=True)
        write_conversations(conversations_of, [one.record for one in row.conversations])
    in_order = [rows[plan.name] for plan in plans]
    found = [
        record
        for row in in_order
        for record in records(row, evaluation.classifier, perplexity[row.plan.name])
    ]
    write_records(evaluation.out / ALL_REPLIES, found)
    return Evaluated(in_order, found)


def answer(
    evaluation: Evaluation,
    plan: RowPlan,
    models: LoadedModels,
    conversations: Sequence[Conversation],
    folder: str,
    on_progress: OnProgress,
) -> Row:
    """Generate and score what a row still lacks, as the evaluation is set.

    Args:
        models: loads the row's model, if it is not the one at hand.
        folder: the name of the row's folder.

    Raises:
        ValueError: all replies are empty, or a conversation cannot be used.
    """
    model, tokenizer = models.get(plan.source)
    return fill_row(
        plan,
        model,
        tokenizer,
        conversations,
        evaluation.strategies,
        evaluation.sampling,
        evaluation.batch,
        evaluation.out / ROWS / folder,
        lambda done: on_progress(plan.name, done, len(conversations)),
    )


@contextmanager
def opened(evaluation: Evaluation) -> Iterator[None]:
    """The folder is this run's, and nobody else works in it.

    Raises:
        ValueError: the conversations cannot be evaluated, or the folder holds something else.
    """
    evaluation.plans()
    _check_unseen(evaluation, chosen(evaluation))  # before the folder takes the file as its own
    folder = RunFolder(evaluation.out, evaluation.settings())
    with folder.opened():
        yield
        folder.finish()


def chosen(evaluation: Evaluation) -> list[Conversation]:
    """The conversations whose last reply is written anew, in the file's order.

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
    """Loads a model when it is first wanted, and holds one at a time."""

    def __init__(self, evaluation: Evaluation) -> None:
        self._evaluation = evaluation
        self._source: ModelSource | None = None
        self._loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase] | None = None

    def get(self, source: ModelSource) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        if self._loaded is None or self._source is not source:
            self._loaded = None
            device = choose_device(self._evaluation.device)
            self._loaded = source.load(self._evaluation.dtype, device), source.tokenizer()
            self._source = source
        return self._loaded
