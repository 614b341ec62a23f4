"""Hold the results of an analysis: adherence and SRA by condition, turn, strategy and language.

A *condition* is one model under one prompt template, a line of Table 1; a *score* is SRA by one
definition, or "lookback". A figure that is undefined is None with its reason, never a number.

The fields ``row``, ``rows`` and ``over_rows`` are called as ``results.json`` calls them: there a
condition is a row of the table.
"""

from __future__ import annotations

from dataclasses import dataclass

from sra_fast.tools.estimates import Correlation, Estimate

LOOKBACK = "lookback"


class AnalysisError(ValueError):
    """Raised when records cannot be analysed, or lack what is asked for."""


@dataclass(frozen=True)
class ConditionResult:
    """One condition of Table 1, with the figures of its responses.

    The keys of every dictionary are the names of the scores.

    Attributes:
        row: the name of the condition.
        n: how many responses it has.
        dialogues: how many dialogues the responses belong to.
        accuracy: the share of responses that adhere to their strategy.
        scores: the mean of each score over the responses for which it is known.
        log_scores: the natural logarithm of that mean.
        accuracy_difference, score_differences: the figure of this condition minus that of the base
            condition, paired by dialogue.
        auc: how well the score tells responses that adhere from others (AUC), over pairs of
            responses of this condition to the same strategy.
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
    """The figures of one condition's responses at one turn.

    Attributes:
        row: the name of the condition.
        turn: the number of the reply among the assistant messages, from 1.
        accuracy: the share of responses that adhere to their strategy.
        scores: the mean of each score, by the score's name.
    """

    row: str
    turn: int
    accuracy: Estimate
    scores: dict[str, Estimate]


@dataclass(frozen=True)
class ConditionRelation:
    """How one score goes together with accuracy over the conditions, each of which is a point.

    Attributes:
        pearson: Pearson's r of mean score and accuracy, with the interval of r without the noise
            of the means.
        pearson_log: Pearson's r of the logarithm of the mean score and accuracy, likewise.
        spearman: Spearman's rank correlation of mean score and accuracy, without an interval.
        without: Pearson's r of all conditions but one; the key is the name of the one left out.
    """

    pearson: Correlation
    pearson_log: Correlation
    spearman: Correlation
    without: dict[str, float | None]


@dataclass(frozen=True)
class GroupResult:
    """The figures of all responses to one strategy, or in one language.

    The keys of every dictionary are the names of the scores.

    Attributes:
        name: the strategy or the language.
        accuracy, scores: means over the responses of all conditions together.
        auc: how well the score tells responses that adhere from others (AUC), over pairs of
            responses of the same condition and strategy.
        over_rows: Pearson's r of mean score and accuracy in this group over the conditions.
    """

    name: str
    accuracy: Estimate
    scores: dict[str, Estimate]
    auc: dict[str, Estimate]
    over_rows: dict[str, Correlation]


@dataclass(frozen=True)
class Analysis:
    """All results of an analysis of records.

    Attributes:
        responses, dialogues: how many of each were analysed.
        base: the name of the condition that the others are compared with.
        scores: the names of the scores, in order.
        rows: the figures of each condition, as in Table 1.
        turns: the figures of each condition at each turn that has responses.
        over_rows: how each score goes together with accuracy over the conditions.
        strategies: the figures of each strategy.
        languages: the figures of each language; empty where there are fewer than two.
    """

    responses: int
    dialogues: int
    base: str
    scores: tuple[str, ...]
    rows: tuple[ConditionResult, ...]
    turns: tuple[TurnResult, ...]
    over_rows: dict[str, ConditionRelation]
    strategies: tuple[GroupResult, ...]
    languages: tuple[GroupResult, ...]
