"""The tables of an evaluation's report, as lines of Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from sra_fast.report.markdown import number
from sra_fast.tools.bootstrap import Correlation, Estimate
from sra_fast.tools.markdown_table import markdown_table, markdown_text

from .analysis import (
    LOOKBACK,
    Analysis,
    GroupResult,
    RowResult,
)
from .heads import HeadAnalysis
from .language_quality import Quality
from .published import PUBLISHED, published_relation

DASH = "–"
Format = Callable[[float], str]


def rate(value: float) -> str:
    """Three decimals."""
    return f"{value:.3f}"


def signed(shown: Format) -> Format:
    """With its sign, for differences."""
    return lambda value: f"{'−' if value < 0 else '+'}{shown(abs(value))}"


def figure(one: Estimate, shown: Format = rate) -> str:
    """A value and its interval, such as ``0.594 [0.550, 0.640]``."""
    return _cell(one.value, one.low, one.high, shown)


def coefficient(one: Correlation) -> str:
    """Return a coefficient and its interval, such as ``0.914 [0.800, 0.950]``."""
    return _cell(one.r, one.low, one.high, rate)


def _cell(value: float | None, low: float | None, high: float | None, shown: Format) -> str:
    if value is None:
        return DASH
    return (
        shown(value)
        if low is None or high is None
        else (f"{shown(value)} [{shown(low)}, {shown(high)}]")
    )


def row_table(analysis: Analysis, definition: str) -> list[str]:
    """Table 1, then the means by every other definition."""
    lines = markdown_table(
        ("row", "n", "accuracy", "SRA", "log SRA", "lookback", "Δ accuracy", "Δ SRA"),
        (
            (
                row.row,
                f"{row.n:,}",
                figure(row.accuracy),
                figure(row.scores[definition], number),
                figure(row.log_scores[definition]),
                figure(row.scores[LOOKBACK]),
                figure(row.accuracy_difference, signed(rate)),
                figure(row.score_differences[definition], signed(number)),
            )
            for row in analysis.rows
        ),
    )
    others = [name for name in analysis.scores if name not in (definition, LOOKBACK)]
    if not others:
        return lines
    head = ["row"]
    for name in others:
        head += [f"SRA ({name})", f"log SRA ({name})"]
    cells = []
    for row in analysis.rows:
        line = [row.row]
        for name in others:
            line += [figure(row.scores[name], number), figure(row.log_scores[name])]
        cells.append(line)
    return [
        *lines,
        "The same responses by the other definitions:",
        "",
        *markdown_table(head, cells),
    ]


def published_table(analysis: Analysis) -> list[str]:
    """Accuracy and mean SRA as measured here by ``table1``, and as published."""
    ours = {row.row: row for row in analysis.rows}
    theirs = {model: {row.row: row for row in rows} for model, rows in PUBLISHED.items()}
    head = ["row", "accuracy", "SRA (table1)"]
    for model in PUBLISHED:
        head += [f"{model}: accuracy", "SRA", "log SRA"]
    rows = []
    for name in dict.fromkeys([*ours, *(row for one in theirs.values() for row in one)]):
        line = [name, DASH, DASH]
        if name in ours:
            line[1] = figure(ours[name].accuracy)
            if "table1" in ours[name].scores:
                line[2] = figure(ours[name].scores["table1"], number)
        for one in theirs.values():
            known = one.get(name)
            line += (
                [DASH] * 3
                if known is None
                else [rate(known.accuracy), f"{known.sra:.5f}", f"{known.log_sra:.3f}"]
            )
        rows.append(line)
    return markdown_table(head, rows)


def relation_table(analysis: Analysis) -> list[str]:
    """Measured by every score, and computed from the published tables."""
    rows = [
        (
            f"{name}" if name == LOOKBACK else f"SRA ({name})",
            str(one.pearson.n),
            coefficient(one.pearson),
            coefficient(one.pearson_log),
            coefficient(one.spearman),
            _without(one.without),
        )
        for name, one in analysis.over_rows.items()
    ]
    for model in PUBLISHED:
        known = published_relation(model)
        rows.append(
            (
                f"published, {model}: SRA (table1)",
                str(known.pearson.n),
                coefficient(known.pearson),
                coefficient(known.pearson_log),
                coefficient(known.spearman),
                _without(known.without),
            )
        )
    return markdown_table(("score", "rows", "r", "log r", "rho", "r without one row"), rows)


def _without(found: Mapping[str, float | None]) -> str:
    """The lowest and the highest, each with the row that it does without."""
    known = sorted((r, name) for name, r in found.items() if r is not None)
    if not known:
        return DASH
    ends = [f"{rate(r)} ({markdown_text(name)})" for r, name in (known[0], known[-1])]
    return " to ".join(dict.fromkeys(ends))


def row_auc_table(analysis: Analysis) -> list[str]:
    """AUC of every score in every row."""
    return markdown_table(
        ("row", *analysis.scores),
        ((row.row, *(figure(row.auc[name]) for name in analysis.scores)) for row in analysis.rows),
    )


def group_table(kind: str, groups: Sequence[GroupResult], definition: str) -> list[str]:
    """By strategy or language."""
    return markdown_table(
        (kind, "n", "accuracy", "SRA", "AUC", "r over rows"),
        (
            (
                one.name,
                f"{one.accuracy.n:,}",
                figure(one.accuracy),
                figure(one.scores[definition], number),
                figure(one.auc[definition]),
                coefficient(one.over_rows[definition]),
            )
            for one in groups
        ),
    )


def turn_table(analysis: Analysis, definition: str) -> list[str]:
    """By row and turn."""
    return markdown_table(
        ("row", "turn", "n", "accuracy", "SRA"),
        (
            (
                one.row,
                str(one.turn),
                f"{one.accuracy.n:,}",
                figure(one.accuracy),
                figure(one.scores[definition], number),
            )
            for one in analysis.turns
        ),
    )


def quality_table(quality: Quality) -> list[str]:
    """Language of every row, then against the base row."""
    orders = sorted({n for row in quality.rows for n in row.distinct})
    lines = markdown_table(
        (
            "row",
            "n",
            "words",
            "ended",
            *(f"distinct-{n}" for n in orders),
            "repetition",
            "perplexity",
        ),
        (
            (
                row.row,
                f"{row.n:,}",
                figure(row.words, lambda value: f"{value:.1f}"),
                figure(row.finished),
                *(DASH if (one := row.distinct[n]) is None else rate(one) for n in orders),
                figure(row.repetition),
                figure(row.perplexity, number),
            )
            for row in quality.rows
        ),
    )
    against = markdown_table(
        ("row", "Δ words", "Δ ended", "Δ repetition", "perplexity ratio"),
        (
            (
                row.row,
                figure(row.words_difference, signed(lambda value: f"{value:.1f}")),
                figure(row.finished_difference, signed(rate)),
                figure(row.repetition_difference, signed(rate)),
                figure(row.perplexity_ratio),
            )
            for row in quality.rows
            if row.row != quality.base
        ),
    )
    return [*lines, *against] if len(quality.rows) > 1 else lines


def head_table(heads: HeadAnalysis) -> list[str]:
    """The chosen heads."""
    return markdown_table(
        ("layer", "head", "AUC, choosing half", "AUC, other half"),
        (
            (str(one.layer), str(one.head), rate(one.chosen), figure(one.measured))
            for one in heads.best
        ),
        names=0,
    )


def ablation_table(rows: Sequence[RowResult], definition: str) -> list[str]:
    """Rows with and without heads."""
    return markdown_table(
        ("row", "n", "accuracy", "SRA", "Δ accuracy", "Δ SRA"),
        (
            (
                row.row,
                f"{row.n:,}",
                figure(row.accuracy),
                figure(row.scores[definition], number),
                figure(row.accuracy_difference, signed(rate)),
                figure(row.score_differences[definition], signed(number)),
            )
            for row in rows
        ),
    )
