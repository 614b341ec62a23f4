"""Write the report of an evaluation, ``report.md`` and ``results.json``: no texts and no paths.

A figure that is undefined is a dash in its table; the reason stands under "Gaps". The text
of the report says condition, and the keys of ``results.json`` say row.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sra_fast.tools.atomic import write_json, write_text
from sra_fast.tools.estimates import METHODS, interval_settings
from sra_fast.tools.markdown_table import markdown_text
from sra_fast.tools.small_samples import LEVEL

from ..classifiers import PLAIN
from .analysis import Analysis, ConditionResult
from .exchange import PLANTED
from .gaps import gaps
from .heads import HeadAnalysis
from .language_quality import LanguageQuality
from .published import PUBLISHED, published_relation
from .report_tables import (
    ablation_table,
    condition_auc_table,
    condition_table,
    group_table,
    head_table,
    published_table,
    quality_table,
    relation_table,
    turn_table,
)

REPORT, RESULTS = "report.md", "results.json"
FORMAT = "sra_fast.evaluation/1"


@dataclass(frozen=True)
class Findings:
    """The results that a report is written from.

    Attributes:
        analysis: the analysis of the records.
        definition: the definition of SRA that tables and figures show first.
        quality: the language of the replies, or None where none has a word.
        heads: how well single heads predict adherence, or None.
        ablation: the figures of conditions with and without the best heads, or None.
        settings: further entries of ``results.json`` (model, classifier, …), without paths.
        deviations: sentences on what differs from the paper, plain text.
        notes: sentences on what is missing, plain text; they are listed under "Gaps".
    """

    analysis: Analysis
    definition: str
    quality: LanguageQuality | None = None
    heads: HeadAnalysis | None = None
    ablation: Sequence[ConditionResult] | None = None
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    deviations: Sequence[str] = ()
    notes: Sequence[str] = ()


def write_report(folder: Path, findings: Findings, figures: Sequence[str]) -> None:
    """Write ``report.md`` and ``results.json`` into a folder.

    Args:
        folder: the folder, which must exist.
        findings: the results to report.
        figures: the names of the files in it that ``write_figures`` drew.

    Raises:
        OSError: a file cannot be written.
    """
    write_json(folder / RESULTS, results(findings))
    write_text(folder / REPORT, markdown(findings, figures))


def results(findings: Findings) -> dict[str, Any]:
    """Return the content of ``results.json``, with None for NaN."""
    found: dict[str, Any] = plain(findings)
    return {
        "format": FORMAT,
        **found,
        "published": {
            model: {
                "rows": plain(conditions),
                "relation": plain(published_relation(model)),
            }
            for model, conditions in PUBLISHED.items()
        },
        "gaps": _all_gaps(findings),
        "interval": interval_settings(*METHODS),
    }


def plain(value: Any) -> Any:
    """Turn dataclasses, mappings and sequences into what JSON can hold, with None for NaN."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {one.name: plain(getattr(value, one.name)) for one in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def markdown(findings: Findings, figures: Sequence[str]) -> str:
    """Return the text of ``report.md``, which shows the figures of the given file names."""
    analysis, definition = findings.analysis, findings.definition
    lines = [
        "# Strategy following and SRA",
        "",
        f"{analysis.responses:,} responses of {analysis.dialogues:,} dialogues. In brackets: "
        f"{LEVEL:.0%} intervals over dialogues (means: {METHODS['mean']}; shares: "
        f"{METHODS['share']}; differences are paired). A dash is an undefined figure or interval; "
        "the reasons stand under Gaps.",
        "",
        "## Table 1",
        "",
        f"Accuracy is the share of responses that the classifier{_named(findings)} takes for the "
        "strategy asked for. "
        f"SRA is the `{definition}` definition, log SRA the natural logarithm of its mean. "
        "Lookback is the mass on the strategy over that mass and the mass on the response so far. "
        f"Differences are from the condition {markdown_text(analysis.base)}.",
        "",
        *condition_table(analysis, definition),
        "Beside the published ones (1,000 responses per condition, SRA by the definition `table1`; "
        "other models, prompts and classifier):",
        "",
        *published_table(analysis),
        "## SRA against accuracy over conditions",
        "",
        f"Each of the {len(analysis.rows)} conditions is a point. Pearson of the means (r), of the "
        "logarithm of mean SRA (log r), and Spearman (rho). The noise of the means pulls r towards "
        "0; the intervals are of r without it, and may reach further out. They do not tell how "
        "other conditions would lie. The last column leaves out one condition at a time, and says "
        "which.",
        "",
        *relation_table(analysis),
        "## SRA against adherence within conditions",
        "",
        "AUC: how often a response that adheres has the higher score than one of the same "
        "condition and strategy that does not (ties count half); 0.5 is chance.",
        "",
        *condition_auc_table(analysis),
        "## By strategy",
        "",
        "All conditions together; AUC over pairs of the same condition and strategy; r over the "
        "conditions' means in it.",
        "",
        *group_table("strategy", analysis.strategies, definition),
    ]
    if analysis.languages:
        lines += ["## By language", "", "Read as the table by strategy.", ""]
        lines += group_table("language", analysis.languages, definition)
    lines += ["## By turn", "", *turn_table(analysis, definition)]
    if findings.quality is not None:
        lines += [
            "## Language",
            "",
            "Perplexity is the geometric mean under the base model. distinct-n: distinct n-grams "
            f"over n-grams, every condition cut to {findings.quality.distinct_words:,} words (mean "
            f"of {findings.quality.shuffles} shuffles). Repetition: mean share of a response's "
            "4-grams that it had before. Differences and ratio: against "
            f"{markdown_text(findings.quality.base)}.",
            "",
            *quality_table(findings.quality),
        ]
    if findings.heads is not None:
        lines += ["## Heads", "", *_heads(findings.heads)]
    if findings.ablation is not None:
        lines += [
            "## Without the best heads",
            "",
            "The dialogues that the heads were not chosen by, answered again without the best "
            "heads and without as many drawn by lot. Differences are from the last condition.",
            "",
            *ablation_table(findings.ablation, definition),
        ]
    lines += ["## Figures", ""]
    for name in figures:
        lines += [f"![{name}]({name})", ""]
    if findings.deviations:
        lines += ["## Deviations from the paper", "", *_bullets(findings.deviations)]
    lines += ["## Gaps", "", *_bullets(_all_gaps(findings))]
    return "\n".join(lines)


def _named(findings: Findings) -> str:
    name = findings.settings.get("classifier")
    if name is None:
        return ""
    return f" ({markdown_text(str(name))}{', which knows English alone' if name == PLAIN else ''})"


def _heads(heads: HeadAnalysis) -> list[str]:
    chance = (
        "What chance gives is unknown."
        if heads.threshold is None
        else f"{heads.beyond} of {heads.layers * heads.heads} lie beyond 0.5 ± "
        f"{heads.threshold:.3f}, which the best of all heads exceeds in 5% of "
        f"{heads.permutations} shuffles of adherence among the {heads.exchanged:,} dialogues that "
        "share their strategies and conditions with another, whole dialogues at a time."
    )
    if heads.power is not None:
        chance += (
            f" Of heads with an AUC of {PLANTED:g} planted at random, {heads.power:.0%} lie beyond."
        )
    median = "undefined" if heads.median is None else f"{heads.median:.3f}"
    text = (
        "AUC of a head's attention on the strategy for adherence, over pairs of the same "
        "condition and strategy. "
        f"Heads are chosen on {heads.dialogues[0]:,} dialogues ({heads.responses[0]:,} responses) "
        f"and measured on the other {heads.dialogues[1]:,} ({heads.responses[1]:,}). "
        f"The median head has {median}. {chance}"
    )
    return [text, "", *head_table(heads)]


def _all_gaps(findings: Findings) -> list[str]:
    return [
        *findings.notes,
        *gaps(findings.analysis, findings.quality, findings.heads, findings.ablation),
    ]


def _bullets(sentences: Sequence[str]) -> list[str]:
    return [*(f"- {markdown_text(one)}" for one in sentences or ("none",)), ""]
