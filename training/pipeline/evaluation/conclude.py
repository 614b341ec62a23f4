"""From finished rows to the report: analyses, figures, and the answers without the best heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy

from sra_fast.names import Definition

from .ablation import AblationError
from .evaluate import TUNED, Evaluated, Evaluation, OnProgress
from .evaluation_report import Findings, results, write_report
from .figures import write_figures
from .heads import BEST, HeadAnalysis, analyse_heads, halves
from .language_quality import analyse_quality, words
from .records import Record
from .relation import analyse
from .rows import Row, summary
from .without_heads import answer_without_heads

DEFINITION: Definition = "paper"


def conclude(
    evaluation: Evaluation,
    evaluated: Evaluated,
    *,
    ablate: int = 0,
    deviations: Sequence[str] = (),
    on_progress: OnProgress = lambda row, done, total: None,
) -> dict[str, Any]:
    """Analyses, draws and writes the report. Call it inside :func:`~.run.opened`.

    Args:
        ablate: heads to take away, and as many drawn by lot for comparison; 0 leaves that out.
        deviations: sentences on what differs from the paper.

    Returns:
        What ``results.json`` holds.
    """
    analysis = analyse(evaluated.records, base=evaluated.rows[0].plan.name)
    base_rows = [row for row in evaluated.rows if row.plan.name != TUNED]
    heads = _heads(base_rows, evaluated, max(BEST, ablate))
    notes = [note for row in evaluated.rows for note in _notes(row)]
    quality = None
    if any(words(record.text) for record in evaluated.records):
        quality = analyse_quality(evaluated.records, base=evaluated.rows[0].plan.name)
    else:
        notes.append("language: no reply has a word")
    settings = evaluation.settings()
    findings = Findings(
        analysis=analysis,
        definition=DEFINITION,
        quality=quality,
        heads=heads,
        settings={
            "model": evaluation.base.name,
            "tuned": None if evaluation.tuned is None else evaluation.tuned.name,
            "classifier": evaluation.classifier_name,
            "items": evaluation.items,
            "file": evaluation.file.name,
            **{key: settings[key] for key in ("sampling", "dtype", "versions")},
        },
        deviations=deviations,
        notes=notes,
    )
    drawn = write_figures(evaluation.out, analysis, DEFINITION, heads)
    write_report(evaluation.out, findings, drawn)  # what there is, before more is generated
    if ablate:
        findings = _with_ablation(
            findings, evaluation, evaluated, base_rows, heads, ablate, on_progress
        )
        write_report(evaluation.out, findings, drawn)
    return results(findings)


def _with_ablation(
    findings: Findings,
    evaluation: Evaluation,
    evaluated: Evaluated,
    rows: Sequence[Row],
    heads: HeadAnalysis,
    count: int,
    on_progress: OnProgress,
) -> Findings:
    """With the answers without heads, or the reason why there are none among the notes."""
    if not heads.best:
        why = "no head is better than another, so none is taken away"
        return replace(findings, notes=[*findings.notes, f"ablation: {why}"])
    of_base = [record.dialogue for record in _of_base(rows, evaluated)]
    _, measuring = halves(of_base, heads.seed)
    try:
        found = answer_without_heads(
            evaluation, rows, evaluated.records, heads, measuring, count, on_progress
        )
    except AblationError as error:
        return replace(findings, notes=[*findings.notes, f"ablation: {error}"])
    return replace(findings, ablation=found)


def _of_base(rows: Sequence[Row], evaluated: Evaluated) -> list[Record]:
    """Records of the base model's replies, as their masses follow each other."""
    names = {row.plan.name for row in rows}
    return [record for record in evaluated.records if record.row in names and record.text]


def _heads(rows: Sequence[Row], evaluated: Evaluated, best: int) -> HeadAnalysis:
    """Of the base model's rows."""
    of_base = _of_base(rows, evaluated)
    return analyse_heads(
        numpy.concatenate([row.mass.numpy() for row in rows]),
        [record.adherent for record in of_base],
        dialogue=[record.dialogue for record in of_base],
        row=[record.row for record in of_base],
        strategy=[record.strategy for record in of_base],
        item=[record.item for record in of_base],
        best=best,
    )


def _notes(row: Row) -> list[str]:
    counted = summary(row)
    name = counted["row"]
    notes = []
    if counted["empty"]:
        notes.append(f"{name}: {counted['empty']} conversations got an empty reply")
    if counted["cut_off"]:
        notes.append(f"{name}: {counted['cut_off']} replies were cut off at the limit of tokens")
    return notes
