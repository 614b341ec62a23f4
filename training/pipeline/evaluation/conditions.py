"""Fill the conditions of an evaluation: generate replies, score them and make their records.

A condition is one model under one prompt template: a line of the evaluation's table. On disk and in
``results.json`` it is called a row.
"""

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

_AT_ONCE = 64  # replies between two writes: a crash costs the perplexities of so many


@dataclass(frozen=True)
class ConditionPlan:
    """A condition that is to be evaluated: a model under a prompt template.

    Attributes:
        name: what the table calls the condition.
        source: the model that replies and is scored.
        template: the template of its prompts.
    """

    name: str
    source: ModelSource
    template: PromptTemplate


@dataclass(frozen=True, eq=False)
class Condition:
    """A condition with its replies and their scores.

    Attributes:
        plan: the model and the template.
        conversations: the n conversations that got a reply, each ending in that reply.
        replies: the replies to these conversations, in their order.
        unanswered: the conversations that got an empty reply.
        result: SRA of the n replies.
    """

    plan: ConditionPlan
    conversations: list[Conversation]
    replies: list[Reply]
    unanswered: list[Conversation]
    result: SRAResult

    @property
    def mass(self) -> Tensor:
        """Mean attention mass of each reply on its strategy, float32 ``[n, layers, heads]``."""
        return head_masses(self.result)


def fill_condition(
    plan: ConditionPlan,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[Conversation],
    strategies: Mapping[str, str],
    sampling: Sampling,
    batch: int,
    folder: Path,
    on_progress: Callable[[int], None],
) -> Condition:
    """Generate and score the replies of a condition that are not in its folder yet.

    Args:
        plan: the condition.
        model, tokenizer: the loaded model of the condition, and its tokenizer.
        conversations: the conversations whose last reply is written anew.
        strategies: the description of each strategy, by its name.
        sampling: how replies are drawn.
        batch: how many prompts go through the model at once.
        folder: where replies and scores of this condition are kept.
        on_progress: called with the number of replies that a batch brought.

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
            f"{plan.name}: all of the {len(conversations)} replies are empty; is this a chat model?"
        )
    settings = {"row": plan.name, "model": plan.source.fingerprint(), "sampling": asdict(sampling)}
    scores = folder / f"{SCORES}-{_digest(whole)}"
    for stale in set(folder.glob(f"{SCORES}*")) - {scores}:  # scores of earlier replies
        shutil.rmtree(stale)
    result = score_replies(model, tokenizer, whole, plan.template, strategies, scores, settings)
    return Condition(
        plan,
        whole,
        [replies[one.id] for one in whole],
        [one for one in conversations if not replies[one.id].text],
        result,
    )


def condition_perplexities(
    condition: Condition,
    judge: Callable[[], tuple[PreTrainedModel, PreTrainedTokenizerBase]],
    template: PromptTemplate,
    strategies: Mapping[str, str],
    folder: Path,
) -> list[float]:
    """Compute the perplexity of each reply of a condition, continuing from what ``folder`` holds.

    Args:
        condition: the replies.
        judge: returns the model that judges the language, and its tokenizer; called only when a
            perplexity is missing.
        template: the template of the prompt that a reply is judged under. It and the judge must be
            the same for all conditions that are compared.
        strategies: the description of each strategy, by its name.
        folder: where finished perplexities are kept.

    Returns:
        One perplexity for each reply, in order.
    """
    parts = KeptParts(folder, ".json", _read_perplexities, _write_perplexities)
    replies = _digest(condition.conversations)
    kept = parts.get(PERPLEXITIES)
    values = kept.values if kept is not None and kept.replies == replies else []
    while len(values) < len(condition.conversations):
        part = condition.conversations[len(values) : len(values) + _AT_ONCE]
        values += perplexities(*judge(), part, template, strategies)
        parts.put(PERPLEXITIES, _Perplexities(replies, values))
    return values


@dataclass(frozen=True)
class _Perplexities:
    """The perplexities of the first replies of a condition, as they are kept on disk.

    Attributes:
        replies: digest of all replies of the condition.
        values: one perplexity for each of the first replies.
    """

    replies: str
    values: list[float]


def _read_perplexities(path: Path) -> _Perplexities:
    found = json.loads(path.read_text(encoding="utf-8"))
    return _Perplexities(found["replies"], [float(value) for value in found["perplexities"]])


def _write_perplexities(path: Path, kept: _Perplexities) -> None:
    write_text(path, json.dumps({"replies": kept.replies, "perplexities": kept.values}))


def records(
    condition: Condition, classifier: StrategyClassifier, perplexity: Sequence[float | None]
) -> list[Record]:
    """Make the records of a condition: those of its replies in order, then of the empty replies.

    An empty reply follows no strategy and pays no attention to any: its scores are NaN.

    Args:
        condition: the replies and their scores.
        classifier: says which strategy each reply follows.
        perplexity: the perplexity of each reply, or None where it was not measured.

    Raises:
        ValueError: the classifier does not know a strategy that was asked for.
    """
    texts = [reply.text for reply in condition.replies]
    probabilities = classifier.probabilities(texts)
    classes = list(classifier.classes)
    unknown = {c.strategy for c in (*condition.conversations, *condition.unanswered)} - set(classes)
    if unknown:
        raise ValueError(
            f"the classifier does not know the strategies {', '.join(sorted(unknown))}; train one "
            "on them, or leave these conversations out"
        )
    scores = {name: values.tolist() for name, values in condition.result.scores.items()}
    looks = lookback(condition.result).tolist()
    found = [
        _record(
            condition,
            conversation,
            predicted=classes[int(probabilities[index].argmax())],
            probability=float(probabilities[index][classes.index(conversation.strategy)]),
            sra={name: values[index] for name, values in scores.items()},
            lookback=looks[index],
            tokens=condition.replies[index].tokens,
            finished=condition.replies[index].finished,
            perplexity=perplexity[index],
            text=texts[index],
        )
        for index, conversation in enumerate(condition.conversations)
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
    return found + [
        _record(condition, conversation, **nothing) for conversation in condition.unanswered
    ]


def _record(condition: Condition, conversation: Conversation, **measured: Any) -> Record:
    return Record(
        row=condition.plan.name,
        item=conversation.id,
        dialogue=conversation.dialogue or conversation.id,
        strategy=conversation.strategy,
        turn=_turn(conversation),
        language=conversation.language,
        **measured,
    )


def _turn(conversation: Conversation) -> int:
    """Return the number of the last reply among the assistant messages, from 1."""
    return 1 + sum(message.role == "assistant" for message in conversation.last_reply[0])


def _digest(whole: Sequence[Conversation]) -> str:
    """Return a digest of the ids and last replies of conversations."""
    return digest(*(text for one in whole for text in (one.id, one.last_reply[1])))


def summary(condition: Condition) -> dict[str, Any]:
    """Count the replies of a condition, and those that are empty or were cut off."""
    return {
        "row": condition.plan.name,
        "replies": len(condition.conversations),
        "empty": len(condition.unanswered),
        "cut_off": sum(not reply.finished for reply in condition.replies),
    }
