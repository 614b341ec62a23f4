"""Compute the results of each setting of a steering study from the lines of its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sra_fast.tools.estimates import Estimate

from .reply_advantages import difference, estimates, figures_of
from .study_records import SettingReplies, StudyRecord, joined
from .study_settings import OF_CONTROL, UNSTEERED


@dataclass(frozen=True)
class SettingResult:
    """The results of one setting.

    Attributes:
        setting: its name.
        part: the part of the study that it belongs to; None for the unsteered model.
        span: the span that is steered.
        bias, share, knock_out: its strength, as :class:`~.study_settings.StudySetting` has it.
        dialogues, replies: how many there are.
        figures: the estimates by name, as :func:`~.reply_advantages.estimates` gives them.
        change: advantage per token minus that of the unsteered model, over the same replies.
        change_above_shuffled: how far the advantage per token is above its baseline, minus that of
            the unsteered model.
        first_change: share of replies whose own strategy ranks first, minus that of the unsteered
            model.
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
    change_above_shuffled: Estimate | None
    first_change: Estimate | None
    above_control: Estimate | None

    def figure(self, name: str) -> Estimate | None:
        """Return one of the figures, or of the comparisons with other settings, by its name."""
        if name in self.figures:
            return self.figures[name]
        found: Estimate | None = getattr(self, name)
        return found


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
    base = None if name == UNSTEERED else replies.get(UNSTEERED)
    control = replies.get(OF_CONTROL + name)

    def minus(other: SettingReplies | None, figure: str) -> Estimate | None:
        return None if other is None else difference(replies[name], other, figure)

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
        change=minus(base, "per_token"),
        change_above_shuffled=minus(base, "per_token_above_shuffled"),
        first_change=minus(base, "first"),
        above_control=minus(control, "per_token"),
    )
