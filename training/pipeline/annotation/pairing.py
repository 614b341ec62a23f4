"""What is annotated: the items of two files of conversations, of which some replies differ."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sra_fast.chat.conversations import Conversation

from ..items import Item, draw, first_difference, make_item, read_matches
from .errors import AnnotationError

_MESSAGES = "messages before the reply"


def read_items(file_a: Path, file_b: Path, strategies: Mapping[str, str]) -> list[Item]:
    """Matches two files by id, in the order of the first.

    Raises:
        ConversationError: a file is malformed.
        AnnotationError: an id is in one file alone, or the two differ in more than the reply, or
            no reply differs; or a strategy is unknown.
        OSError: a file cannot be read.
    """
    matches = read_matches(file_a, file_b)
    for alone, name in ((matches.only_a, file_b.name), (matches.only_b, file_a.name)):
        if alone:
            raise AnnotationError(
                f"{alone[0].label} has no counterpart in {name} ({len(alone)} such items); give "
                "both files the same ids"
            )
    items = [_item(a, b, strategies) for a, b in matches.both]
    if all(item.a == item.b for item in items):
        raise AnnotationError(
            f"{file_a.name} and {file_b.name} hold the same replies throughout; give the replies "
            "of two systems"
        )
    return items


def choose_items(items: list[Item], count: int | None, seed: int) -> list[Item]:
    """So many of the items, at random, in their order; all if ``count`` is None.

    Raises:
        AnnotationError: there are fewer.
    """
    if count is None:
        return items
    if count > len(items):
        raise AnnotationError(f"{count} items are asked for and the files hold {len(items)}")
    return draw(items, count, seed)


def _item(a: Conversation, b: Conversation, strategies: Mapping[str, str]) -> Item:
    found = first_difference(a, b, ("strategy", "situation", "dialogue", "messages"))
    if found:
        what = _MESSAGES if found[0] == "messages" else found[0]
        raise AnnotationError(
            f"{a.label} and its counterpart ({b.where}) differ in their {what}; only the "
            "reply may differ"
        )
    return make_item(a, b, strategies, raises=AnnotationError)
