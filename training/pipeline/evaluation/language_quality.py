"""Measure the language of replies: their length, variety, repetition and perplexity.

A word is what stands between spaces, in lower case, without the punctuation around it; Han and kana
characters, which are written without spaces, count as a word each.

    distinct-n = distinct n-grams / n-grams, over a condition's replies; no n-gram crosses two.

It falls as a text grows, so every condition is cut to the same number of words: that of the
condition with the fewest. The replies of a condition are shuffled (by the seed) and taken whole
until the number is reached, the last one cut; the figure is the mean over five shuffles.

    repetition = 1 − distinct 4-grams / 4-grams of a reply, the mean over replies that have any.
    perplexity = exp(mean of log perplexity), the geometric mean over replies.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy

from sra_fast.tools.estimates import REPORT_SEED, Estimate
from sra_fast.tools.grouped import numbered

from .analysis import AnalysisError
from .group_means import Means, group_means
from .records import Record

SHUFFLES = 5
ORDERS = (1, 2, 3)

_FINISHED = 1  # the column that holds whether the model ended a reply itself
_REPEATED = 4  # words of an n-gram that counts as repeated
_ALONE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_WORD = re.compile(rf"[{_ALONE}]|[^\s{_ALONE}]+")


@dataclass(frozen=True)
class ConditionQuality:
    """The language of one condition's replies.

    Attributes:
        row: the name of the condition, called as in ``results.json``.
        n: how many replies it has.
        words: the mean number of words of a reply.
        finished: the share of replies that the model ended itself.
        distinct: distinct-n by n; None where the cut texts have no n-gram.
        repetition: the mean share of a reply's 4-grams that occurred before in it.
        perplexity: the geometric mean of the perplexities under the base model.
        words_difference, finished_difference, repetition_difference: the figure minus that of the
            base condition, paired by dialogue.
        perplexity_ratio: the perplexity divided by that of the base condition.
    """

    row: str
    n: int
    words: Estimate
    finished: Estimate
    distinct: dict[int, float | None]
    repetition: Estimate
    perplexity: Estimate
    words_difference: Estimate
    finished_difference: Estimate
    repetition_difference: Estimate
    perplexity_ratio: Estimate


@dataclass(frozen=True)
class LanguageQuality:
    """The language of the replies of all conditions.

    Attributes:
        base: the name of the condition that the others are compared with.
        rows: the conditions in order of appearance, called as in ``results.json``.
        distinct_words: how many words the texts of each condition were cut to for distinct-n;
            conditions without a word are not counted.
        shuffles: how many shuffles distinct-n is the mean of.
        seed: the seed of the shuffles.
    """

    base: str
    rows: tuple[ConditionQuality, ...]
    distinct_words: int
    shuffles: int
    seed: int


def analyse_quality(
    records: Sequence[Record],
    *,
    base: str = "standard",
    seed: int = REPORT_SEED,
) -> LanguageQuality:
    """Measure the language of the replies that are in the records.

    Args:
        records: the records, with their texts.
        base: the name of the condition that the others are compared with.
        seed: the seed of the shuffles.

    Raises:
        AnalysisError: there is no record, or all texts are empty.
    """
    texts = [words(record.text) for record in records]
    if not any(texts):
        raise AnalysisError(
            "no record has a text; give the records of replies.jsonl in the run's own folder"
        )
    condition, found = numbered([record.row for record in records])
    names = [str(name) for name in found]
    columns = numpy.array(
        [
            [
                len(text),
                float(record.finished),
                math.nan if (share := repetition(text)) is None else share,
                math.nan if record.perplexity is None else math.log(record.perplexity),
            ]
            for record, text in zip(records, texts, strict=True)
        ]
    )
    dialogue = numbered([record.dialogue for record in records])[0]
    means = group_means(columns, condition, len(names), dialogue, shares=(_FINISHED,))
    by_condition = [
        [text for text, at in zip(texts, condition, strict=True) if at == i]
        for i in range(len(names))
    ]
    size = min(total for one in by_condition if (total := sum(map(len, one))))
    return LanguageQuality(
        base=base,
        rows=tuple(
            _condition_quality(means, names, at, base, distinct(own, size, seed))
            for at, own in enumerate(by_condition)
        ),
        distinct_words=size,
        shuffles=SHUFFLES,
        seed=seed,
    )


def words(text: str) -> list[str]:
    """Return the words of a text, in lower case and without the punctuation around them."""
    bare = (_without_punctuation(token) for token in _WORD.findall(text.lower()))
    return [word for word in bare if word]


@lru_cache(maxsize=100_000)
def _without_punctuation(token: str) -> str:
    """Remove punctuation, symbols and control characters at both ends of a token."""
    inside = [at for at, sign in enumerate(token) if unicodedata.category(sign)[0] not in "PSC"]
    return token[inside[0] : inside[-1] + 1] if inside else ""


def repetition(text: Sequence[str]) -> float | None:
    """Return the share of a text's 4-grams that occurred before in it; None below four words."""
    grams = _ngrams(text, _REPEATED)
    return 1 - len(set(grams)) / len(grams) if grams else None


def distinct(texts: Sequence[Sequence[str]], size: int, seed: int) -> dict[int, float | None]:
    """Compute distinct-n of texts that are cut to ``size`` words together.

    Args:
        texts: the words of each text.
        size: how many words of all texts together are counted.
        seed: the seed of the shuffles.

    Returns:
        The mean of distinct-n over the shuffles, by n; None where the cut texts have no n-gram.
    """
    found: dict[int, list[float]] = {n: [] for n in ORDERS}
    generator = numpy.random.default_rng(seed)
    for _ in range(SHUFFLES):
        cut: list[Sequence[str]] = []
        left = size
        for at in generator.permutation(len(texts)):
            cut.append(texts[at][:left])
            left -= len(cut[-1])
        for n, values in found.items():
            grams = [gram for text in cut for gram in _ngrams(text, n)]
            if grams:
                values.append(len(set(grams)) / len(grams))
    return {n: sum(values) / len(values) if values else None for n, values in found.items()}


def _ngrams(text: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*(text[begin:] for begin in range(n)), strict=False))


def _condition_quality(
    means: Means, names: list[str], at: int, base: str, variety: dict[int, float | None]
) -> ConditionQuality:
    def difference(column: int) -> Estimate:
        n = int(means.responses[at, column])
        if base not in names:
            return Estimate(None, None, None, n, f"there is no condition {base!r} to compare with")
        if names[at] == base:
            return Estimate(None, None, None, n, "the condition itself")
        return means.difference(at, names.index(base), column)

    length, ended, repeated, log_perplexity = (means.estimate(at, column) for column in range(4))
    return ConditionQuality(
        row=names[at],
        n=int(means.responses[at, 0]),
        words=length,
        finished=ended,
        distinct=variety,
        repetition=repeated,
        perplexity=_mapped(math.exp, log_perplexity),
        words_difference=difference(0),
        finished_difference=difference(1),
        repetition_difference=difference(2),
        perplexity_ratio=_mapped(math.exp, difference(3)),
    )


def _mapped(function: Callable[[float], float], one: Estimate) -> Estimate:
    """Apply a rising function to an estimate and to both ends of its interval."""
    value, low, high = (None if x is None else function(x) for x in (one.value, one.low, one.high))
    return replace(one, value=value, low=low, high=high)
