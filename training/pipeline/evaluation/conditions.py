"""Fill the conditions of an evaluation: generate replies and score them.

A condition is one model under one prompt template: a line of the evaluation's table. On disk and in
``results.json`` it is called a row.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sra_fast.chat.chat_template import read_chat_template
from sra_fast.chat.conversations import Conversation
from sra_fast.chat.templates import PromptTemplate
from sra_fast.chat.thoughts import Thoughts
from sra_fast.files.models import ModelSource
from sra_fast.result import SRAResult

from ...data.trained_on import digest
from ..generation.generation_prompts import generation_prompts
from ..generation.replies import LocalReplier, Reply, complete
from ..generation.sampling import Sampling
from .reply_scores import head_masses, score_replies

REPLIES, SCORES = "replies", "scores"


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
    *,
    thoughts: Thoughts | None = None,
    now: datetime | None = None,
    check: bool = True,
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
        thoughts, now: the arguments of those names of :func:`sra_fast.encode`.
        check: the argument of that name of :func:`sra_fast.score`.

    Raises:
        ValueError: all replies are empty, or a conversation cannot be used.
    """
    pairs = read_chat_template(tokenizer, thoughts=thoughts, now=now).thoughts
    prompts = generation_prompts(conversations, plan.template, strategies, pairs)
    replier = LocalReplier(model, tokenizer, sampling, batch=batch, thoughts=thoughts, now=now)
    replies = complete(replier, prompts, folder / REPLIES, on_progress)
    whole = [
        one.with_last_reply(replies[one.id].text) for one in conversations if replies[one.id].text
    ]
    if not whole:
        raise ValueError(
            f"{plan.name}: all of the {len(conversations)} replies are empty; is this a chat model?"
        )
    settings = {"row": plan.name, "model": plan.source.fingerprint(), "sampling": asdict(sampling)}
    scores = folder / f"{SCORES}-{replies_digest(whole)}"
    for stale in set(folder.glob(f"{SCORES}*")) - {scores}:  # scores of earlier replies
        shutil.rmtree(stale)
    result = score_replies(
        model,
        tokenizer,
        whole,
        plan.template,
        strategies,
        scores,
        settings,
        thoughts=thoughts,
        now=now,
        check=check,
    )
    return Condition(
        plan,
        whole,
        [replies[one.id] for one in whole],
        [one for one in conversations if not replies[one.id].text],
        result,
    )


def summary(condition: Condition) -> dict[str, Any]:
    """Count the replies of a condition, and those that are empty or were cut off."""
    return {
        "row": condition.plan.name,
        "replies": len(condition.conversations),
        "empty": len(condition.unanswered),
        "cut_off": sum(not reply.finished for reply in condition.replies),
    }


def replies_digest(whole: Sequence[Conversation]) -> str:
    """Return a digest of the ids and last replies of conversations.

    Args:
        whole: the conversations.
    """
    return digest(*(text for one in whole for text in (one.id, one.last_reply[1])))
