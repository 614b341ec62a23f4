"""Read, check and write conversations, the one form in which texts enter the library.

A conversation is an object ``{"id"?, "situation"?, "messages": [{"role", "content", "strategy"?},
...], "strategy"?, "response"?, "dialogue"?, "language"?, "meta"?}``; a file holds one such object a
line (JSONL), or a list of them. Nothing is skipped or repaired: what does not fit is refused, and
the error names the place and the way out. The texts themselves are data, never evaluated and never
used as a path.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from sra_fast.chat.checked_conversation import Conversation as Conversation
from sra_fast.chat.checked_conversation import Message as Message
from sra_fast.chat.foreign_files import foreign_formats_named
from sra_fast.chat.record_fields import (
    MESSAGE_FIELDS,
    RECORD_FIELDS,
    fail,
    identity_field,
    label_of,
    meta_field,
    refuse_unknown,
    text_field,
)
from sra_fast.chat.record_fields import ConversationError as ConversationError
from sra_fast.tools.atomic import write_json_lines
from sra_fast.tools.strict_json import json_values
from sra_fast.tools.suggestions import did_you_mean


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
    items: Iterable[Mapping[str, object] | Conversation],
    *,
    where: str = "conversations",
    several_strategies: bool = False,
) -> list[Conversation]:
    """Check conversations that are held in memory, as records or as ``Conversation`` objects.

    Args:
        items: the conversations.
        where: what error messages call the list.
        several_strategies: whether one conversation may come several times, under one id, each time
            with another strategy.

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
    _refuse_same_ids(conversations, several_strategies)
    return conversations


def read_conversations(
    path: str | os.PathLike[str], *, several_strategies: bool = False
) -> list[Conversation]:
    """Read a file of conversations: JSONL, or one JSON list or object of them.

    It is UTF-8, with or without a byte order mark. Blank lines are allowed.

    Args:
        path: the file.
        several_strategies: whether one conversation may come several times, as for
            :func:`as_conversations`.

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
        _refuse_same_ids(conversations, several_strategies)
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


def _refuse_same_ids(conversations: Iterable[Conversation], several_strategies: bool) -> None:
    """Refuse two conversations of one id, but for one under other strategies if that is allowed."""
    of_id: dict[str, list[Conversation]] = {}
    way_out = "ids must differ"
    if several_strategies:
        way_out += ", unless the same messages come again under another strategy"
    for conversation in conversations:
        others = of_id.setdefault(conversation.id, [])
        for other in others:
            same_text = _text(other) == _text(conversation)
            if several_strategies and same_text and _strategies(other) != _strategies(conversation):
                continue
            raise ConversationError(
                f"{conversation.label}: field 'id' is also that of {other.label}; {way_out} "
                "(a conversation without one is called by its number, counted from 0)"
            )
        others.append(conversation)


def _text(conversation: Conversation) -> object:
    """Return what a conversation says, whatever it is held against."""
    said = tuple((message.role, message.content) for message in conversation.messages)
    return conversation.situation, said, conversation.response


def _strategies(conversation: Conversation) -> tuple[str, ...]:
    """Return the strategies that the replies of a conversation are held against, in order."""
    return tuple(strategy for _, _, strategy in conversation.scored)
