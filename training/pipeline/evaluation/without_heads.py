"""Answer conversations without the best heads, to see whether replies still follow the strategy.

The best heads were chosen on one half of the dialogues. The other half is answered again without
them, and without as many heads drawn by lot. The comparison of these two says what the best heads
do, because the loss of any heads may cost adherence.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from sra_fast.chat.conversations import Conversation

from ...data.trained_on import digest
from .ablation import ablated
from .analysis import ConditionResult
from .condition_records import records
from .conditions import Condition, ConditionPlan
from .evaluate import Evaluation, LoadedModels, OnProgress, answer
from .heads import HeadAnalysis
from .records import Record
from .relation import table_of_conditions

PREFERRED = "c1_hf"
"""The name of the condition that is answered again; if there is none of it, the first is."""


def answer_without_heads(
    evaluation: Evaluation,
    conditions: Sequence[Condition],
    found: Sequence[Record],
    heads: HeadAnalysis,
    measuring: frozenset[object],
    count: int,
    on_progress: OnProgress,
) -> tuple[ConditionResult, ...]:
    """Compare a condition with all heads, without the best heads, and without as many others.

    Args:
        evaluation: the settings.
        conditions: the conditions of the base model.
        found: the records of all conditions.
        heads: the analysis of the heads under these conditions.
        measuring: the dialogues that the heads were not chosen on.
        count: how many heads to switch off.
        on_progress: called after each batch of replies.

    Returns:
        The figures of the three conditions; differences are from the last, without other heads.

    Raises:
        AblationError: the output projections of the model are not found.
        ValueError: all replies are empty.
    """
    whole = next(
        (condition for condition in conditions if condition.plan.name == PREFERRED), conditions[0]
    )
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
        plan = ConditionPlan(
            f"{name}, {len(taken)} {label} heads away", whole.plan.source, whole.plan.template
        )
        kept += _answered(evaluation, models, plan, taken, conversations, on_progress)
    return table_of_conditions(kept, base=kept[-1].row)


def _answered(
    evaluation: Evaluation,
    models: LoadedModels,
    plan: ConditionPlan,
    taken: Sequence[tuple[int, int]],
    conversations: Sequence[Conversation],
    on_progress: OnProgress,
) -> list[Record]:
    model, _ = models.get(plan.source)
    which = digest(*(f"{layer}.{head}" for layer, head in sorted(taken)))
    with ablated(model, taken):
        folder = f"{plan.template.name}-without-{which}"
        condition = answer(evaluation, plan, models, conversations, folder, on_progress)
    return records(condition, evaluation.classifier, [None] * len(condition.conversations))
