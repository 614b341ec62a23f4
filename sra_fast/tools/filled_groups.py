"""Cut a sequence into groups that are filled one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

_Item = TypeVar("_Item")


def filled_groups(
    items: Iterable[_Item], size: Callable[[_Item], int], most: int
) -> list[list[_Item]]:
    """Cut items, in order, into groups of at most ``most`` together, or of one item that is larger.

    Args:
        items: the items.
        size: returns the size of an item.
        most: the most that the sizes in a group may add up to.
    """
    groups: list[list[_Item]] = []
    room = 0
    for item in items:
        length = size(item)
        if not groups or length > room:
            groups.append([])
            room = most
        groups[-1].append(item)
        room -= length
    return groups
