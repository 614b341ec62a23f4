"""Write the report of a steering study: report.md, results.json and the figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sra_fast.tools.atomic import write_json, write_text
from sra_fast.tools.estimates import Estimate, interval_settings
from sra_fast.tools.markdown_table import markdown_table, markdown_text

from .contrasts import (
    SettingReplies,
    StudyRecord,
    difference,
    estimates,
    figures_of,
    joined,
)
from .study_figures import write_study_figures
from .study_settings import UNSTEERED

REPORT, RESULTS = "report.md", "results.json"

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


def write_study_report(
    folder: Path, records: Sequence[StudyRecord], strategies: Sequence[str], *, model: str
) -> dict[str, Any]:
    """Write ``report.md``, ``results.json`` and the figures, and return what the JSON file holds.

    Args:
        folder: the folder, which must exist.
        records: the lines of the study.
        strategies: the names of the strategies.
        model: what the report calls the model.

    Raises:
        OSError: a file cannot be written.
    """
    found = setting_results(records)
    figures = write_study_figures(folder, found)
    write_text(folder / REPORT, "\n".join(report_lines(found, strategies, model, figures)))
    results = {
        "model": model,
        "strategies": list(strategies),
        "intervals": interval_settings("mean", "share"),
        "settings": [asdict(one) for one in found],
        "files": [REPORT, RESULTS, *figures],
    }
    write_json(folder / RESULTS, results)
    return results


def report_lines(
    found: Sequence[SettingResult], strategies: Sequence[str], model: str, figures: Sequence[str]
) -> list[str]:
    """Return the lines of the report."""
    most = max((one.dialogues for one in found), default=0)
    lines = [
        "# Does attention on the strategy raise the probability of replies that follow it?",
        "",
        f"{markdown_text(model)}; up to {most} dialogues; strategies: "
        f"{markdown_text(', '.join(strategies))}.",
        "",
        "The *advantage* of a reply is its log probability (natural logarithm) under a prompt with "
        "the strategy that it is annotated with, minus the mean over prompts with the others. "
        "Each strategy's own mean over all replies is removed before, except in the columns "
        "called *raw*. *Own first* is the share of replies whose own strategy ranks first. "
        "*Shuffled* is what to expect with labels shuffled among the replies of a dialogue. "
        "Intervals are 95% intervals over dialogues.",
        "",
    ]
    for name in figures:
        lines += [f"![{name.removesuffix('.png').replace('_', ' ')}]({name})", ""]
    parts: tuple[tuple[str, str | None], ...] = (
        ("The strategy steered", "strategy"),
        ("Control: as many tokens of the situation steered", "control"),
        ("Groups of layers and of heads", "groups"),
    )
    plain = [one for one in found if one.part is None]
    for heading, part in parts:
        some = [one for one in found if one.part == part]
        if not some:
            continue
        lines += [f"## {heading}", "", "Per token:", "", *_per_token([*plain, *some])]
        lines += ["Summed over the tokens of a reply:", "", *_summed([*plain, *some])]
    return lines


def _per_token(found: Sequence[SettingResult]) -> list[str]:
    head = (
        "setting",
        "dialogues",
        "replies",
        "advantage",
        "shuffled",
        "above shuffled",
        "change by steering",
        "above control",
        "raw",
        "log p per token",
    )
    return markdown_table(
        head,
        [
            (
                one.setting,
                str(one.dialogues),
                str(one.replies),
                _cell(one.figures["per_token"]),
                _cell(one.figures["shuffled_per_token"]),
                _cell(one.figures["per_token_above_shuffled"]),
                _cell(one.change),
                _cell(one.above_control),
                _cell(one.figures["raw_per_token"]),
                _cell(one.figures["own_log_p"]),
            )
            for one in found
        ],
    )


def _summed(found: Sequence[SettingResult]) -> list[str]:
    head = (
        "setting",
        "advantage",
        "shuffled",
        "above shuffled",
        "raw",
        "own first",
        "own first, shuffled",
        "own first, raw",
    )
    names = ("advantage", "shuffled", "above_shuffled", "raw")
    rates = ("first", "shuffled_first", "raw_first")
    return markdown_table(
        head,
        [(one.setting, *(_cell(one.figures[name]) for name in (*names, *rates))) for one in found],
    )


def _cell(one: Estimate | None) -> str:
    if one is None or one.value is None:
        return "–"
    if one.low is None or one.high is None:
        return f"{one.value:.4f}"
    return f"{one.value:.4f} [{one.low:.4f}, {one.high:.4f}]"
