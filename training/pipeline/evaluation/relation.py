"""Adherence, SRA and how they go together: Table 1, by turn, over rows, within rows, per strategy.

A *row* is one way to prompt or tune a model; a *score* is SRA by one definition, or "lookback".
Intervals are 95% percentile intervals over dialogues, drawn once for everything. What is undefined
is None with its reason, never a number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy

from sra_fast.tools.bootstrap import REPORT_DRAWS, REPORT_SEED, Estimate, Integers, numbered
from sra_fast.tools.coefficients import Floats

from .analysis import (
    LOOKBACK,
    Analysis,
    AnalysisError,
    GroupResult,
    RowRelation,
    RowResult,
    TurnResult,
)
from .ranking import Booleans, auc
from .records import Record
from .resampling import Means, Resampling, group_means, resampling
from .row_correlation import leave_one_out, row_correlation


@dataclass(frozen=True, eq=False)
class _Columns:
    """Records as arrays: each one's row and stratum (row and strategy), ``[n, 1 + scores]`` values.

    The first column of ``values`` is adherence, 0 or 1; the others are scores, NaN where unknown.
    """

    rows: tuple[str, ...]
    row: Integers
    stratum: Integers
    scores: tuple[str, ...]
    values: Floats
    draws: Resampling

    @property
    def adherent(self) -> Booleans:
        return numpy.asarray(self.values[:, 0] > 0)


def analyse(
    records: Sequence[Record],
    *,
    base: str = "standard",
    draws: int = REPORT_DRAWS,
    seed: int = REPORT_SEED,
) -> Analysis:
    """Analyses the responses of all rows; rows and strategies keep the order they appear in.

    Args:
        records: of one model, or one model tuned in several ways.
        base: the row that differences are taken from.
        draws: of the bootstrap.
        seed: of the draws.

    Raises:
        AnalysisError: there is no record.
    """
    columns = _columns(records, draws, seed)
    by_row = group_means(columns.values, columns.row, len(columns.rows), columns.draws)
    languages, names = numbered([record.language for record in records])
    known = [(i, str(name)) for i, name in enumerate(names) if name is not None]
    strategies, strategy_names = numbered([record.strategy for record in records])
    return Analysis(
        responses=len(records),
        dialogues=columns.draws.counts.shape[1],
        base=base,
        scores=columns.scores,
        rows=_rows(columns, by_row, base),
        turns=_turns(columns, [record.turn for record in records]),
        over_rows={
            score: RowRelation(
                row_correlation(by_row, 1 + at),
                row_correlation(by_row, 1 + at, log=True),
                row_correlation(by_row, 1 + at, "spearman"),
                leave_one_out(
                    columns.rows, by_row.values[:, 1 + at].tolist(), by_row.values[:, 0].tolist()
                ),
            )
            for at, score in enumerate(columns.scores)
        },
        strategies=_groups(
            columns, strategies, [(i, str(name)) for i, name in enumerate(strategy_names)]
        ),
        languages=_groups(columns, languages, known) if len(known) > 1 else (),
        draws=draws,
        seed=seed,
    )


def table_of_rows(
    records: Sequence[Record],
    *,
    base: str = "standard",
    draws: int = REPORT_DRAWS,
    seed: int = REPORT_SEED,
) -> tuple[RowResult, ...]:
    """Table 1 alone, e.g. of responses with the best heads ablated beside those without.

    Raises:
        AnalysisError: there is no record.
    """
    columns = _columns(records, draws, seed)
    by_row = group_means(columns.values, columns.row, len(columns.rows), columns.draws)
    return _rows(columns, by_row, base)


def _columns(records: Sequence[Record], draws: int, seed: int) -> _Columns:
    if not records:
        raise AnalysisError("there are no records to analyse; generate and score responses first")
    row, names = numbered([record.row for record in records])
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
        rows=tuple(str(name) for name in names),
        row=row,
        stratum=numbered([(record.row, record.strategy) for record in records])[0],
        scores=(*definitions, LOOKBACK),
        values=numpy.array(values, dtype=numpy.float64),
        draws=resampling([record.dialogue for record in records], draws, seed),
    )


def _rows(columns: _Columns, means: Means, base: str) -> tuple[RowResult, ...]:
    at_base = columns.rows.index(base) if base in columns.rows else None

    def difference(at: int, column: int) -> Estimate:
        n = int(means.counts[at, column])
        if at_base is None:
            return Estimate(None, None, None, n, f"there is no row {base!r} to compare with")
        if at == at_base:
            return Estimate(None, None, None, n, "the row itself")
        return means.difference(at, at_base, column)

    found = []
    for at, row in enumerate(columns.rows):
        scores = {name: means.estimate(at, 1 + i) for i, name in enumerate(columns.scores)}
        found.append(
            RowResult(
                row=row,
                n=int(means.counts[at, 0]),
                dialogues=int(means.dialogues[at, 0]),
                accuracy=means.estimate(at, 0),
                scores=scores,
                log_scores={name: _log(one) for name, one in scores.items()},
                accuracy_difference=difference(at, 0),
                score_differences={
                    name: difference(at, 1 + i) for i, name in enumerate(columns.scores)
                },
                auc=_auc(columns, columns.row == at),
            )
        )
    return tuple(found)


def _turns(columns: _Columns, turns: Sequence[int]) -> tuple[TurnResult, ...]:
    keys = list(zip(columns.row.tolist(), turns, strict=True))
    group, names = numbered(keys)
    means = group_means(columns.values, group, len(names), columns.draws)
    numbers = {key: at for at, key in enumerate(names)}
    return tuple(
        TurnResult(
            row=columns.rows[row],
            turn=turn,
            accuracy=means.estimate(numbers[row, turn], 0),
            scores={
                score: means.estimate(numbers[row, turn], 1 + i)
                for i, score in enumerate(columns.scores)
            },
        )
        for row, turn in sorted(set(keys))
    )


def _groups(
    columns: _Columns, group: Integers, names: Sequence[tuple[int, str]]
) -> tuple[GroupResult, ...]:
    """Results of the groups ``names`` (number and name); ``group [n]`` holds each one's number."""
    rows, number = len(columns.rows), int(group.max()) + 1
    together = group_means(columns.values, group, number, columns.draws)
    apart = group_means(columns.values, group * rows + columns.row, number * rows, columns.draws)
    found = []
    for at, name in names:
        mine = slice(at * rows, (at + 1) * rows)
        means = Means(
            apart.values[mine], apart.drawn[:, mine], apart.counts[mine], apart.dialogues[mine]
        )
        found.append(
            GroupResult(
                name=name,
                accuracy=together.estimate(at, 0),
                scores={s: together.estimate(at, 1 + i) for i, s in enumerate(columns.scores)},
                auc=_auc(columns, group == at),
                over_rows={s: row_correlation(means, 1 + i) for i, s in enumerate(columns.scores)},
            )
        )
    return tuple(found)


def _auc(columns: _Columns, chosen: Booleans) -> dict[str, Estimate]:
    """Of each score, over the pairs of one row and strategy among the chosen ``[n]``."""
    strata, draws = columns.stratum, columns.draws
    return {
        score: auc(columns.values[:, 1 + i], columns.adherent, strata, draws, chosen)
        for i, score in enumerate(columns.scores)
    }


def _log(one: Estimate) -> Estimate:
    """Of a mean and its interval; the logarithm keeps their order."""
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
