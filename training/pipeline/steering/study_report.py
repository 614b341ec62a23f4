"""Write the report of a steering study: report.md, results.json and the figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sra_fast.tools.atomic import write_json, write_text
from sra_fast.tools.estimates import Estimate, interval_settings
from sra_fast.tools.markdown_table import markdown_table, markdown_text

from .setting_results import SettingResult, setting_results
from .study_figures import write_study_figures
from .study_records import StudyRecord

REPORT, RESULTS = "report.md", "results.json"

_MEANINGS = (
    (
        "advantage",
        "log p (natural logarithm) of a reply under a prompt with its own strategy, which it is "
        "annotated with, minus the mean over prompts with the others. Some prompts make every "
        "reply more probable, so each strategy's mean over all replies is removed before; *raw* "
        "leaves it in.",
    ),
    (
        "own first",
        "the share of replies whose own strategy gives them the highest log p per token.",
    ),
    (
        "shuffled",
        "what to expect if labels were shuffled among the replies of a dialogue; *above shuffled* "
        "is the difference.",
    ),
    (
        "change by steering",
        "the figure minus that of the unsteered model, over the replies that both have.",
    ),
    (
        "above control",
        "the advantage minus that with as many tokens of the situation steered as strongly, over "
        "the replies that both have.",
    ),
    (
        "log p per token",
        "of replies under the prompt with their own strategy; it falls where steering harms the "
        "model's language.",
    ),
)

_PER_TOKEN = {
    "advantage": "per_token",
    "shuffled": "shuffled_per_token",
    "above shuffled": "per_token_above_shuffled",
    "change by steering": "change",
    "change of above shuffled": "change_above_shuffled",
    "above control": "above_control",
    "raw": "raw_per_token",
    "log p per token": "own_log_p",
}
_OF_REPLY = {
    "advantage": "advantage",
    "shuffled": "shuffled",
    "above shuffled": "above_shuffled",
    "raw": "raw",
}
_RANK = {
    "own first": "first",
    "shuffled": "shuffled_first",
    "above shuffled": "first_above_shuffled",
    "change by steering": "first_change",
    "raw": "raw_first",
}
_TABLES: tuple[tuple[str, Mapping[str, str]], ...] = (
    ("Advantage per token", _PER_TOKEN),
    ("Advantage of the whole reply, summed over its tokens", _OF_REPLY),
    ("How often the own strategy ranks first", _RANK),
)
"""The tables of each part: a title, and the name of the figure under each heading."""


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
        "Each dialogue is read under one prompt per strategy, while the model's attention on the "
        "strategy's name is changed.",
        "",
        *(f"- *{name}*: {text}" for name, text in _MEANINGS),
        "",
        f"With {len(strategies)} strategies, one that is picked blindly is the own one with "
        f"probability {1 / len(strategies):.3f}. Numbers in brackets are 95% intervals over "
        "dialogues.",
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
        lines += [f"## {heading}", ""]
        for title, columns in _TABLES:
            lines += [f"{title}:", "", *_table([*plain, *some], columns)]
    return lines


def _table(found: Sequence[SettingResult], columns: Mapping[str, str]) -> list[str]:
    """Return a table with a line for each setting, and each figure under its heading."""
    return markdown_table(
        ("setting", "dialogues", "replies", *columns),
        [
            (
                one.setting,
                str(one.dialogues),
                str(one.replies),
                *(_cell(one.figure(name)) for name in columns.values()),
            )
            for one in found
        ],
    )


def _cell(one: Estimate | None) -> str:
    if one is None or one.value is None:
        return "–"
    if one.low is None or one.high is None:
        return _number(one.value)
    return f"{_number(one.value)} [{_number(one.low)}, {_number(one.high)}]"


def _number(value: float) -> str:
    return f"{round(value, 4) + 0.0:.4f}"  # + 0.0: without the sign of a zero
