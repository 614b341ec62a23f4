"""Items: two systems' replies to the same messages, paired by id from two files.

Whoever compares replies, a judge or annotators, pairs two files here and is refused here what does
not go together.
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

T = TypeVar("T")

_NAMED = 5  # messages name so many items and count the others


class PairingError(ArgumentError):
    """Two files cannot be compared; the message names the item and the way out."""


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


def read_items(
    file_a: Path,
    file_b: Path,
    strategies: Mapping[str, str],
    *,
    count: int | None = None,
    seed: int = 0,
) -> list[Item]:
    """Pair the conversations of two files by id, in the order of the first file.

    The reply is a conversation's ``response``, or else its last assistant message, behind which
    everything is left out.

    Args:
        file_a, file_b: conversations with the two systems' replies.
        strategies: name to description.
        count: so many items, drawn by ``seed``; all if None.
        seed: of the draw.

    Raises:
        ConversationError: a file is malformed, or holds no conversations.
        PairingError: an id is in one file alone, two conversations of one id differ in more than
            the reply, a strategy is unknown, there are fewer items than ``count``, or all those
            that were drawn have the same reply twice.
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
    """Return ``count`` of the values, at most all, drawn by ``seed`` and left in their order."""
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
        f"{a.label} and {b.label} differ in {field!r}{both}; they must be the same but for the "
        "last reply"
    )
