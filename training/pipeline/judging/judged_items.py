"""What is judged: two systems' replies to the same messages under the same strategy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from sra_fast.chat.conversations import Conversation

from ..items import Item, draw, first_difference, make_item, read_matches

_NAMED = 5  # messages name so many items and count the others


class JudgingError(ValueError):
    """Nothing can be judged so; the message names the item and the way out."""


def read_items(file_a: Path, file_b: Path, strategies: Mapping[str, str]) -> list[Item]:
    """Pairs two files of conversations by id, in the first one's order.

    Raises:
        ConversationError: a file holds no conversations.
        JudgingError: an id is in one file alone, or two conversations of one id differ in more
            than the reply, or a strategy is unknown.
        OSError: a file cannot be read.
    """
    matches = read_matches(file_a, file_b)
    _refuse_alone(matches.only_a, file_a, file_b)
    _refuse_alone(matches.only_b, file_b, file_a)
    return [_item(a, b, strategies) for a, b in matches.both]


def sample(items: Sequence[Item], count: int, seed: int) -> list[Item]:
    """So many of the items, drawn by ``seed``, in their order.

    Raises:
        JudgingError: there are fewer.
    """
    if count > len(items):
        raise JudgingError(f"the files hold {len(items)} items, fewer than the {count} asked for")
    return draw(items, count, seed)


def check_replies_differ(items: Sequence[Item], file_a: Path, file_b: Path) -> None:
    """Whether there is something to prefer.

    Raises:
        JudgingError: A and B have the same reply to every item.
    """
    if all(item.a == item.b for item in items):
        raise JudgingError(
            f"{file_a} and {file_b} hold the same reply to all of the {len(items)} items to judge; "
            "give the replies of two systems"
        )


def _refuse_alone(alone: Sequence[Conversation], file: Path, other: Path) -> None:
    if alone:
        names = ", ".join(repr(one.id) for one in alone[:_NAMED])
        more = f" and {len(alone) - _NAMED} more" if len(alone) > _NAMED else ""
        raise JudgingError(
            f"{file} has conversations that {other} lacks: {names}{more}; both files must hold "
            "replies to the same conversations, matched by 'id'"
        )


def _item(a: Conversation, b: Conversation, strategies: Mapping[str, str]) -> Item:
    found = first_difference(a, b, ("strategy", "situation", "dialogue", "messages"))
    if found:
        field, of_a, of_b = found
        detail = "" if field == "messages" else f" ({of_a!r} and {of_b!r})"
        raise JudgingError(
            f"{a.label} and {b.label} differ in {field!r}{detail}; they must be the same but "
            "for the last reply"
        )
    return make_item(a, b, strategies, raises=JudgingError)
