"""List the figures that an evaluation could not compute, with the reason for each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sra_fast.tools.estimates import Correlation, Estimate

from .analysis import Analysis, ConditionResult
from .heads import HeadAnalysis
from .language_quality import LanguageQuality

_NO_GAP = "the condition itself"
_SHOWN = 6  # most places that one sentence names; results.json has a reason beside every figure


def gaps(
    analysis: Analysis,
    quality: LanguageQuality | None,
    heads: HeadAnalysis | None,
    ablation: Sequence[ConditionResult] | None,
) -> list[str]:
    """Return a sentence for each reason, with the figures and intervals that are undefined for it.

    Args:
        analysis: the analysis of the records.
        quality: the language of the replies, or None.
        heads: how well single heads predict adherence, or None.
        ablation: the figures of conditions with and without the best heads, or None.
    """
    places: dict[str, list[str]] = {}
    for place, why in _undefined(analysis, quality, heads, ablation):
        found = places.setdefault(why, [])
        if place not in found:
            found.append(place)
    return [f"{_listed(found)}: {why}" for why, found in places.items()]


def _listed(places: list[str]) -> str:
    more = len(places) - _SHOWN
    return "; ".join(places[:_SHOWN]) + (f"; and {more} more figures" if more > 0 else "")


def _undefined(
    analysis: Analysis,
    quality: LanguageQuality | None,
    heads: HeadAnalysis | None,
    ablation: Sequence[ConditionResult] | None,
) -> Iterator[tuple[str, str]]:
    for condition in analysis.rows:
        yield from _of_condition(condition, f"condition {condition.row}")
    for name, relation in analysis.over_rows.items():
        yield from _why(f"{name}, r over conditions", relation.pearson)
        yield from _why(f"{name}, log r over conditions", relation.pearson_log)
        yield from _why(f"{name}, rho over conditions", relation.spearman)
    for kind, groups in (("strategy", analysis.strategies), ("language", analysis.languages)):
        for group in groups:
            where = f"{kind} {group.name}"
            yield from _why(f"{where}, accuracy", group.accuracy)
            for what, by_score in (
                ("mean", group.scores),
                ("AUC", group.auc),
                ("r over conditions", group.over_rows),
            ):
                for name, one in by_score.items():
                    yield from _why(f"{where}, {name} {what}", one)
    for turn in analysis.turns:
        where = f"condition {turn.row}, turn {turn.turn}"
        yield from _why(f"{where}, accuracy", turn.accuracy)
        for name, score in turn.scores.items():
            yield from _why(f"{where}, {name}", score)
    for language in quality.rows if quality else ():
        where = f"condition {language.row}"
        for name in ("words", "finished", "repetition", "perplexity"):
            yield from _why(f"{where}, {name}", getattr(language, name))
        for name in ("words_difference", "finished_difference", "repetition_difference"):
            yield from _why(f"{where}, {name.replace('_', ' ')}", getattr(language, name))
        yield from _why(f"{where}, perplexity ratio", language.perplexity_ratio)
        for n, variety in language.distinct.items():
            if variety is None:
                yield f"{where}, distinct-{n}", "the cut texts hold no n-gram of that length"
    if heads is not None:
        for why in heads.gaps:
            yield "heads", why
        for head in heads.best:
            yield from _why(f"layer {head.layer}, head {head.head}, held-out AUC", head.measured)
    for condition in ablation or ():
        yield from _of_condition(condition, f"ablation, condition {condition.row}")


def _of_condition(condition: ConditionResult, where: str) -> Iterator[tuple[str, str]]:
    yield from _why(f"{where}, accuracy", condition.accuracy)
    yield from _why(f"{where}, accuracy difference", condition.accuracy_difference)
    for what, by_score in (
        ("mean", condition.scores),
        ("log", condition.log_scores),
        ("difference", condition.score_differences),
        ("AUC", condition.auc),
    ):
        for name, one in by_score.items():
            yield from _why(f"{where}, {name} {what}", one)


def _why(place: str, one: Estimate | Correlation) -> Iterator[tuple[str, str]]:
    if one.why is not None and one.why != _NO_GAP:
        yield place, one.why
