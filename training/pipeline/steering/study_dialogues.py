"""Turn dialogues into the prompts of a steering study: each dialogue under every strategy.

The strategy's name is marked as a span, and so are as many tokens of the situation, the last ones,
which stand nearest to it: they are the control.
"""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import torch

from sra_fast.chat.conversations import Conversation, Message
from sra_fast.chat.dialogues import Dialogue
from sra_fast.chat.marking import mark
from sra_fast.chat.strategies import lookup
from sra_fast.chat.templates import TEMPLATES, Prompt, render_prompts
from sra_fast.tools.argument_error import ArgumentError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from sra_fast.chat.thoughts import Thoughts

STEERED, CONTROL = "strategy", "situation"
"""The names of the spans: the strategy's name, and as many tokens of the situation."""

TEMPLATE = TEMPLATES["standard"]
_BEFORE_SITUATION = TEMPLATE.instruction.partition("{situation}")[0]

_logger = logging.getLogger(__name__)


class StudyError(ArgumentError):
    """Raised when dialogues or a model cannot be studied; the message says why."""


@dataclass(frozen=True)
class StudyDialogue:
    """A dialogue whose replies are studied.

    Attributes:
        id: its id.
        group: the id of the dialogue that it repeats, or its own.
        conversation: the dialogue, up to its last reply.
        own: the number of each studied reply's strategy, by the reply's turn, from 1.
    """

    id: str
    group: str
    conversation: Conversation
    own: Mapping[int, int]


def studied_strategies(
    dialogues: Sequence[Dialogue], strategies: Mapping[str, str]
) -> dict[str, str]:
    """Return the strategies that replies of a file are annotated with, and their descriptions.

    Raises:
        StrategyError: a strategy of the file is not described.
        StudyError: the file names fewer than two.
    """
    named = {name for one in dialogues for turn in one.turns for name in turn.strategies}
    for name in sorted(named):
        lookup(name, strategies)
    if len(named) < 2:
        raise StudyError(
            f"the replies name {len(named)} strategies, and a study compares at least two"
        )
    return {name: text for name, text in strategies.items() if name in named}


def study_dialogues(
    dialogues: Sequence[Dialogue], strategies: Sequence[str], seed: int
) -> list[StudyDialogue]:
    """Choose the replies that are studied, and bring the dialogues into an order drawn at random.

    A reply is studied if it answers the seeker and is annotated with one strategy alone. The log
    counts the replies that are left out, by reason, and the dialogues without a reply to study.

    Args:
        dialogues: the dialogues.
        strategies: the names of the strategies.
        seed: seed of the order.

    Raises:
        StudyError: no dialogue is left.
    """
    number = {name: at for at, name in enumerate(strategies)}
    found, left_out = [], Counter[str]()
    for dialogue in dialogues:
        own: dict[int, int] = {}
        turn = last = 0
        for position, one in enumerate(dialogue.turns):
            if one.role != "assistant":
                continue
            turn += 1
            names = set(one.strategies)
            if position == 0:
                left_out["that open a dialogue"] += 1
            elif len(names) != 1:
                left_out[f"annotated with {'several' if names else 'no'} strategies"] += 1
            else:
                own[turn] = number[one.strategies[0]]
                last = position
        if own:
            conversation = Conversation(
                dialogue.id,
                tuple(Message(one.role, one.content) for one in dialogue.turns[: last + 1]),
                strategies[0],
                dialogue.situation,
            )
            group = dialogue.same_as or dialogue.id
            found.append(StudyDialogue(dialogue.id, group, conversation, own))
    if not found:
        raise StudyError(
            "no dialogue has a reply to the seeker that is annotated with one strategy"
        )
    reasons = [f"{count} replies {reason}" for reason, count in sorted(left_out.items())]
    _logger.info(
        "%d replies of %d dialogues are studied; left out: %s",
        sum(len(one.own) for one in found),
        len(found),
        ", ".join([*reasons, f"{len(dialogues) - len(found)} dialogues without a reply to study"]),
    )
    random.Random(seed).shuffle(found)
    return found


def study_rows(
    tokenizer: PreTrainedTokenizerBase,
    dialogue: StudyDialogue,
    strategies: Mapping[str, str],
    *,
    thoughts: Thoughts | None = None,
    now: datetime | None = None,
) -> list[dict[str, Any]]:
    """Mark a dialogue's prompt under each strategy, in their order.

    Args:
        tokenizer: a fast tokenizer with a chat template.
        dialogue: the dialogue.
        strategies: the description of each strategy, by its name.
        thoughts, now: the arguments of those names of :func:`sra_fast.mark`.

    Returns:
        For each strategy ``input_ids [T]`` int64, ``span_masks``, ``[T]`` bool by the names
        "strategy" and "situation", and ``response_mask [T]`` int32, k at the tokens of the k-th
        studied reply. The rows have no "situation" where one of them would have too few tokens.
    """
    rows = []
    for name in strategies:
        conversation = dialogue.conversation.under(name)
        (prompt,) = render_prompts(conversation, TEMPLATE, strategies)
        rows.append(_row(tokenizer, prompt, dialogue, thoughts, now))
    if not all(CONTROL in row["span_masks"] for row in rows):
        for row in rows:
            row["span_masks"].pop(CONTROL, None)
    return rows


def _row(
    tokenizer: Any,
    prompt: Prompt,
    dialogue: StudyDialogue,
    thoughts: Thoughts | None,
    now: datetime | None,
) -> dict[str, Any]:
    span, situation = prompt.messages[0].strategy, prompt.conversation.situation
    assert span is not None
    spans: dict[str, Any] = {STEERED: (0, *span)}
    if situation is not None:
        start = len(_BEFORE_SITUATION)
        spans[CONTROL] = (0, start, start + len(situation))
    marked = mark(
        tokenizer,
        [{"role": one.role, "content": one.content} for one in prompt.messages],
        spans,
        [at for at, one in enumerate(prompt.messages) if one.turn in dialogue.own],
        thoughts=thoughts,
        now=now,
    )
    masks = {name: mask[0] for name, mask in marked["span_masks"].items()}
    if CONTROL in masks:
        wanted = int(masks[STEERED].sum())
        places = (masks[CONTROL] & ~masks[STEERED]).nonzero().flatten()[-wanted:]
        masks[CONTROL] = torch.zeros_like(masks[STEERED])
        masks[CONTROL][places] = True
        if len(places) < wanted:
            del masks[CONTROL]
    return {
        "input_ids": marked["input_ids"][0],
        "span_masks": masks,
        "response_mask": marked["response_mask"][0],
    }
