"""Read the lines of a steering study, and join those of one setting to arrays."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy
from numpy.typing import NDArray

from sra_fast.files.appended_lines import whole_lines

from .study_dialogues import StudyError

Matrix = NDArray[numpy.float64]


@dataclass(frozen=True)
class StudyRecord:
    """A line of a study: the replies of one dialogue in one setting.

    Attributes:
        dialogue: the dialogue's id.
        group: the id of the dialogue that it repeats, or its own.
        setting: the name of the setting.
        part: the part of the study that the setting belongs to; None for the unsteered model.
        span: the span that was steered.
        bias: the bias; None if there was none.
        share: the least share; None if there was none.
        knock_out: whether the span was knocked out.
        turns: the turns of the R replies.
        own: the number of each reply's own strategy, from 0.
        tokens: the number of each reply's tokens.
        log_p: ``[K][R]`` the log probability of each reply under each strategy's prompt.
    """

    dialogue: str
    group: str
    setting: str
    part: str | None
    span: str
    bias: float | None
    share: float | None
    knock_out: bool
    turns: list[int]
    own: list[int]
    tokens: list[int]
    log_p: list[list[float]]

    def __post_init__(self) -> None:
        """Refuse numbers that do not fit together.

        Raises:
            ValueError: they do not.
        """
        replies = len(self.turns)
        numbers = [*self.turns, *self.own, *self.tokens]
        counts = {len(self.own), len(self.tokens), *map(len, self.log_p)}
        if (
            replies == 0
            or counts != {replies}
            or any(type(one) is not int for one in numbers)
            or min(self.tokens) < 1
            or not all(0 <= one < len(self.log_p) for one in self.own)
            or not all(math.isfinite(one) for row in self.log_p for one in row)
        ):
            raise ValueError("the numbers of the replies do not fit together")


def read_records(lines: Path, strategies: int) -> dict[tuple[str, str], StudyRecord]:
    """Read the lines of a study, by the dialogue's id and the setting's name.

    Args:
        lines: the file.
        strategies: the number of strategies that it compares.

    Raises:
        StudyError: a line is damaged; the message names it.
    """
    if not lines.exists():
        return {}
    found: dict[tuple[str, str], StudyRecord] = {}
    for number, line in enumerate(whole_lines(lines), 1):
        try:
            one = StudyRecord(**json.loads(line))
            if len(one.log_p) != strategies:
                raise ValueError(f"log_p of {len(one.log_p)} strategies")
        except (ValueError, TypeError) as error:
            raise StudyError(
                f"{lines} line {number} is damaged; delete the line, and what it held is computed "
                "again"
            ) from error
        found[one.dialogue, one.setting] = one
    return found


@dataclass(frozen=True, eq=False)
class SettingReplies:
    """The replies of all dialogues in one setting, as arrays.

    Attributes:
        keys: the dialogue and the turn of each of the n replies.
        groups: the group of each reply; intervals treat a group as one observation.
        own: ``[n]`` the number of each reply's own strategy.
        tokens: ``[n]`` the number of its tokens.
        log_p: ``[n, K]`` its log probability under each strategy's prompt.
    """

    keys: list[tuple[str, int]]
    groups: list[str]
    own: NDArray[numpy.int64]
    tokens: NDArray[numpy.int64]
    log_p: Matrix


def joined(records: Sequence[StudyRecord]) -> SettingReplies:
    """Join the records of one setting, in their order."""
    return SettingReplies(
        [(one.dialogue, turn) for one in records for turn in one.turns],
        [one.group for one in records for _ in one.turns],
        numpy.array([own for one in records for own in one.own], dtype=numpy.int64),
        numpy.array([count for one in records for count in one.tokens], dtype=numpy.int64),
        numpy.concatenate([numpy.array(one.log_p, dtype=numpy.float64).T for one in records]),
    )


def chosen_replies(replies: SettingReplies, places: Sequence[int]) -> SettingReplies:
    """Return some of the replies of a setting, by their places."""
    at = numpy.array(places, dtype=numpy.int64)
    return SettingReplies(
        [replies.keys[place] for place in places],
        [replies.groups[place] for place in places],
        replies.own[at],
        replies.tokens[at],
        replies.log_p[at],
    )
