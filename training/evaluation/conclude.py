"""From finished rows to the report: analyses, figures, and heads taken away as a test."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy

from sra_fast.definitions import Definition
from sra_fast.training.evaluation.ablation import ablated
from sra_fast.training.evaluation.analysis import RowResult
from sra_fast.training.evaluation.figures import write_figures
from sra_fast.training.evaluation.heads import HeadAnalysis, analyse_heads
from sra_fast.training.evaluation.quality import analyse_quality, words
from sra_fast.training.evaluation.relation import analyse, table_of_rows
from sra_fast.training.evaluation.report import Findings, results, write_report
from sra_fast.training.evaluation.rows import Row, RowPlan, fill_row, records, summary
from sra_fast.training.evaluation.run import (
    ROWS,
    TUNED,
    Evaluated,
    Evaluation,
    LoadedModels,
    OnProgress,
    chosen,
)

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
    heads = _heads(base_rows, evaluated)
    notes = [note for row in evaluated.rows for note in _notes(row)]
    quality = None
    if any(words(record.text) for record in evaluated.records):
        quality = analyse_quality(evaluated.records, base=evaluated.rows[0].plan.name)
    else:
        notes.append("language: no reply has a word")
    ablation = None
    if ablate and heads.best:
        ablation = _ablation(evaluation, base_rows, evaluated, heads, ablate, on_progress)
    findings = Findings(
        analysis=analysis,
        definition=DEFINITION,
        quality=quality,
        heads=heads,
        ablation=ablation,
        settings={
            "model": evaluation.base.name,
            "tuned": None if evaluation.tuned is None else evaluation.tuned.name,
            "classifier": evaluation.classifier_name,
            "items": evaluation.items,
            "file": evaluation.file.name,
            **{key: evaluation.settings()[key] for key in ("sampling", "dtype", "versions")},
        },
        deviations=deviations,
        notes=notes,
    )
    drawn = write_figures(evaluation.out, analysis, DEFINITION, heads)
    write_report(evaluation.out, findings, drawn)
    return results(findings)


def _heads(rows: Sequence[Row], evaluated: Evaluated) -> HeadAnalysis:
    """Of the base model's rows."""
    names = {row.plan.name for row in rows}
    of_base = [record for record in evaluated.records if record.row in names]
    return analyse_heads(
        numpy.concatenate([row.mass.numpy() for row in rows]),
        [record.adherent for record in of_base],
        [record.dialogue for record in of_base],
        [record.row for record in of_base],
    )


def _ablation(
    evaluation: Evaluation,
    rows: Sequence[Row],
    evaluated: Evaluated,
    heads: HeadAnalysis,
    count: int,
    on_progress: OnProgress,
) -> tuple[RowResult, ...]:
    """The best heads away, and as many others, in the base row with the highest adherence."""
    layers = rows[0].result.layers
    best = [(layers[one.layer], one.head) for one in heads.best[:count]]
    others = [
        (layer, head)
        for layer in layers
        for head in range(heads.heads)
        if (layer, head) not in set(best)
    ]
    drawn = random.Random(evaluation.sampling.seed).sample(others, min(len(best), len(others)))
    share = {
        row.plan.name: numpy.mean([r.adherent for r in evaluated.records if r.row == row.plan.name])
        for row in rows
    }
    whole = max(rows, key=lambda row: float(share[row.plan.name]))
    name = whole.plan.name
    found = [record for record in evaluated.records if record.row == name]
    models = LoadedModels(evaluation)
    conversations = chosen(evaluation)
    for label, taken in (("best", best), ("other", drawn)):
        plan = RowPlan(
            f"{name}, {len(taken)} {label} heads away", whole.plan.source, whole.plan.template
        )
        model, tokenizer = models.get(evaluation.base)
        with ablated(model, taken):
            row = fill_row(
                plan,
                model,
                tokenizer,
                conversations,
                evaluation.strategies,
                evaluation.sampling,
                evaluation.batch,
                evaluation.out / ROWS / f"{name}-{label}-heads-away-{len(taken)}",
                lambda done: on_progress("heads away", done, len(conversations)),
            )
        found += records(row, evaluation.classifier, [None] * len(row.conversations))
    return table_of_rows(found, base=name)


def _notes(row: Row) -> list[str]:
    counted = summary(row)
    name = counted["row"]
    notes = []
    if counted["empty"]:
        notes.append(f"{name}: {counted['empty']} conversations got an empty reply")
    if counted["cut_off"]:
        notes.append(f"{name}: {counted['cut_off']} replies were cut off at the limit of tokens")
    return notes
