"""The best heads taken away: do replies still follow the strategy?

Which heads are best was chosen on one half of the dialogues; the other half is answered again
without them, and without as many heads drawn by lot. Only these two say what the best heads do:
any heads' loss may cost adherence.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from sra_fast.chat.conversations import Conversation

from ...data.trained_on import digest
from .ablation import ablated
from .analysis import RowResult
from .evaluate import Evaluation, LoadedModels, OnProgress, answer
from .heads import HeadAnalysis
from .records import Record
from .relation import table_of_rows
from .rows import Row, RowPlan, records

PREFERRED = "c1_hf"
"""The row whose prompt is answered again, if there is one; else the first."""


def answer_without_heads(
    evaluation: Evaluation,
    rows: Sequence[Row],
    found: Sequence[Record],
    heads: HeadAnalysis,
    measuring: frozenset[object],
    count: int,
    on_progress: OnProgress,
) -> tuple[RowResult, ...]:
    """The row with all heads, without the best, and without others; differences from the last.

    Args:
        rows: of the base model.
        found: records of all rows.
        heads: of these rows.
        measuring: dialogues that the heads were not chosen by.
        count: heads to take away.

    Raises:
        AblationError: the model's output projections are not found.
    """
    whole = next((row for row in rows if row.plan.name == PREFERRED), rows[0])
    name = whole.plan.name
    layers = whole.result.layers
    best = [(layers[one.layer], one.head) for one in heads.best[:count]]
    rest = [
        (layer, head)
        for layer in layers
        for head in range(heads.heads)
        if (layer, head) not in set(best)
    ]
    drawn = random.Random(evaluation.sampling.seed).sample(rest, min(len(best), len(rest)))
    conversations = [
        one
        for one in (*whole.conversations, *whole.unanswered)
        if (one.dialogue or one.id) in measuring
    ]
    kept = [one for one in found if one.row == name and one.dialogue in measuring]
    kept = [replace(one, row=f"{name}, all heads") for one in kept]
    models = LoadedModels(evaluation)
    for label, taken in (("best", best), ("other", drawn)):
        plan = RowPlan(
            f"{name}, {len(taken)} {label} heads away", whole.plan.source, whole.plan.template
        )
        kept += _answered(evaluation, models, plan, taken, conversations, on_progress)
    return table_of_rows(kept, base=kept[-1].row)


def _answered(
    evaluation: Evaluation,
    models: LoadedModels,
    plan: RowPlan,
    taken: Sequence[tuple[int, int]],
    conversations: Sequence[Conversation],
    on_progress: OnProgress,
) -> list[Record]:
    model, _ = models.get(plan.source)
    which = digest(*(f"{layer}.{head}" for layer, head in sorted(taken)))
    with ablated(model, taken):
        folder = f"{plan.template.name}-without-{which}"
        row = answer(evaluation, plan, models, conversations, folder, on_progress)
    return records(row, evaluation.classifier, [None] * len(row.conversations))
