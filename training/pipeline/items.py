"""Pair the replies of two systems to the same messages, by id, from two files.

Each pair is an item, which a judge or annotators compare. Files that do not go together are refused
here.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TypeVar

from sra_fast.chat.conversations import Conversation, Message, read_conversations
from sra_fast.chat.strategies import StrategyError, lookup
from sra_fast.tools.argument_error import ArgumentError

SPEAKERS = {"user": "Seeker", "assistant": "Supporter"}
"""What annotators and judges read as the author of a message, by its role."""

T = TypeVar("T")

_NAMED = 5  # the most items that an error names; it counts the others


class PairingError(ArgumentError):
    """Raised when two files cannot be compared; the message names the item and the way out."""


@dataclass(frozen=True)
class Item:
    """Two replies to the same messages, which a judge or an annotator compares.

    Attributes:
        id: the id of the conversation, the same in both files.
        dialogue: the dialogue that the conversation was cut from, or the conversation's own id;
            intervals draw all items of a dialogue together.
        strategy: the name of the strategy that both replies were asked to follow.
        description: the description of that strategy.
        situation: what the seeker said about the situation beforehand, or None.
        messages: the messages before the reply; those of the seeker have the role "user".
        a: the reply of the first system, A.
        b: the reply of the second system, B.
    """

    id: str
    dialogue: str
    strategy: str
    description: str
    situation: str | None
    messages: tuple[Message, ...]
    a: str
    b: str

    @property
    def turn(self) -> int:
        """Return the number of the reply among the conversation's assistant messages, from 1."""
        return 1 + sum(message.role == "assistant" for message in self.messages)


def read_items(
    file_a: Path,
    file_b: Path,
    strategies: Mapping[str, str],
    *,
    count: int | None = None,
    seed: int = 0,
) -> list[Item]:
    """Pair the conversations of two files by id, in the order of the first file.

    The reply is a conversation's ``response``, or else its last assistant message; what follows
    that message is left out.

    Args:
        file_a: JSONL file of conversations with the replies of the first system.
        file_b: JSONL file of the same conversations with the replies of the second system.
        strategies: the strategies as a mapping of names to descriptions.
        count: how many items to draw at random; None for all.
        seed: seed of the draw.

    Raises:
        ConversationError: a file is malformed, or holds no conversations.
        PairingError: an id is in one file only, two conversations of one id differ in more than
            the reply, a strategy is unknown, there are fewer items than ``count``, or the two
            replies are identical in every item.
        OSError: a file cannot be read.
    """
    of_a = {one.id: one for one in read_conversations(file_a)}
    of_b = {one.id: one for one in read_conversations(file_b)}
    _refuse_alone([one for one in of_a.values() if one.id not in of_b], file_a, file_b)
    _refuse_alone([one for one in of_b.values() if one.id not in of_a], file_b, file_a)
    items = [_item(one, of_b[one.id], strategies) for one in of_a.values()]
    if count is not None:
        if count > len(items):
            raise PairingError(
                f"the files hold {len(items)} items, fewer than the {count} asked for", "items"
            )
        items = draw(items, count, seed)
    if all(item.a == item.b for item in items):
        raise PairingError(
            f"{file_a} and {file_b} hold the same reply to all of the {len(items)} items; give the "
            "replies of two systems"
        )
    return items


def draw(values: Sequence[T], count: int, seed: int) -> list[T]:
    """Return ``count`` values drawn at random, in the order in which they were given.

    Args:
        values: what to draw from.
        count: how many to draw, at most all.
        seed: seed of the draw.
    """
    kept = sorted(random.Random(seed).sample(range(len(values)), count))
    return [values[index] for index in kept]


def _refuse_alone(alone: Sequence[Conversation], file: Path, other: Path) -> None:
    if alone:
        names = ", ".join(repr(one.id) for one in alone[:_NAMED])
        more = f" and {len(alone) - _NAMED} more" if len(alone) > _NAMED else ""
        raise PairingError(
            f"{file} has conversations that {other} lacks: {names}{more}; both files must hold "
            "replies to the same conversations, matched by 'id'"
        )


def _item(a: Conversation, b: Conversation, strategies: Mapping[str, str]) -> Item:
    for field in ("strategy", "situation", "dialogue"):
        of_a, of_b = getattr(a, field), getattr(b, field)
        if of_a != of_b:
            _refuse_difference(a, b, field, f" ({of_a!r} and {of_b!r})")
    messages, reply = a.last_reply
    if messages != b.last_reply[0]:
        _refuse_difference(a, b, "messages")
    try:
        description = lookup(a.strategy, strategies)
    except StrategyError as error:
        raise PairingError(f"{a.label}: {error}", *error.arguments) from error
    return Item(
        id=a.id,
        dialogue=a.dialogue or a.id,
        strategy=a.strategy,
        description=description,
        situation=a.situation,
        messages=messages,
        a=reply,
        b=b.last_reply[1],
    )


def _refuse_difference(a: Conversation, b: Conversation, field: str, both: str = "") -> NoReturn:
    raise PairingError(
        f"{a.label} and {b.label} differ in {field!r}{both}; they may differ in the last reply only"
    )
