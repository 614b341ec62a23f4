"""Read, check and write conversations, the one form in which texts enter the library.

A conversation is an object ``{"id"?, "situation"?, "messages": [{"role", "content", "strategy"?},
...], "strategy"?, "response"?, "dialogue"?, "language"?, "meta"?}``; a file holds one such object a
line (JSONL), or a list of them. Nothing is skipped or repaired: what does not fit is refused, and
the error names the place and the way out. The texts themselves are data, never evaluated and never
used as a path.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from sra_fast.chat.foreign_files import foreign_formats_named
from sra_fast.chat.record_fields import ConversationError as ConversationError
from sra_fast.chat.record_fields import (
    fail,
    identity_field,
    label_of,
    meta_field,
    refuse_unknown,
    text_field,
)
from sra_fast.tools.atomic import write_json_lines
from sra_fast.tools.strict_json import json_values
from sra_fast.tools.suggestions import did_you_mean

Role = Literal["user", "assistant"]

RECORD_FIELDS = (
    "id",
    "dialogue",
    "language",
    "situation",
    "messages",
    "strategy",
    "response",
    "meta",
)
"""The fields that a conversation has in a file."""

MESSAGE_FIELDS = ("role", "content", "strategy")
"""The fields that a message of a conversation has in a file."""


@dataclass(frozen=True)
class Message:
    """One user or assistant message of a conversation.

    Attributes:
        role: "user" or "assistant".
        content: the text, without white space around it.
        strategy: name of the strategy that this assistant message is scored against; None for a
            user message, and where the conversation's own strategy holds.

    Raises:
        ValueError: a user message has a strategy.
    """

    role: Role
    content: str
    strategy: str | None = None

    def __post_init__(self) -> None:
        if self.role == "user" and self.strategy is not None:
            raise ValueError("a user message has no strategy; only replies are scored against one")


@dataclass(frozen=True)
class Conversation:
    """A conversation that has been checked: its messages, its strategy and the replies to score.

    Attributes:
        id: unique among the conversations that are read together.
        messages: user and assistant messages, alternating; either may begin.
        strategy: name of the strategy that the replies are scored against. If messages carry
            strategies of their own and there is no ``response``, each is scored against its own,
            those without one are context, and this is the strategy of the last one scored.
        situation: what brought the person here, or None.
        response: the text of the one reply to score, which follows ``messages``; None if the
            assistant messages are themselves the replies to score.
        where: the place in the input, e.g. ``"chats.jsonl line 12"``, for error messages.
        dialogue: id of the dialogue that the conversation was cut from, or None if it stands for
            itself. Conversations of one dialogue resemble each other, so intervals and splits
            count them as one.
        language: the language of the texts, or None; results are reported by language.
        meta: what else is known of the conversation, as JSON can say it; it travels to the tables
            of results and changes no score.

    Raises:
        ConversationError: the roles do not alternate, or there is no reply to score.
    """

    id: str
    messages: tuple[Message, ...]
    strategy: str
    situation: str | None = None
    response: str | None = None
    where: str = ""
    dialogue: str | None = None
    language: str | None = None
    meta: Mapping[str, object] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not self.messages:
            fail(self.label, "messages", "is empty; give at least the user's message")
        for position, (one, other) in enumerate(itertools.pairwise(self.messages), start=1):
            if one.role == other.role:
                fail(
                    self.label,
                    f"messages[{position}].role",
                    f"two {one.role!r} messages in a row; roles alternate, so join the two",
                )
        if self.response is not None and self.messages[-1].role != "user":
            fail(
                self.label,
                "messages",
                "must end with a 'user' message, because 'response' is the reply to it; leave "
                "'response' out to score the assistant messages themselves",
            )
        if self.response is None and not any(m.role == "assistant" for m in self.messages[1:]):
            fail(
                self.label,
                "messages",
                "holds no assistant message that follows a user message, so there is nothing to "
                "score; add the reply as the last message or as 'response'",
            )
        if not self.scored:
            fail(
                self.label,
                "messages",
                "gives a strategy to the opening message alone, which answers nothing; give one to "
                "a reply, or to the conversation",
            )
        if self.scored[-1][2] != self.strategy:
            fail(
                self.label,
                "strategy",
                f"is {self.strategy!r}, and the last scored message has {self.scored[-1][2]!r}; "
                "give the conversation that of its last reply",
            )

    @property
    def scored(self) -> tuple[tuple[int, int, str], ...]:
        """The replies to score: position among all messages, turn from 1, and strategy of each.

        The ``response`` counts as the last message, and is then the only one. An assistant message
        that opens the conversation answers nothing and is not scored.
        """
        replies = [i for i, message in enumerate(self.messages) if message.role == "assistant"]
        if self.response is not None:
            return ((len(self.messages), len(replies) + 1, self.strategy),)
        own = any(message.strategy is not None for message in self.messages)
        found = []
        for turn, position in enumerate(replies, start=1):
            strategy = self.messages[position].strategy if own else self.strategy
            if position > 0 and strategy is not None:
                found.append((position, turn, strategy))
        return tuple(found)

    def strategy_of(self, turn: int) -> str:
        """Return the strategy that the reply of a turn is scored against.

        Raises:
            KeyError: the reply of this turn is not scored.
        """
        return {number: strategy for _, number, strategy in self.scored}[turn]

    def under(self, strategy: str) -> Conversation:
        """Return a copy whose replies are all held against one strategy."""
        messages = tuple(replace(message, strategy=None) for message in self.messages)
        return replace(self, messages=messages, strategy=strategy)

    @property
    def last_reply(self) -> tuple[tuple[Message, ...], str]:
        """The messages before the last scored reply, and its text."""
        last = self.scored[-1][0]
        text = self.messages[last].content if self.response is None else self.response
        return self.messages[:last], text

    def with_last_reply(self, text: str) -> Conversation:
        """Return a copy that ends with another last reply, given as its ``response``.

        Whatever followed the last reply is left out.
        """
        return replace(self, messages=self.last_reply[0], response=text)

    @property
    def record(self) -> dict[str, object]:
        """The conversation as a line of a conversation file holds it."""
        found: dict[str, object] = {"id": self.id}
        for name in ("dialogue", "language", "situation"):
            if getattr(self, name) is not None:
                found[name] = getattr(self, name)
        found["messages"] = [
            {"role": m.role, "content": m.content}
            | ({} if m.strategy is None else {"strategy": m.strategy})
            for m in self.messages
        ]
        if self.response is not None or all(m.strategy is None for m in self.messages):
            found["strategy"] = self.strategy
        if self.response is not None:
            found["response"] = self.response
        if self.meta:
            found["meta"] = dict(self.meta)
        return found

    @property
    def label(self) -> str:
        """The name of this conversation in errors, e.g. ``conversation 'c7' (a.jsonl line 3)``."""
        return label_of(self.id, self.where)


def parse_conversation(record: object, *, index: int, where: str) -> Conversation:
    """Check one conversation record and return it as a ``Conversation``.

    An optional field may be null, and an id may be a whole number. If messages carry strategies and
    the conversation has one too, it holds for the replies without their own.

    Args:
        record: a mapping in the form above. White space around texts is taken off.
        index: position among the conversations read together, from 0; it is the id of a record
            without one.
        where: the place in the input, for error messages.

    Raises:
        ConversationError: the record is not in that form.
    """
    if not isinstance(record, Mapping):
        raise ConversationError(
            f"{label_of(str(index), where)}: expected an object with 'messages' and 'strategy', "
            f"found {type(record).__name__}"
        )
    identity = identity_field(record, "id", label_of(str(index), where)) or str(index)
    label = label_of(identity, where)
    refuse_unknown(record, RECORD_FIELDS, label)
    strategy = text_field(record, "strategy", label)
    response = text_field(record, "response", label)
    if "messages" not in record:
        fail(label, "messages", "is missing; give a list of {'role', 'content'} objects")
    given = record["messages"]
    if not isinstance(given, (list, tuple)):
        fail(label, "messages", f"must be a list, found {type(given).__name__}")
    messages = tuple(_message(m, f"messages[{i}]", label) for i, m in enumerate(given))
    if response is None and any(m.strategy is not None for m in messages):
        messages = tuple(_with_default(message, strategy) for message in messages)
        strategy = next(m.strategy for m in reversed(messages) if m.strategy is not None)
    if strategy is None:
        fail(
            label,
            "strategy",
            "is missing; name the strategy that the replies should follow, or give each reply "
            "among the messages its own",
        )
    return Conversation(
        id=identity,
        messages=messages,
        strategy=strategy,
        situation=text_field(record, "situation", label),
        response=response,
        where=where,
        dialogue=identity_field(record, "dialogue", label),
        language=text_field(record, "language", label),
        meta=meta_field(record, label),
    )


def as_conversations(
    items: Iterable[Mapping[str, object] | Conversation], *, where: str = "conversations"
) -> list[Conversation]:
    """Check conversations that are held in memory, as records or as ``Conversation`` objects.

    Args:
        items: the conversations.
        where: what error messages call the list.

    Raises:
        ConversationError: one of them is not in the form above, or two have the same id.
    """
    if isinstance(items, (str, bytes, os.PathLike)):
        raise ConversationError(
            f"expected a list of conversations, found {type(items).__name__} {str(items)!r:.80}; "
            "sra_fast.chat.conversations.read_conversations(path) reads a file"
        )
    if isinstance(items, (Mapping, Conversation)):
        raise ConversationError("expected a list of conversations, found one; put it in a list")
    conversations = [
        item
        if isinstance(item, Conversation)
        else parse_conversation(item, index=index, where=f"{where}[{index}]")
        for index, item in enumerate(items)
    ]
    _refuse_same_ids(conversations)
    return conversations


def read_conversations(path: str | os.PathLike[str]) -> list[Conversation]:
    """Read a file of conversations: JSONL, or one JSON list or object of them.

    It is UTF-8, with or without a byte order mark. Blank lines are allowed.

    Raises:
        ForeignFormatError: the file holds conversations in another form.
        ConversationError: a line is not JSON, a conversation is not in the form above, two have
            the same id, or the file holds none.
        OSError: the file cannot be read.
    """
    with foreign_formats_named(path):
        if Path(path).is_dir():
            raise ConversationError(f"{path}: this is a folder; give a file of conversations")
        conversations: list[Conversation] = []
        for where, record in json_values(path, raises=ConversationError):
            if isinstance(record, list):
                raise ConversationError(
                    f"{where}: found a list; write one conversation a line, or one list of them all"
                )
            conversations.append(parse_conversation(record, index=len(conversations), where=where))
        if not conversations:
            raise ConversationError(
                f"{Path(path).name}: holds no conversation; write one JSON object a line, or a "
                "list of them"
            )
        _refuse_same_ids(conversations)
    return conversations


def write_conversations(
    path: str | os.PathLike[str], records: Iterable[Mapping[str, object]]
) -> None:
    """Write conversation records as a JSONL file, whole or not at all.

    Raises:
        ConversationError: a record is not in the form that ``read_conversations`` takes.
        OSError: the file cannot be written.
    """
    kept = list(records)
    as_conversations(kept, where="records")
    write_json_lines(Path(path), map(dict, kept))


def _with_default(message: Message, strategy: str | None) -> Message:
    if message.role == "user" or message.strategy is not None:
        return message
    return replace(message, strategy=strategy)


def _message(message: object, name: str, label: str) -> Message:
    if not isinstance(message, Mapping):
        fail(label, name, f"must be an object, found {type(message).__name__}")
    refuse_unknown(message, MESSAGE_FIELDS, label, f"{name}.")
    content = text_field(message, "content", label, f"{name}.")
    if content is None:
        fail(label, f"{name}.content", "is missing")
    role = message.get("role")
    strategy = text_field(message, "strategy", label, f"{name}.")
    if role == "user" and strategy is not None:
        fail(
            label,
            f"{name}.strategy",
            "stands on a user message; give it to the reply that should follow it",
        )
    if role == "system":
        fail(
            label,
            f"{name}.role",
            "is 'system', but the prompt template writes the system message; leave it out, choose "
            "or write a template, or pass your own prompts with their masks to sra_fast.score",
        )
    if role != "user" and role != "assistant":
        fail(
            label,
            f"{name}.role",
            f"must be 'user' or 'assistant', found {role!r}"
            f"{did_you_mean(role, ('user', 'assistant'))}",
        )
    return Message(role, content, strategy)


def _refuse_same_ids(conversations: Iterable[Conversation]) -> None:
    first: dict[str, Conversation] = {}
    for conversation in conversations:
        other = first.setdefault(conversation.id, conversation)
        if other is not conversation:
            raise ConversationError(
                f"{conversation.label}: field 'id' is also that of {other.label}; ids must differ "
                "(a conversation without one is called by its number, counted from 0)"
            )
