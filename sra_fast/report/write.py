"""Write the report of a comparison into one folder: JSON, Markdown and figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sra_fast.report.comparison import Comparison
from sra_fast.report.markdown import markdown_report
from sra_fast.report.plots import BY_STRATEGY, BY_TEMPLATE, BY_TURN, write_plots
from sra_fast.tools.atomic import write_json, write_text

REPORT_JSON = "compare.json"
REPORT_MARKDOWN = "compare.md"
REPORT_FILES = (REPORT_JSON, REPORT_MARKDOWN, BY_TEMPLATE, BY_TURN, BY_STRATEGY)


def write_report(comparison: Comparison, folder: Path, notes: Sequence[str] = ()) -> None:
    """Write the files :data:`REPORT_FILES` into ``folder``, each whole or not at all.

    Args:
        comparison: the estimates.
        folder: where the files go; it exists already.
        notes: sentences that the Markdown page begins with, plain text.
    """
    plots = write_plots(comparison, folder)
    write_text(folder / REPORT_MARKDOWN, markdown_report(comparison, notes, plots))
    write_json(folder / REPORT_JSON, comparison.to_json())
