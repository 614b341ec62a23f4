"""Analyse adherence, SRA and how they go together: by condition, turn, strategy and language.

A *condition* is one model under one prompt template; a *score* is SRA by one definition, or
"lookback". Intervals are 95% intervals over dialogues. A figure that is undefined is None with its
reason, never a number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy

from sra_fast.tools.coefficients import Floats
from sra_fast.tools.estimates import Estimate
from sra_fast.tools.grouped import Integers, numbered

from .analysis import (
    LOOKBACK,
    Analysis,
    AnalysisError,
    ConditionRelation,
    ConditionResult,
    GroupResult,
    TurnResult,
)
from .condition_correlation import condition_correlation, leave_one_out
from .group_means import Means, group_means
from .ranking import Booleans, auc
from .records import Record

_SHARES = (0,)  # the columns of 0 and 1: adherence


@dataclass(frozen=True, eq=False)
class _Columns:
    """The records as arrays, one element for each record.

    Attributes:
        conditions: the names of the conditions.
        condition: ``[n]`` the number of each record's condition.
        stratum: ``[n]`` the number of each record's stratum, its condition and strategy.
        scores: the names of the scores.
        values: ``[n, 1 + scores]``; the first column is adherence, 0 or 1, the others are the
            scores, NaN where unknown.
        dialogue: ``[n]`` the number of each record's dialogue.
    """

    conditions: tuple[str, ...]
    condition: Integers
    stratum: Integers
    scores: tuple[str, ...]
    values: Floats
    dialogue: Integers

    @property
    def adherent(self) -> Booleans:
        """Whether each response adheres to its strategy, bool ``[n]``."""
        return numpy.asarray(self.values[:, 0] > 0)


def analyse(
    records: Sequence[Record],
    *,
    base: str = "standard",
) -> Analysis:
    """Analyse the records of all conditions.

    Conditions and strategies keep the order that they appear in.

    Args:
        records: the records of a model under several templates, with those of its tuned versions.
        base: the name of the condition that the others are compared with.

    Raises:
        AnalysisError: there is no record.
    """
    columns = _columns(records)
    by_condition = group_means(
        columns.values, columns.condition, len(columns.conditions), columns.dialogue, _SHARES
    )
    languages, names = numbered([record.language for record in records])
    known = [(i, str(name)) for i, name in enumerate(names) if name is not None]
    strategies, strategy_names = numbered([record.strategy for record in records])
    return Analysis(
        responses=len(records),
        dialogues=int(columns.dialogue.max()) + 1,
        base=base,
        scores=columns.scores,
        rows=_conditions(columns, by_condition, base),
        turns=_turns(columns, [record.turn for record in records]),
        over_rows={
            score: ConditionRelation(
                condition_correlation(by_condition, 1 + at),
                condition_correlation(by_condition, 1 + at, log=True),
                condition_correlation(by_condition, 1 + at, "spearman"),
                leave_one_out(
                    columns.conditions,
                    by_condition.values[:, 1 + at].tolist(),
                    by_condition.values[:, 0].tolist(),
                ),
            )
            for at, score in enumerate(columns.scores)
        },
        strategies=_groups(
            columns, strategies, [(i, str(name)) for i, name in enumerate(strategy_names)]
        ),
        languages=_groups(columns, languages, known) if len(known) > 1 else (),
    )


def table_of_conditions(
    records: Sequence[Record],
    *,
    base: str = "standard",
) -> tuple[ConditionResult, ...]:
    """Compute the figures of each condition, as in Table 1, and nothing else.

    This is what a comparison of replies with and without some heads needs.

    Args:
        records: the records of all conditions.
        base: the name of the condition that the others are compared with.

    Raises:
        AnalysisError: there is no record.
    """
    columns = _columns(records)
    by_condition = group_means(
        columns.values, columns.condition, len(columns.conditions), columns.dialogue, _SHARES
    )
    return _conditions(columns, by_condition, base)


def _columns(records: Sequence[Record]) -> _Columns:
    if not records:
        raise AnalysisError("there are no records to analyse; generate and score responses first")
    condition, names = numbered([record.row for record in records])
    definitions = dict.fromkeys(name for record in records for name in record.sra)
    values = [
        [
            float(record.adherent),
            *(record.sra.get(name, math.nan) for name in definitions),
            record.lookback,
        ]
        for record in records
    ]
    return _Columns(
        conditions=tuple(str(name) for name in names),
        condition=condition,
        stratum=numbered([(record.row, record.strategy) for record in records])[0],
        scores=(*definitions, LOOKBACK),
        values=numpy.array(values, dtype=numpy.float64),
        dialogue=numbered([record.dialogue for record in records])[0],
    )


def _conditions(columns: _Columns, means: Means, base: str) -> tuple[ConditionResult, ...]:
    at_base = columns.conditions.index(base) if base in columns.conditions else None

    counts, dialogues = means.responses, means.dialogues

    def difference(at: int, column: int) -> Estimate:
        n = int(counts[at, column])
        if at_base is None:
            return Estimate(None, None, None, n, f"there is no condition {base!r} to compare with")
        if at == at_base:
            return Estimate(None, None, None, n, "the condition itself")
        return means.difference(at, at_base, column)

    found = []
    for at, condition in enumerate(columns.conditions):
        scores = {name: means.estimate(at, 1 + i) for i, name in enumerate(columns.scores)}
        found.append(
            ConditionResult(
                row=condition,
                n=int(counts[at, 0]),
                dialogues=int(dialogues[at, 0]),
                accuracy=means.estimate(at, 0),
                scores=scores,
                log_scores={name: _log(one) for name, one in scores.items()},
                accuracy_difference=difference(at, 0),
                score_differences={
                    name: difference(at, 1 + i) for i, name in enumerate(columns.scores)
                },
                auc=_auc(columns, columns.condition == at),
            )
        )
    return tuple(found)


def _turns(columns: _Columns, turns: Sequence[int]) -> tuple[TurnResult, ...]:
    keys = list(zip(columns.condition.tolist(), turns, strict=True))
    group, names = numbered(keys)
    means = group_means(columns.values, group, len(names), columns.dialogue, _SHARES)
    numbers = {key: at for at, key in enumerate(names)}
    return tuple(
        TurnResult(
            row=columns.conditions[condition],
            turn=turn,
            accuracy=means.estimate(numbers[condition, turn], 0),
            scores={
                score: means.estimate(numbers[condition, turn], 1 + i)
                for i, score in enumerate(columns.scores)
            },
        )
        for condition, turn in sorted(set(keys))
    )


def _groups(
    columns: _Columns, group: Integers, names: Sequence[tuple[int, str]]
) -> tuple[GroupResult, ...]:
    """Compute the figures of each group of records, for example of each strategy.

    Args:
        columns: the records.
        group: ``[n]`` the number of each record's group.
        names: number and name of the groups that are wanted.
    """
    conditions, number = len(columns.conditions), int(group.max()) + 1
    together = group_means(columns.values, group, number, columns.dialogue, _SHARES)
    apart = group_means(
        columns.values,
        group * conditions + columns.condition,
        number * conditions,
        columns.dialogue,
        _SHARES,
    )
    found = []
    for at, name in names:
        means = apart.of_groups(slice(at * conditions, (at + 1) * conditions))
        found.append(
            GroupResult(
                name=name,
                accuracy=together.estimate(at, 0),
                scores={s: together.estimate(at, 1 + i) for i, s in enumerate(columns.scores)},
                auc=_auc(columns, group == at),
                over_rows={
                    s: condition_correlation(means, 1 + i) for i, s in enumerate(columns.scores)
                },
            )
        )
    return tuple(found)


def _auc(columns: _Columns, chosen: Booleans) -> dict[str, Estimate]:
    """Compute the AUC of each score, over pairs of one condition and strategy, among ``chosen``."""
    strata, dialogue = columns.stratum, columns.dialogue
    return {
        score: auc(columns.values[:, 1 + i], columns.adherent, strata, dialogue, chosen)
        for i, score in enumerate(columns.scores)
    }


def _log(one: Estimate) -> Estimate:
    """Take the logarithm of a mean and of both ends of its interval."""
    if one.value is None:
        return one
    if one.value <= 0:
        return replace(one, value=None, low=None, high=None, why="the mean is 0, log undefined")
    if one.low is None or one.high is None:
        return replace(one, value=math.log(one.value))
    if one.low <= 0:
        why = "the interval reaches 0, log undefined"
        return replace(one, value=math.log(one.value), low=None, high=None, why=why)
    return replace(one, value=math.log(one.value), low=math.log(one.low), high=math.log(one.high))
