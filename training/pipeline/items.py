"""Items: two systems' replies to the same messages, matched by id from two files.

Who compares replies (judges, annotators) refuses what does not match in words of their own; what
matches, and which field does not, is found here.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sra_fast.chat.conversations import Conversation, Message, read_conversations
from sra_fast.chat.strategies import StrategyError, lookup

Field = Literal["strategy", "situation", "dialogue", "messages"]


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

    @property
    def turn(self) -> int:
        """The reply's number among the conversation's assistant messages, from 1."""
        return 1 + sum(message.role == "assistant" for message in self.messages)


@dataclass(frozen=True)
class Matches:
    """Two files of conversations, by id, each list in its file's order.

    Attributes:
        both: the two conversations of each id that is in both files.
        only_a, only_b: conversations whose id the other file lacks.
    """

    both: list[tuple[Conversation, Conversation]]
    only_a: list[Conversation]
    only_b: list[Conversation]


def read_matches(file_a: Path, file_b: Path) -> Matches:
    """Matches the conversations of two files by id.

    Raises:
        ConversationError: a file holds no conversations.
        OSError: a file cannot be read.
    """
    of_a = {one.id: one for one in read_conversations(file_a)}
    of_b = {one.id: one for one in read_conversations(file_b)}
    return Matches(
        both=[(one, of_b[name]) for name, one in of_a.items() if name in of_b],
        only_a=[one for name, one in of_a.items() if name not in of_b],
        only_b=[one for name, one in of_b.items() if name not in of_a],
    )


def first_difference(
    a: Conversation, b: Conversation, fields: Sequence[Field]
) -> tuple[Field, object, object] | None:
    """The first of the fields in which two conversations differ, with both values, or None.

    Of the messages only those before the last reply count.
    """
    for field in fields:
        if field == "messages":
            of_a, of_b = a.last_reply[0], b.last_reply[0]
        else:
            of_a, of_b = getattr(a, field), getattr(b, field)
        if of_a != of_b:
            return field, of_a, of_b
    return None


def make_item(
    a: Conversation, b: Conversation, strategies: Mapping[str, str], *, raises: type[ValueError]
) -> Item:
    """The item of two conversations that differ in the last reply alone.

    The reply is a conversation's ``response``, or else its last assistant message, behind which
    everything is left out.

    Raises:
        raises: the strategy is unknown.
    """
    try:
        description = lookup(a.strategy, strategies)
    except StrategyError as error:
        raise raises(f"{a.label}: {error}") from error
    messages, reply = a.last_reply
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


def draw(items: Sequence[Item], count: int, seed: int) -> list[Item]:
    """``count`` of the items, at most all, drawn by ``seed``, in their order."""
    kept = sorted(random.Random(seed).sample(range(len(items)), count))
    return [items[index] for index in kept]
