"""Estimates as tables for the terminal; names are data, so they are never read as markup."""

from __future__ import annotations

from collections.abc import Iterable

from rich.table import Table
from rich.text import Text

from sra_fast.report.comparison import Comparison, MeanSRA
from sra_fast.report.markdown import COLUMNS, columns
from sra_fast.tools.printable import printable

_MOST_TURNS = 12  # shown of each template; the files have all


def estimates_table(
    title: str, keys: Iterable[str], entries: Iterable[tuple[tuple[str, ...], MeanSRA]]
) -> Table:
    """Return a table whose rows hold the key of an entry, then its numbers."""
    table = Table(title=Text(title, style="bold"), title_justify="left")
    for key in keys:
        table.add_column(key)
    for column in COLUMNS:
        table.add_column(column, justify="right")
    for names, estimate in entries:
        table.add_row(*(Text(printable(name)) for name in names), *columns(estimate))
    return table


def comparison_tables(comparison: Comparison) -> list[Table]:
    """Return the tables by template, by strategy, and by turn, of which it shows at most twelve."""
    by_turn: dict[str, list[tuple[tuple[str, ...], MeanSRA]]] = {}
    for (template, turn), estimate in comparison.by_turn.items():
        by_turn.setdefault(template, []).append(((template, str(turn)), estimate))
    return [
        estimates_table(
            "SRA by template",
            ("template",),
            (((name,), estimate) for name, estimate in comparison.by_template.items()),
        ),
        estimates_table(
            "SRA by strategy", ("template", "strategy"), comparison.by_strategy.items()
        ),
        estimates_table(
            "SRA by turn",
            ("template", "turn"),
            (entry for entries in by_turn.values() for entry in _spread(entries)),
        ),
    ]


def _spread(
    entries: list[tuple[tuple[str, ...], MeanSRA]],
) -> list[tuple[tuple[str, ...], MeanSRA]]:
    """Return at most twelve entries, spread evenly, the first and the last among them."""
    count = min(len(entries), _MOST_TURNS)
    last = len(entries) - 1
    return [entries[round(index * last / max(1, count - 1))] for index in range(count)]
