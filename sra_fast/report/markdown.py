"""Write estimates as text: numbers for tables, and the Markdown page of a comparison."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sra_fast.report.comparison import Comparison, MeanSRA, interval_note, undefined_note
from sra_fast.tools.estimates import METHODS
from sra_fast.tools.markdown_table import markdown_table, markdown_text
from sra_fast.tools.small_samples import LEVEL

MEANING: dict[str, str] = {
    "paper": "mean attention per strategy token",
    "mass": "share of attention on the strategy",
    "reference": "mean attention per strategy token, without the null attention",
    "table1": "as reference, at the first reply token only",
}
"""The meaning of each built-in definition of SRA, in one phrase."""
OWN_MEANING = "a definition of the user's own"
"""The phrase for every other definition."""

COLUMNS = ("responses", "dialogues", "SRA", f"{LEVEL:.0%} interval", "log SRA")


def columns(estimate: MeanSRA) -> tuple[str, ...]:
    """Return the cells of an estimate under the headings :data:`COLUMNS`."""
    interval = "–"
    if estimate.mean.low is not None and estimate.mean.high is not None:
        interval = f"{number(estimate.mean.low)} … {number(estimate.mean.high)}"
    log = "–" if estimate.log_sra is None else f"{estimate.log_sra:.3f}"
    return (
        f"{estimate.responses:,}",
        f"{estimate.dialogues:,}",
        number(estimate.sra),
        interval,
        log,
    )


def number(value: float | None) -> str:
    """Write a number with three significant digits, such as 0.00117, and None as a dash."""
    return "–" if value is None else f"{value:#.3g}"


def markdown_report(comparison: Comparison, notes: Sequence[str], plots: Sequence[str]) -> str:
    """Write a comparison as a Markdown page.

    Args:
        comparison: the estimates.
        notes: sentences that the page begins with, plain text.
        plots: file names of the plots, relative to the page.
    """
    name = comparison.definition
    meaning = MEANING.get(name, OWN_MEANING)
    lines = ["# SRA by template, turn and strategy", ""]
    for note in notes:
        lines += [markdown_text(note), ""]
    lines += [
        f"SRA is the `{name}` definition: {meaning}. Means over responses; log is the natural "
        f"logarithm of the mean; intervals are {LEVEL:.0%} intervals: {METHODS['mean']}.",
        "",
    ]
    if missing := interval_note(comparison.estimates):
        lines += [missing, ""]
    if undefined := undefined_note(name, comparison.by_template.values()):
        lines += [markdown_text(undefined), ""]
    lines += [
        "## By template",
        "",
        *_table(("template",), (((name,), one) for name, one in comparison.by_template.items())),
        "## By strategy",
        "",
        *_table(("template", "strategy"), comparison.by_strategy.items()),
        "## By turn",
        "",
        *_table(
            ("template", "turn"),
            [((t, str(turn)), e) for (t, turn), e in comparison.by_turn.items()],
        ),
    ]
    for plot in plots:
        lines += [f"![{plot}]({plot})", ""]
    return "\n".join(lines)


def _table(keys: tuple[str, ...], entries: Iterable[tuple[tuple[str, ...], MeanSRA]]) -> list[str]:
    rows = [(*names, *columns(estimate)) for names, estimate in entries]
    return markdown_table((*keys, *COLUMNS), rows, len(keys))
