"""Two files of conversations, item by item: the same question, one answer of each system."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sra_fast.conversations import Conversation, Message, read_conversations
from sra_fast.strategies import StrategyError, lookup
from sra_fast.training.annotation.errors import AnnotationError


@dataclass(frozen=True)
class Pair:
    """One item.

    Attributes:
        item: the id that the two conversations share.
        situation: what the seeker came with, or None.
        messages: those before the reply.
        strategy, description: what the reply was to follow.
        response_a, response_b: the replies.
        turn: the reply's number among the conversation's assistant messages, from 1.
    """

    item: str
    situation: str | None
    messages: tuple[Message, ...]
    strategy: str
    description: str
    response_a: str
    response_b: str

    @property
    def turn(self) -> int:
        return 1 + sum(message.role == "assistant" for message in self.messages)


def read_pairs(file_a: Path, file_b: Path, strategies: Mapping[str, str]) -> list[Pair]:
    """Matches two files by id, in the order of the first.

    The reply is a conversation's ``response``, or else its last assistant message, behind which
    everything is left out.

    Raises:
        ConversationError: a file is malformed.
        AnnotationError: an id is in one file alone, or the two differ in more than the reply, or
            no reply differs; or a strategy is unknown.
        OSError: a file cannot be read.
    """
    ones = {one.id: one for one in read_conversations(file_a)}
    others = {other.id: other for other in read_conversations(file_b)}
    for found, missing, name in ((ones, others, file_b.name), (others, ones, file_a.name)):
        alone = [conversation for item, conversation in found.items() if item not in missing]
        if alone:
            raise AnnotationError(
                f"{alone[0].label} has no counterpart in {name} ({len(alone)} such items); give "
                "both files the same ids"
            )
    pairs = [_pair(one, others[item], strategies) for item, one in ones.items()]
    if all(pair.response_a == pair.response_b for pair in pairs):
        raise AnnotationError(
            f"{file_a.name} and {file_b.name} hold the same replies throughout; give the replies "
            "of two systems"
        )
    return pairs


def choose_pairs(pairs: list[Pair], items: int | None, seed: int) -> list[Pair]:
    """So many of the pairs, at random, in their order; all if ``items`` is None.

    Raises:
        AnnotationError: there are fewer.
    """
    if items is None:
        return pairs
    if items > len(pairs):
        raise AnnotationError(f"{items} items are asked for and the files hold {len(pairs)}")
    chosen = random.Random(seed).sample(range(len(pairs)), items)
    return [pairs[index] for index in sorted(chosen)]


def _pair(one: Conversation, other: Conversation, strategies: Mapping[str, str]) -> Pair:
    messages, response_a = one.last_reply
    others, response_b = other.last_reply
    for what, mine, yours in (
        ("strategy", one.strategy, other.strategy),
        ("situation", one.situation, other.situation),
        ("messages before the reply", messages, others),
    ):
        if mine != yours:
            raise AnnotationError(
                f"{one.label} and its counterpart ({other.where}) differ in their {what}; only the "
                "reply may differ"
            )
    try:
        description = lookup(one.strategy, strategies)
    except StrategyError as error:
        raise AnnotationError(f"{one.label}: {error}") from error
    return Pair(one.id, one.situation, messages, one.strategy, description, response_a, response_b)
