"""What is judged: two systems' replies to the same messages under the same strategy."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sra_fast.conversations import Conversation, Message, read_conversations
from sra_fast.strategies import StrategyError, lookup

_NAMED = 5  # messages name so many items and count the others


class JudgingError(ValueError):
    """Nothing can be judged so; the message names the item and the way out."""


@dataclass(frozen=True)
class Item:
    """One comparison.

    Attributes:
        id: of the conversation, in both files.
        dialogue: what it was cut from, or its own id; intervals count it as one.
        strategy, description: what both replies were to follow.
        situation: what the seeker came with, or None.
        messages: before the reply; the seeker is "user".
        a, b: the two systems' replies.
    """

    id: str
    dialogue: str
    strategy: str
    description: str
    situation: str | None
    messages: tuple[Message, ...]
    a: str
    b: str


def read_items(file_a: Path, file_b: Path, strategies: Mapping[str, str]) -> list[Item]:
    """Pairs two files of conversations by id, in the first one's order.

    The reply is the conversation's ``response``, or else its last assistant message, behind which
    everything is left out.

    Raises:
        ConversationError: a file holds no conversations.
        JudgingError: an id is in one file alone, or two conversations of one id differ in more
            than the reply, or a strategy is unknown.
        OSError: a file cannot be read.
    """
    a, b = read_conversations(file_a), read_conversations(file_b)
    of_b = {conversation.id: conversation for conversation in b}
    _refuse_alone(a, set(of_b), file_a, file_b)
    _refuse_alone(b, {conversation.id for conversation in a}, file_b, file_a)
    return [_item(one, of_b[one.id], strategies) for one in a]


def sample(items: Sequence[Item], count: int, seed: int) -> list[Item]:
    """So many of the items, drawn by ``seed``, in their order.

    Raises:
        JudgingError: there are fewer.
    """
    if count > len(items):
        raise JudgingError(f"the files hold {len(items)} items, fewer than the {count} asked for")
    kept = sorted(random.Random(seed).sample(range(len(items)), count))
    return [items[index] for index in kept]


def _refuse_alone(
    conversations: Sequence[Conversation], others: set[str], file: Path, other: Path
) -> None:
    alone = [one.id for one in conversations if one.id not in others]
    if alone:
        names = ", ".join(repr(name) for name in alone[:_NAMED])
        more = f" and {len(alone) - _NAMED} more" if len(alone) > _NAMED else ""
        raise JudgingError(
            f"{file} has conversations that {other} lacks: {names}{more}; both files must hold "
            "replies to the same conversations, matched by 'id'"
        )


def _item(a: Conversation, b: Conversation, strategies: Mapping[str, str]) -> Item:
    (before_a, reply_a), (before_b, reply_b) = a.last_reply, b.last_reply
    for field, of_a, of_b in (
        ("strategy", a.strategy, b.strategy),
        ("situation", a.situation, b.situation),
        ("dialogue", a.dialogue, b.dialogue),
        ("messages", before_a, before_b),
    ):
        if of_a != of_b:
            detail = "" if field == "messages" else f" ({of_a!r} and {of_b!r})"
            raise JudgingError(
                f"{a.label} and {b.label} differ in {field!r}{detail}; they must be the same but "
                "for the last reply"
            )
    try:
        description = lookup(a.strategy, strategies)
    except StrategyError as error:
        raise JudgingError(f"{a.label}: {error}") from error
    return Item(
        id=a.id,
        dialogue=a.dialogue or a.id,
        strategy=a.strategy,
        description=description,
        situation=a.situation,
        messages=before_a,
        a=reply_a,
        b=reply_b,
    )
