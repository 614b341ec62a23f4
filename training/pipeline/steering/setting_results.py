"""Compute the results of each setting of a steering study from the lines of its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sra_fast.tools.estimates import Estimate

from .contrasts import SettingReplies, StudyRecord, difference, estimates, figures_of, joined
from .study_settings import UNSTEERED

_OF_CONTROL = "situation, "


@dataclass(frozen=True)
class SettingResult:
    """The results of one setting.

    Attributes:
        setting: its name.
        part, span, bias, share, knock_out: what it is.
        dialogues, replies: how many there are.
        figures: the estimates by name, as :func:`~.contrasts.estimates` gives them.
        change: advantage per token minus that of the unsteered model, over the same replies.
        above_control: advantage per token minus that of the control at the same strength.
    """

    setting: str
    part: str | None
    span: str
    bias: float | None
    share: float | None
    knock_out: bool
    dialogues: int
    replies: int
    figures: dict[str, Estimate]
    change: Estimate | None
    above_control: Estimate | None


def setting_results(records: Sequence[StudyRecord]) -> list[SettingResult]:
    """Compute the results of every setting that has records, in the order of their first ones."""
    by_setting: dict[str, list[StudyRecord]] = {}
    for one in records:
        by_setting.setdefault(one.setting, []).append(one)
    replies = {name: joined(some) for name, some in by_setting.items()}
    return [_result(name, some, replies) for name, some in by_setting.items()]


def _result(
    name: str, records: Sequence[StudyRecord], replies: Mapping[str, SettingReplies]
) -> SettingResult:
    first = records[0]
    base, control = replies.get(UNSTEERED), replies.get(_OF_CONTROL + name)
    return SettingResult(
        setting=name,
        part=first.part,
        span=first.span,
        bias=first.bias,
        share=first.share,
        knock_out=first.knock_out,
        dialogues=len(records),
        replies=len(replies[name].keys),
        figures=estimates(figures_of(replies[name])),
        change=None
        if base is None or name == UNSTEERED
        else difference(replies[name], base, "per_token"),
        above_control=None if control is None else difference(replies[name], control, "per_token"),
    )
