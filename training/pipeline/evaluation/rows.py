"""The rows of the table: who replies, under which template, and what comes of it."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sra_fast.chat.conversations import Conversation
from sra_fast.chat.templates import PromptTemplate
from sra_fast.files.kept_parts import KeptParts
from sra_fast.files.models import ModelSource
from sra_fast.result import SRAResult
from sra_fast.tools.atomic import write_text

from ...data.trained_on import digest
from ..classifiers import StrategyClassifier
from ..generation.generation_prompts import generation_prompts
from ..generation.replies import LocalReplier, Reply, complete
from ..generation.sampling import Sampling
from .perplexity import perplexities
from .records import Record
from .reply_scores import head_masses, lookback, score_replies

REPLIES, SCORES, PERPLEXITIES = "replies", "scores", "perplexities"

_AT_ONCE = 64  # perplexities that a crash may cost


@dataclass(frozen=True)
class RowPlan:
    """A row of the table.

    Attributes:
        name: what the table calls it.
        source: the model that replies and is scored.
        template: of its prompts.
    """

    name: str
    source: ModelSource
    template: PromptTemplate


@dataclass(frozen=True, eq=False)
class Row:
    """A row with its replies and their scores.

    Attributes:
        plan: which.
        conversations: those that got a reply, with it.
        replies: to these, in order.
        unanswered: those that got an empty one.
        result: SRA of the replies.
    """

    plan: RowPlan
    conversations: list[Conversation]
    replies: list[Reply]
    unanswered: list[Conversation]
    result: SRAResult

    @property
    def mass(self) -> Tensor:
        """float32 ``[n, L, H]`` on the strategy."""
        return head_masses(self.result)


def fill_row(
    plan: RowPlan,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[Conversation],
    strategies: Mapping[str, str],
    sampling: Sampling,
    batch: int,
    folder: Path,
    on_progress: Callable[[int], None],
) -> Row:
    """Generates and scores what is not there yet.

    Raises:
        ValueError: all replies are empty, or a conversation cannot be used.
    """
    prompts = generation_prompts(conversations, plan.template, strategies)
    replier = LocalReplier(model, tokenizer, sampling, batch=batch)
    replies = complete(replier, prompts, folder / REPLIES, on_progress)
    whole = [
        one.with_last_reply(replies[one.id].text) for one in conversations if replies[one.id].text
    ]
    if not whole:
        raise ValueError(
            f"{plan.name}: all of {len(conversations)} replies are empty; is this a chat model?"
        )
    settings = {"row": plan.name, "model": plan.source.fingerprint(), "sampling": asdict(sampling)}
    scores = folder / f"{SCORES}-{_digest(whole)}"
    for stale in set(folder.glob(f"{SCORES}*")) - {scores}:  # of other replies
        shutil.rmtree(stale)
    result = score_replies(model, tokenizer, whole, plan.template, strategies, scores, settings)
    return Row(
        plan,
        whole,
        [replies[one.id] for one in whole],
        [one for one in conversations if not replies[one.id].text],
        result,
    )


def row_perplexities(
    row: Row,
    judge: Callable[[], tuple[PreTrainedModel, PreTrainedTokenizerBase]],
    template: PromptTemplate,
    strategies: Mapping[str, str],
    folder: Path,
) -> list[float]:
    """Of each reply, by one and the same model under one template; kept in ``folder``."""
    parts = KeptParts(folder, ".json", _read_perplexities, _write_perplexities)
    replies = _digest(row.conversations)
    kept = parts.get(PERPLEXITIES)
    values = kept.values if kept is not None and kept.replies == replies else []
    while len(values) < len(row.conversations):
        part = row.conversations[len(values) : len(values) + _AT_ONCE]
        values += perplexities(*judge(), part, template, strategies)
        parts.put(PERPLEXITIES, _Perplexities(replies, values))
    return values


@dataclass(frozen=True)
class _Perplexities:
    """Of the first replies of a row.

    Attributes:
        replies: digest of all replies of the row.
        values: one a reply.
    """

    replies: str
    values: list[float]


def _read_perplexities(path: Path) -> _Perplexities:
    found = json.loads(path.read_text(encoding="utf-8"))
    return _Perplexities(found["replies"], [float(value) for value in found["perplexities"]])


def _write_perplexities(path: Path, kept: _Perplexities) -> None:
    write_text(path, json.dumps({"replies": kept.replies, "perplexities": kept.values}))


def records(
    row: Row, classifier: StrategyClassifier, perplexity: Sequence[float | None]
) -> list[Record]:
    """What the analysis reads: of each reply in order, then of the conversations without one.

    An empty reply follows no strategy and pays no attention to any: its scores are NaN.

    Args:
        perplexity: of each reply.

    Raises:
        ValueError: a strategy that the classifier does not know.
    """
    texts = [reply.text for reply in row.replies]
    probabilities = classifier.probabilities(texts)
    classes = list(classifier.classes)
    unknown = {c.strategy for c in (*row.conversations, *row.unanswered)} - set(classes)
    if unknown:
        raise ValueError(
            f"the classifier does not know the strategies {', '.join(sorted(unknown))}; train one "
            "on them, or leave these conversations out"
        )
    scores = {name: values.tolist() for name, values in row.result.scores.items()}
    looks = lookback(row.result).tolist()
    found = [
        _record(
            row,
            conversation,
            predicted=classes[int(probabilities[index].argmax())],
            probability=float(probabilities[index][classes.index(conversation.strategy)]),
            sra={name: values[index] for name, values in scores.items()},
            lookback=looks[index],
            tokens=row.replies[index].tokens,
            finished=row.replies[index].finished,
            perplexity=perplexity[index],
            text=texts[index],
        )
        for index, conversation in enumerate(row.conversations)
    ]
    nothing = {
        "predicted": "",
        "probability": 0.0,
        "sra": dict.fromkeys(scores, math.nan),
        "lookback": math.nan,
        "tokens": 0,
        "finished": True,
        "perplexity": None,
        "text": "",
    }
    return found + [_record(row, conversation, **nothing) for conversation in row.unanswered]


def _record(row: Row, conversation: Conversation, **measured: Any) -> Record:
    return Record(
        row=row.plan.name,
        item=conversation.id,
        dialogue=conversation.dialogue or conversation.id,
        strategy=conversation.strategy,
        turn=_turn(conversation),
        language=conversation.language,
        **measured,
    )


def _turn(conversation: Conversation) -> int:
    """Number of the last reply among the assistant's messages."""
    return 1 + sum(message.role == "assistant" for message in conversation.last_reply[0])


def _digest(whole: Sequence[Conversation]) -> str:
    """Of conversations with their replies."""
    return digest(*(text for one in whole for text in (one.id, one.last_reply[1])))


def summary(row: Row) -> dict[str, Any]:
    """For the report's gaps."""
    return {
        "row": row.plan.name,
        "replies": len(row.conversations),
        "empty": len(row.unanswered),
        "cut_off": sum(not reply.finished for reply in row.replies),
    }
