"""Write the report of a steering study: report.md, results.json and the figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sra_fast.tools.atomic import write_json, write_text
from sra_fast.tools.estimates import Estimate, interval_settings
from sra_fast.tools.markdown_table import markdown_table, markdown_text

from .contrasts import StudyRecord
from .setting_results import SettingResult, setting_results
from .study_figures import write_study_figures

REPORT, RESULTS = "report.md", "results.json"


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
        return _number(one.value)
    return f"{_number(one.value)} [{_number(one.low)}, {_number(one.high)}]"


def _number(value: float) -> str:
    return f"{round(value, 4) + 0.0:.4f}"  # + 0.0: without the sign of a zero
