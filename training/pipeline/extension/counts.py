"""The extended data set in numbers: by part of the split, and by strategy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from sra_fast.chat.conversations import Conversation
from sra_fast.report.markdown import markdown_text


def describe(
    parts: Mapping[str, Sequence[Conversation]], strategies: Sequence[str]
) -> dict[str, Any]:
    """Sizes and mean lengths.

    Args:
        parts: the conversations of each part of the split.
        strategies: in the order of the table.

    Returns:
        ``parts``: per part, and for "all", the numbers of dialogues and replies, the mean number
        of turns before a reply, and the mean numbers of words of a turn and of a reply (None for
        an empty part). ``strategies``: per strategy the number of replies of each part, and the
        mean number of words of all its replies.
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
    """Both tables."""
    parts, strategies = described["parts"], described["strategies"]
    lines = [
        "| | dialogues | replies | turns before | words of a turn | words of a reply |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, part in parts.items():
        figures = (part[key] for key in ("turns", "turn_words", "reply_words"))
        cells = " | ".join("–" if value is None else f"{value:.1f}" for value in figures)
        lines.append(f"| {name} | {part['dialogues']} | {part['replies']} | {cells} |")
    names = list(parts)
    lines += [
        "",
        f"| strategy | {' | '.join(names)} | words of a reply |",
        f"|---|{'---:|' * len(names)}---:|",
    ]
    for name, row in strategies.items():
        words = "–" if row["words"] is None else f"{row['words']:.1f}"
        counts = " | ".join(str(row[part]) for part in names)
        lines.append(f"| {markdown_text(name)} | {counts} | {words} |")
    return "\n".join(lines) + "\n"


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
