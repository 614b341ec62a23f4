"""Hold a conversation that has been checked: its messages, its strategy, the replies to score."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from sra_fast.chat.record_fields import fail, label_of

Role = Literal["user", "assistant"]


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
                    f"makes two {one.role!r} messages in a row; roles alternate, so join the two",
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
