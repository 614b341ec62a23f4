"""Say of a beginning that sequences share which they are, in which forward pass, and where."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SharedPrefix:
    """A beginning that some sequences of a batch have in common.

    Attributes:
        members: the indices of two or more sequences, ascending.
        length: its number of tokens.
    """

    members: tuple[int, ...]
    length: int

    @property
    def saved(self) -> int:
        """The number of tokens that need not be computed."""
        return (len(self.members) - 1) * self.length


@dataclass(frozen=True)
class PackedPrefix:
    """A beginning that neighbouring members of a forward pass share, so that it is there once.

    Attributes:
        first: the number of the first of these members.
        end: the number after the last of them.
        length: its number of tokens.
    """

    first: int
    end: int
    length: int

    @property
    def saved(self) -> int:
        """The number of tokens that need not be computed."""
        return (self.end - self.first - 1) * self.length


@dataclass(frozen=True)
class PlacedPrefix:
    """A beginning that several sequences of a layout share, where it lies.

    Attributes:
        members: the ``slice`` of the laid-out sequences that share it.
        row, start: where its first token lies.
        length: its number of tokens.
    """

    members: slice
    row: int
    start: int
    length: int
