"""The rows of the table: who replies, under which template, and what comes of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sra_fast.conversations import Conversation
from sra_fast.loading import ModelSource
from sra_fast.result import SRAResult
from sra_fast.runs import write_text
from sra_fast.templates import PromptTemplate
from sra_fast.training.classifiers import StrategyClassifier
from sra_fast.training.evaluation.perplexity import perplexities
from sra_fast.training.evaluation.records import Record
from sra_fast.training.evaluation.scoring import head_masses, lookback, score_replies
from sra_fast.training.generation.prompts import generation_prompts
from sra_fast.training.generation.run import LocalReplier, Reply, complete
from sra_fast.training.generation.sampling import Sampling

REPLIES, SCORES, PERPLEXITIES = "replies", "scores", "perplexities.json"


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
        empty: number of conversations without one.
        result: SRA of each.
    """

    plan: RowPlan
    conversations: list[Conversation]
    replies: list[Reply]
    empty: int
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
    answered = [one for one in conversations if replies[one.id].text]
    if not answered:
        raise ValueError(
            f"{plan.name}: all of {len(conversations)} replies are empty; is this a chat model?"
        )
    whole = [one.with_last_reply(replies[one.id].text) for one in answered]
    settings = {"row": plan.name, "model": plan.source.fingerprint(), "sampling": asdict(sampling)}
    result = score_replies(
        model, tokenizer, whole, plan.template, strategies, folder / SCORES, settings
    )
    return Row(
        plan,
        whole,
        [replies[one.id] for one in answered],
        len(conversations) - len(whole),
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
    file = folder / PERPLEXITIES
    names = [conversation.id for conversation in row.conversations]
    try:
        found: dict[str, float] = json.loads(file.read_text(encoding="utf-8"))
        if list(found) == names:
            return list(found.values())
    except (OSError, ValueError):
        pass
    model, tokenizer = judge()
    values = perplexities(model, tokenizer, row.conversations, template, strategies)
    write_text(file, json.dumps(dict(zip(names, values, strict=True))))
    return values


def records(
    row: Row, classifier: StrategyClassifier, perplexity: Sequence[float | None]
) -> list[Record]:
    """What the analysis reads.

    Raises:
        ValueError: a strategy that the classifier does not know.
    """
    texts = [reply.text for reply in row.replies]
    probabilities = classifier.probabilities(texts)
    classes = list(classifier.classes)
    unknown = {c.strategy for c in row.conversations} - set(classes)
    if unknown:
        raise ValueError(
            f"the classifier does not know the strategies {', '.join(sorted(unknown))}; train one "
            "on them (sra-fast classify train), or leave these conversations out"
        )
    scores = {name: values.tolist() for name, values in row.result.scores.items()}
    looks = lookback(row.result).tolist()
    return [
        Record(
            row=row.plan.name,
            item=conversation.id,
            dialogue=conversation.dialogue or conversation.id,
            strategy=conversation.strategy,
            turn=_turn(conversation),
            language=conversation.language,
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


def _turn(conversation: Conversation) -> int:
    """Number of the reply among the assistant's messages."""
    return 1 + sum(message.role == "assistant" for message in conversation.messages)


def summary(row: Row) -> dict[str, Any]:
    """For the report's gaps."""
    return {
        "row": row.plan.name,
        "replies": len(row.conversations),
        "empty": row.empty,
        "cut_off": sum(not reply.finished for reply in row.replies),
    }
