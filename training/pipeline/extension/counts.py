"""Describe the extended data set in numbers, by part of the split and by strategy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from sra_fast.chat.conversations import Conversation
from sra_fast.tools.markdown_table import markdown_table


def describe(
    parts: Mapping[str, Sequence[Conversation]], strategies: Sequence[str]
) -> dict[str, Any]:
    """Count the replies of a data set and their mean lengths in words.

    Args:
        parts: the conversations of each part of the split, by its name.
        strategies: the names of the strategies, in the order of the table.

    Returns:
        Under ``parts``, for each part and for "all": the numbers of dialogues and replies, the mean
        number of messages before a reply, and the mean numbers of words of such a message and of a
        reply (None for an empty part). Under ``strategies``, for each strategy: the number of
        replies in each part, and the mean number of words of all its replies.
    """
    everything = [conversation for part in parts.values() for conversation in part]
    return {
        "parts": {name: _part(part) for name, part in {**parts, "all": everything}.items()},
        "strategies": {
            name: {
                **{part: _count(held, name) for part, held in parts.items()},
                "all": _count(everything, name),
                "words": _mean([_words(c.response) for c in everything if c.strategy == name]),
            }
            for name in strategies
        },
    }


def as_markdown(described: Mapping[str, Any]) -> str:
    """Return the numbers of :func:`describe` as two tables in Markdown."""
    parts, strategies = described["parts"], described["strategies"]
    sizes = (
        (
            name,
            str(part["dialogues"]),
            str(part["replies"]),
            *(_one_decimal(part[key]) for key in ("turns", "turn_words", "reply_words")),
        )
        for name, part in parts.items()
    )
    counts = (
        (name, *(str(row[part]) for part in parts), _one_decimal(row["words"]))
        for name, row in strategies.items()
    )
    lines = [
        *markdown_table(
            ("", "dialogues", "replies", "turns before", "words of a turn", "words of a reply"),
            sizes,
        ),
        *markdown_table(("strategy", *parts, "words of a reply"), counts),
    ]
    return "\n".join(lines)


def _one_decimal(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def _part(conversations: Sequence[Conversation]) -> dict[str, Any]:
    turns = [_words(message.content) for c in conversations for message in c.messages]
    return {
        "dialogues": len({c.dialogue or c.id for c in conversations}),
        "replies": len(conversations),
        "turns": _mean([len(c.messages) for c in conversations]),
        "turn_words": _mean(turns),
        "reply_words": _mean([_words(c.response) for c in conversations]),
    }


def _count(conversations: Sequence[Conversation], strategy: str) -> int:
    return sum(conversation.strategy == strategy for conversation in conversations)


def _words(text: str | None) -> int:
    return len((text or "").split())


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None
