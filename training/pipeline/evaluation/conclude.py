"""Conclude an evaluation: analyse its records, draw the figures and write the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy

from sra_fast.names import Definition
from sra_fast.tools.counted import counted

from .ablation import AblationError
from .conditions import Condition, summary
from .evaluate import TUNED, Evaluated, Evaluation, OnProgress
from .evaluation_report import Findings, results, write_report
from .figures import write_figures
from .heads import BEST, HeadAnalysis, analyse_heads, halves
from .language_quality import analyse_quality, words
from .records import Record
from .relation import analyse
from .without_heads import answer_without_heads

DEFINITION: Definition = "paper"


def conclude(
    evaluation: Evaluation,
    evaluated: Evaluated,
    *,
    ablate: int = 0,
    deviations: Sequence[str] = (),
    on_progress: OnProgress = lambda condition, done, total: None,
) -> dict[str, Any]:
    """Analyse what an evaluation found, draw the figures and write the report.

    Call it inside :func:`~.evaluate.opened`.

    Args:
        evaluation: what was asked for; the report goes to its folder.
        evaluated: the conditions and records that :func:`~.evaluate.collect` found.
        ablate: how many of the best heads to switch off in a further experiment, beside as many
            drawn by lot; 0 leaves the experiment out.
        deviations: sentences on what differs from the paper, for the report.
        on_progress: called while replies without the heads are generated.

    Returns:
        The content of ``results.json``.

    Raises:
        ValueError: the records cannot be analysed.
        OSError: a file cannot be written.
    """
    analysis = analyse(evaluated.records, base=evaluated.conditions[0].plan.name)
    base_conditions = [
        condition for condition in evaluated.conditions if condition.plan.name != TUNED
    ]
    heads = _heads(base_conditions, evaluated, max(BEST, ablate))
    notes = [note for condition in evaluated.conditions for note in _notes(condition)]
    quality = None
    if any(words(record.text) for record in evaluated.records):
        quality = analyse_quality(evaluated.records, base=evaluated.conditions[0].plan.name)
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
            findings, evaluation, evaluated, base_conditions, heads, ablate, on_progress
        )
        write_report(evaluation.out, findings, drawn)
    return results(findings)


def _with_ablation(
    findings: Findings,
    evaluation: Evaluation,
    evaluated: Evaluated,
    conditions: Sequence[Condition],
    heads: HeadAnalysis,
    count: int,
    on_progress: OnProgress,
) -> Findings:
    """Add the experiment without the best heads, or a note on why it could not be done."""
    if not heads.best:
        why = "no head is better than another, so none is taken away"
        return replace(findings, notes=[*findings.notes, f"ablation: {why}"])
    of_base = [record.dialogue for record in _of_base(conditions, evaluated)]
    _, measuring = halves(of_base, heads.seed)
    try:
        found = answer_without_heads(
            evaluation, conditions, evaluated.records, heads, measuring, count, on_progress
        )
    except AblationError as error:
        return replace(findings, notes=[*findings.notes, f"ablation: {error}"])
    return replace(findings, ablation=found)


def _of_base(conditions: Sequence[Condition], evaluated: Evaluated) -> list[Record]:
    """Select the records of the base model's replies, in the order of their masses."""
    names = {condition.plan.name for condition in conditions}
    return [record for record in evaluated.records if record.row in names and record.text]


def _heads(conditions: Sequence[Condition], evaluated: Evaluated, best: int) -> HeadAnalysis:
    """Analyse the heads of the base model over all of its conditions."""
    of_base = _of_base(conditions, evaluated)
    return analyse_heads(
        numpy.concatenate([condition.mass.numpy() for condition in conditions]),
        [record.adherent for record in of_base],
        dialogue=[record.dialogue for record in of_base],
        row=[record.row for record in of_base],
        strategy=[record.strategy for record in of_base],
        item=[record.item for record in of_base],
        best=best,
    )


def _notes(condition: Condition) -> list[str]:
    found = summary(condition)
    name = found["row"]
    notes = []
    if found["empty"]:
        notes.append(f"{name}: {counted(found['empty'], 'conversation')} got an empty reply")
    if found["cut_off"]:
        cut = counted(found["cut_off"], "reply was", "replies were")
        notes.append(f"{name}: {cut} cut off at the limit of tokens")
    return notes
