"""Read, check and write conversations, the one form in which texts enter the library.

A conversation is an object ``{"id"?, "situation"?, "messages": [{"role", "content"}, ...],
"strategy", "response"?, "dialogue"?, "language"?}``; a file holds one such object a line (JSONL).
Nothing is skipped or repaired: what does not fit is refused, and the error names the place and the
way out. The texts themselves are data, never evaluated and never used as a path.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NoReturn

from sra_fast.tools.argument_error import ArgumentError
from sra_fast.tools.atomic import write_json_lines
from sra_fast.tools.strict_json import clean_text, read_json_lines
from sra_fast.tools.suggestions import did_you_mean

Role = Literal["user", "assistant"]

_RECORD_FIELDS = ("id", "dialogue", "language", "situation", "messages", "strategy", "response")
_MESSAGE_FIELDS = ("role", "content")


class ConversationError(ArgumentError):
    """Raised when a conversation cannot be used.

    The message names the file, the line, the conversation, the field and the way out.
    """


@dataclass(frozen=True)
class Message:
    """One user or assistant message of a conversation.

    Attributes:
        role: "user" or "assistant".
        content: the text, without white space around it.
    """

    role: Role
    content: str


@dataclass(frozen=True)
class Conversation:
    """A conversation that has been checked: its messages, its strategy and the replies to score.

    Attributes:
        id: unique among the conversations that are read together.
        messages: user and assistant messages, alternating; either may begin.
        strategy: name of the strategy that the replies are scored against.
        situation: what brought the person here, or None.
        response: the text of the one reply to score, which follows ``messages``; None if the
            assistant messages are themselves the replies to score.
        where: the place in the input, e.g. ``"chats.jsonl line 12"``, for error messages.
        dialogue: id of the dialogue that the conversation was cut from, or None if it stands for
            itself. Conversations of one dialogue resemble each other, so intervals and splits
            count them as one.
        language: the language of the texts, or None; results are reported by language.

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

    def __post_init__(self) -> None:
        if not self.messages:
            _fail(self.label, "messages", "is empty; give at least the user's message")
        for position, (one, other) in enumerate(itertools.pairwise(self.messages), start=1):
            if one.role == other.role:
                _fail(
                    self.label,
                    f"messages[{position}].role",
                    f"two {one.role!r} messages in a row; roles alternate, so join the two",
                )
        if self.response is not None and self.messages[-1].role != "user":
            _fail(
                self.label,
                "messages",
                "must end with a 'user' message, because 'response' is the reply to it; leave "
                "'response' out to score the assistant messages themselves",
            )
        if self.response is None and not any(m.role == "assistant" for m in self.messages[1:]):
            _fail(
                self.label,
                "messages",
                "holds no assistant message that follows a user message, so there is nothing to "
                "score; add the reply as the last message or as 'response'",
            )

    @property
    def last_reply(self) -> tuple[tuple[Message, ...], str]:
        """The messages before the last reply, and its text: ``response`` if that is given."""
        if self.response is not None:
            return self.messages, self.response
        last = max(i for i, message in enumerate(self.messages) if message.role == "assistant")
        return self.messages[:last], self.messages[last].content

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
        found["messages"] = [{"role": m.role, "content": m.content} for m in self.messages]
        found["strategy"] = self.strategy
        if self.response is not None:
            found["response"] = self.response
        return found

    @property
    def label(self) -> str:
        """The name of this conversation in errors, e.g. ``conversation 'c7' (a.jsonl line 3)``."""
        return _label(self.id, self.where)


def parse_conversation(record: object, *, index: int, where: str) -> Conversation:
    """Check one conversation record and return it as a ``Conversation``.

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
            f"{_label(str(index), where)}: expected an object with 'messages' and 'strategy', "
            f"found {type(record).__name__}"
        )
    label = _label(_text(record, "id", _label(str(index), where)) or str(index), where)
    _refuse_unknown(record, _RECORD_FIELDS, label, "")
    strategy = _text(record, "strategy", label)
    if strategy is None:
        _fail(label, "strategy", "is missing; name the strategy that the replies should follow")
    if "messages" not in record:
        _fail(label, "messages", "is missing; give a list of {'role', 'content'} objects")
    messages = record["messages"]
    if not isinstance(messages, (list, tuple)):
        _fail(label, "messages", f"must be a list, found {type(messages).__name__}")
    return Conversation(
        id=_text(record, "id", label) or str(index),
        messages=tuple(_message(m, f"messages[{i}]", label) for i, m in enumerate(messages)),
        strategy=strategy,
        situation=_text(record, "situation", label),
        response=_text(record, "response", label),
        where=where,
        dialogue=_text(record, "dialogue", label),
        language=_text(record, "language", label),
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
    """Read a JSONL file of conversations (UTF-8, with or without a byte order mark).

    Blank lines are allowed.

    Raises:
        ConversationError: a line is not JSON, a conversation is not in the form above, two have
            the same id, or the file holds none.
        OSError: the file cannot be read.
    """
    name = Path(path).name
    conversations: list[Conversation] = []
    records = read_json_lines(
        path,
        raises=ConversationError,
        instead_of_a_list="convert ESConv's files with sra_fast.chat.esconv.convert",
    )
    for where, record in records:
        if isinstance(record, list):
            raise ConversationError(
                f"{where}: found a list; write one conversation a line, without brackets around "
                "them and commas between them (convert ESConv's files with "
                "sra_fast.chat.esconv.convert)"
            )
        conversations.append(parse_conversation(record, index=len(conversations), where=where))
    if not conversations:
        raise ConversationError(f"{name}: holds no conversation; write one JSON object a line")
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


def _label(identity: str, where: str) -> str:
    return f"conversation {identity!r} ({where})" if where else f"conversation {identity!r}"


def _fail(label: str, field: str, problem: str) -> NoReturn:
    raise ConversationError(f"{label}: field {field!r} {problem}")


def _text(record: Mapping[str, object], field: str, label: str, prefix: str = "") -> str | None:
    """Return a text field, or None only if it is missing: a null in place of a text is refused."""
    if field not in record:
        return None
    return clean_text(record[field], f"{label}: field {prefix + field!r}", raises=ConversationError)


def _message(message: object, name: str, label: str) -> Message:
    if not isinstance(message, Mapping):
        _fail(label, name, f"must be an object, found {type(message).__name__}")
    _refuse_unknown(message, _MESSAGE_FIELDS, label, f"{name}.")
    content = _text(message, "content", label, f"{name}.")
    if content is None:
        _fail(label, f"{name}.content", "is missing")
    role = message.get("role")
    if role == "user" or role == "assistant":
        return Message(role=role, content=content)
    if role == "system":
        _fail(
            label,
            f"{name}.role",
            "is 'system', but the prompt template writes the system message; leave it out, choose "
            "or write a template, or pass your own prompts with their masks to sra_fast.score",
        )
    _fail(
        label,
        f"{name}.role",
        f"must be 'user' or 'assistant', found {role!r}{did_you_mean(role, ('user', 'assistant'))}",
    )


def _refuse_unknown(
    record: Mapping[str, object], fields: tuple[str, ...], label: str, prefix: str
) -> None:
    for key in record:
        if key not in fields:
            known = ", ".join(repr(field) for field in fields)
            raise ConversationError(
                f"{label}: unknown field {prefix + str(key)!r}{did_you_mean(key, fields)} "
                f"(known: {known})"
            )


def _refuse_same_ids(conversations: Iterable[Conversation]) -> None:
    first: dict[str, Conversation] = {}
    for conversation in conversations:
        other = first.setdefault(conversation.id, conversation)
        if other is not conversation:
            raise ConversationError(
                f"{conversation.label}: field 'id' is also that of {other.label}; ids must differ "
                "(a conversation without one is called by its number, counted from 0)"
            )
