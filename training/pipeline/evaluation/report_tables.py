"""Write the tables of an evaluation's report as lines of Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from sra_fast.report.markdown import number
from sra_fast.tools.estimates import Correlation, Estimate
from sra_fast.tools.markdown_table import markdown_table, markdown_text

from .analysis import (
    LOOKBACK,
    Analysis,
    ConditionResult,
    GroupResult,
)
from .heads import HeadAnalysis
from .language_quality import LanguageQuality
from .published import PUBLISHED, published_relation

DASH = "–"
Format = Callable[[float], str]


def rate(value: float) -> str:
    """Write a number with three decimals."""
    return f"{value:.3f}"


def signed(shown: Format) -> Format:
    """Return a format that also writes the sign, as differences need it."""
    return lambda value: f"{'−' if value < 0 else '+'}{shown(abs(value))}"


def figure(one: Estimate, shown: Format = rate) -> str:
    """Write a value and its interval: ``0.594 [0.550, 0.640]``, or ``0.594 [–]`` without one."""
    return _cell(one.value, one.low, one.high, shown)


def coefficient(one: Correlation) -> str:
    """Write a coefficient and its interval, as :func:`figure` does."""
    return _cell(one.r, one.low, one.high, rate)


def _cell(value: float | None, low: float | None, high: float | None, shown: Format) -> str:
    if value is None:
        return DASH
    between = DASH if low is None or high is None else f"{shown(low)}, {shown(high)}"
    return f"{shown(value)} [{between}]"


def condition_table(analysis: Analysis, definition: str) -> list[str]:
    """Write the figures of each condition as in Table 1, then means by the other definitions."""
    lines = markdown_table(
        ("condition", "n", "accuracy", "SRA", "log SRA", "lookback", "Δ accuracy", "Δ SRA"),
        (
            (
                condition.row,
                f"{condition.n:,}",
                figure(condition.accuracy),
                figure(condition.scores[definition], number),
                figure(condition.log_scores[definition]),
                figure(condition.scores[LOOKBACK]),
                figure(condition.accuracy_difference, signed(rate)),
                figure(condition.score_differences[definition], signed(number)),
            )
            for condition in analysis.rows
        ),
    )
    others = [name for name in analysis.scores if name not in (definition, LOOKBACK)]
    if not others:
        return lines
    head = ["condition"]
    for name in others:
        head += [f"SRA ({name})", f"log SRA ({name})"]
    cells = []
    for condition in analysis.rows:
        line = [condition.row]
        for name in others:
            line += [figure(condition.scores[name], number), figure(condition.log_scores[name])]
        cells.append(line)
    return [
        *lines,
        "The same responses by the other definitions:",
        "",
        *markdown_table(head, cells),
    ]


def published_table(analysis: Analysis) -> list[str]:
    """Write accuracy and mean SRA as measured here (by ``table1``) beside the published ones."""
    ours = {one.row: one for one in analysis.rows}
    theirs = {model: {one.row: one for one in table} for model, table in PUBLISHED.items()}
    head = ["condition", "accuracy", "SRA (table1)"]
    for model in PUBLISHED:
        head += [f"{model}: accuracy", "SRA", "log SRA"]
    rows = []
    for name in dict.fromkeys([*ours, *(other for one in theirs.values() for other in one)]):
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
    """Write the correlations of each score with accuracy, measured and published."""
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
    return markdown_table(
        ("score", "conditions", "r", "log r", "rho", "r without one condition"), rows
    )


def _without(found: Mapping[str, float | None]) -> str:
    """Write the lowest and the highest coefficient, each with the condition that it leaves out."""
    known = sorted((r, name) for name, r in found.items() if r is not None)
    if not known:
        return DASH
    ends = [f"{rate(r)} ({markdown_text(name)})" for r, name in (known[0], known[-1])]
    return " to ".join(dict.fromkeys(ends))


def condition_auc_table(analysis: Analysis) -> list[str]:
    """Write the AUC of every score within every condition."""
    return markdown_table(
        ("condition", *analysis.scores),
        (
            (condition.row, *(figure(condition.auc[name]) for name in analysis.scores))
            for condition in analysis.rows
        ),
    )


def group_table(kind: str, groups: Sequence[GroupResult], definition: str) -> list[str]:
    """Write the figures of each strategy, or of each language; ``kind`` is the first heading."""
    return markdown_table(
        (kind, "n", "accuracy", "SRA", "AUC", "r over conditions"),
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
    """Write the figures of each condition at each turn."""
    return markdown_table(
        ("condition", "turn", "n", "accuracy", "SRA"),
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


def quality_table(quality: LanguageQuality) -> list[str]:
    """Write the language of every condition, then how it differs from the base condition."""
    orders = sorted({n for condition in quality.rows for n in condition.distinct})
    lines = markdown_table(
        (
            "condition",
            "n",
            "words",
            "ended",
            *(f"distinct-{n}" for n in orders),
            "repetition",
            "perplexity",
        ),
        (
            (
                condition.row,
                f"{condition.n:,}",
                figure(condition.words, lambda value: f"{value:.1f}"),
                figure(condition.finished),
                *(DASH if (one := condition.distinct[n]) is None else rate(one) for n in orders),
                figure(condition.repetition),
                figure(condition.perplexity, number),
            )
            for condition in quality.rows
        ),
    )
    against = markdown_table(
        ("condition", "Δ words", "Δ ended", "Δ repetition", "perplexity ratio"),
        (
            (
                condition.row,
                figure(condition.words_difference, signed(lambda value: f"{value:.1f}")),
                figure(condition.finished_difference, signed(rate)),
                figure(condition.repetition_difference, signed(rate)),
                figure(condition.perplexity_ratio),
            )
            for condition in quality.rows
            if condition.row != quality.base
        ),
    )
    return [*lines, *against] if len(quality.rows) > 1 else lines


def head_table(heads: HeadAnalysis) -> list[str]:
    """Write the AUC of the chosen heads on both halves of the dialogues."""
    return markdown_table(
        ("layer", "head", "AUC, choosing half", "AUC, other half"),
        (
            (str(one.layer), str(one.head), rate(one.chosen), figure(one.measured))
            for one in heads.best
        ),
        names=0,
    )


def ablation_table(conditions: Sequence[ConditionResult], definition: str) -> list[str]:
    """Write the figures of the conditions with and without the best heads."""
    return markdown_table(
        ("condition", "n", "accuracy", "SRA", "Δ accuracy", "Δ SRA"),
        (
            (
                condition.row,
                f"{condition.n:,}",
                figure(condition.accuracy),
                figure(condition.scores[definition], number),
                figure(condition.accuracy_difference, signed(rate)),
                figure(condition.score_differences[definition], signed(number)),
            )
            for condition in conditions
        ),
    )
