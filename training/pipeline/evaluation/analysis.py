"""What an analysis of adherence and SRA found: by row, turn, strategy and language, and over rows.

A *row* is one way to prompt or tune a model; a *score* is SRA by one definition, or "lookback".
What is undefined is None with its reason, never a number.
"""

from __future__ import annotations

from dataclasses import dataclass

from sra_fast.tools.bootstrap import Correlation, Estimate

LOOKBACK = "lookback"


class AnalysisError(ValueError):
    """There is nothing to analyse."""


@dataclass(frozen=True)
class RowResult:
    """One row of Table 1. Dictionaries go by score.

    Attributes:
        row: its name.
        n: responses.
        dialogues: that they are of.
        accuracy: share of responses that adhere.
        scores: mean of the responses where it is known.
        log_scores: natural logarithm of that mean.
        accuracy_difference, score_differences: this row minus the base row, paired.
        auc: of the score for adherence, over pairs of this row's responses to one strategy.
    """

    row: str
    n: int
    dialogues: int
    accuracy: Estimate
    scores: dict[str, Estimate]
    log_scores: dict[str, Estimate]
    accuracy_difference: Estimate
    score_differences: dict[str, Estimate]
    auc: dict[str, Estimate]


@dataclass(frozen=True)
class TurnResult:
    """The responses of one row at one turn of the supporter."""

    row: str
    turn: int
    accuracy: Estimate
    scores: dict[str, Estimate]


@dataclass(frozen=True)
class RowRelation:
    """One score against accuracy over the rows: of means, of their logarithms, of ranks.

    Attributes:
        without: Pearson's r of the means of all rows but one, by the name of that one.
    """

    pearson: Correlation
    pearson_log: Correlation
    spearman: Correlation
    without: dict[str, float | None]


@dataclass(frozen=True)
class GroupResult:
    """The responses of one strategy, or language. Dictionaries go by score.

    Attributes:
        name: of the group.
        accuracy, scores: means over its responses, of all rows together.
        auc: of the score for adherence, over pairs of responses of the same row and strategy.
        over_rows: Pearson of the rows' means and accuracies in this group.
    """

    name: str
    accuracy: Estimate
    scores: dict[str, Estimate]
    auc: dict[str, Estimate]
    over_rows: dict[str, Correlation]


@dataclass(frozen=True)
class Analysis:
    """Everything that records say. Dictionaries go by score.

    Attributes:
        responses, dialogues: how many.
        base: the row that differences are taken from.
        scores: names, in order.
        rows: Table 1.
        turns: by row and turn, where there are responses.
        over_rows: the relation over rows.
        strategies: by strategy.
        languages: by language; empty where there are fewer than two.
        draws, seed: of the bootstrap.
    """

    responses: int
    dialogues: int
    base: str
    scores: tuple[str, ...]
    rows: tuple[RowResult, ...]
    turns: tuple[TurnResult, ...]
    over_rows: dict[str, RowRelation]
    strategies: tuple[GroupResult, ...]
    languages: tuple[GroupResult, ...]
    draws: int
    seed: int
