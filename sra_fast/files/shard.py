"""Name one of N shards of a run, and deal out numbered things to them.

Nothing here imports torch, so that a command line can check a shard at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from sra_fast.tools.argument_error import ArgumentError

MOST = 9999
"""The most shards of a run."""

Dealt = TypeVar("Dealt")

_WRITTEN = re.compile(r"([0-9]{1,9})/([0-9]{1,9})")
_FOLDER = re.compile(r"shard-([1-9][0-9]*)-of-([1-9][0-9]*)")


class ShardError(ArgumentError):
    """Raised when there is no such shard; the message says why, and which there are."""


@dataclass(frozen=True)
class Shard:
    """One of the shards that a run is dealt out to, such as the third of eight.

    Attributes:
        number: which one it is, from 1.
        of: how many there are.

    Raises:
        ShardError: there is no such shard.
    """

    number: int
    of: int

    def __post_init__(self) -> None:
        if not 1 <= self.of <= MOST:
            raise ShardError(
                f"{self}: a run is dealt out to 1 to {MOST} shards, not to {self.of}", "shard"
            )
        if not 1 <= self.number <= self.of:
            raise ShardError(
                f"{self}: there is no shard {self.number}; they are 1/{self.of} to "
                f"{self.of}/{self.of}",
                "shard",
            )

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Return the shard that a text such as "3/8" names.

        Raises:
            ShardError: the text is of another form, or there is no such shard.
        """
        found = _WRITTEN.fullmatch(text)
        if found is None:
            raise ShardError(
                f"{text!r} names no shard; write which one and of how many, such as 3/8", "shard"
            )
        return cls(*map(int, found.groups()))

    @property
    def folder(self) -> str:
        """The name of its folder in that of the run."""
        return f"shard-{self.number}-of-{self.of}"

    def all_of_run(self) -> list[Shard]:
        """Return all shards of the run that this one is of, itself among them, by their numbers."""
        return [Shard(number, self.of) for number in range(1, self.of + 1)]

    def dealt(self, numbered: Mapping[int, Dealt]) -> dict[int, Dealt]:
        """Return those of the numbered things that are this shard's: every N-th.

        Each number is dealt to one shard, and neighbours to different ones, so that shards of a
        file whose conversations grow longer have about the same work.
        """
        return {
            number: each for number, each in numbered.items() if number % self.of == self.number - 1
        }


def shards_in(folder: Path) -> list[Shard]:
    """Return the shards that have a folder in that of a run, by N and then by number."""
    names = [one.name for one in folder.iterdir() if one.is_dir()] if folder.is_dir() else []
    numbers = [found.groups() for found in map(_FOLDER.fullmatch, names) if found is not None]
    shards = [(int(of), int(number)) for number, of in numbers if len(of) <= len(str(MOST))]
    return [Shard(number, of) for of, number in sorted(shards) if number <= of <= MOST]


def numbers_text(numbers: Iterable[int]) -> str:
    """Return whole numbers as a short text, such as "1, 4–7 and 9"."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    texts: list[str] = []
    for run in runs:
        texts += [f"{run[0]}–{run[-1]}"] if len(run) > 2 else map(str, run)
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)
