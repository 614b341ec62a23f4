"""The language of the responses beside their adherence: length, variety, repetition, perplexity.

A word is what stands between spaces, in lower case, without the punctuation around it; Han and kana
characters, which are written without spaces, count as a word each.

    distinct-n = distinct n-grams / n-grams, over a row's responses; n-grams do not cross responses.

It falls as a text grows, so every row is cut to the same number of words: that of the row with the
fewest. A row's responses are shuffled (by the seed) and taken whole until the number is reached,
the last one cut; the figure is the mean over five shuffles.

    repetition = 1 − distinct 4-grams / 4-grams of a response, the mean over responses with any.
    perplexity = exp(mean of log perplexity), the geometric mean over responses.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy

from sra_fast.tools.bootstrap import REPORT_DRAWS, REPORT_SEED, Estimate, numbered

from .analysis import AnalysisError
from .records import Record
from .resampling import Means, group_means, resampling

SHUFFLES = 5
ORDERS = (1, 2, 3)

_REPEATED = 4  # words of an n-gram that counts as repeated
_ALONE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_WORD = re.compile(rf"[{_ALONE}]|[^\s{_ALONE}]+")


@dataclass(frozen=True)
class RowQuality:
    """The language of one row's responses.

    Attributes:
        row: its name.
        n: responses.
        words: mean number a response.
        finished: share of the responses that the model ended itself.
        distinct: by n; None where the cut texts have no n-gram.
        repetition: mean share of 4-grams that a response had before.
        perplexity: geometric mean, under the base model.
        words_difference, finished_difference, repetition_difference: from the base row, paired.
        perplexity_ratio: to the base row's.
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
class Quality:
    """Of all rows.

    Attributes:
        base: the row compared with.
        rows: in order of appearance.
        distinct_words: number of words that each row was cut to; rows without a word apart.
        shuffles, draws, seed: of distinct-n, and of the intervals.
    """

    base: str
    rows: tuple[RowQuality, ...]
    distinct_words: int
    shuffles: int
    draws: int
    seed: int


def analyse_quality(
    records: Sequence[Record],
    *,
    base: str = "standard",
    draws: int = REPORT_DRAWS,
    seed: int = REPORT_SEED,
) -> Quality:
    """Measures the texts of the records; arguments as for ``relation.analyse``.

    Raises:
        AnalysisError: there is no record, or all texts are empty.
    """
    texts = [words(record.text) for record in records]
    if not any(texts):
        raise AnalysisError("no record has a text; read the records of the run's own folder")
    row, found = numbered([record.row for record in records])
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
    means = group_means(
        columns, row, len(names), resampling([one.dialogue for one in records], draws, seed)
    )
    by_row = [
        [text for text, at in zip(texts, row, strict=True) if at == i] for i in range(len(names))
    ]
    size = min(total for one in by_row if (total := sum(map(len, one))))
    return Quality(
        base=base,
        rows=tuple(
            _row_quality(means, names, at, base, distinct(own, size, seed))
            for at, own in enumerate(by_row)
        ),
        distinct_words=size,
        shuffles=SHUFFLES,
        draws=draws,
        seed=seed,
    )


def words(text: str) -> list[str]:
    """The words of a text, in lower case."""
    bare = (_without_punctuation(token) for token in _WORD.findall(text.lower()))
    return [word for word in bare if word]


@lru_cache(maxsize=100_000)
def _without_punctuation(token: str) -> str:
    """Without the marks and symbols at both ends; vowel signs and numbers are neither."""
    inside = [at for at, sign in enumerate(token) if unicodedata.category(sign)[0] not in "PSC"]
    return token[inside[0] : inside[-1] + 1] if inside else ""


def repetition(text: Sequence[str]) -> float | None:
    """Share of a text's 4-grams that occurred before in it; None below four words."""
    grams = _ngrams(text, _REPEATED)
    return 1 - len(set(grams)) / len(grams) if grams else None


def distinct(texts: Sequence[Sequence[str]], size: int, seed: int) -> dict[int, float | None]:
    """Distinct-n of texts cut to ``size`` words together; None where they have no n-gram."""
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


def _row_quality(
    means: Means, names: list[str], at: int, base: str, variety: dict[int, float | None]
) -> RowQuality:
    def difference(column: int) -> Estimate:
        n = int(means.counts[at, column])
        if base not in names:
            return Estimate(None, None, None, n, f"there is no row {base!r} to compare with")
        if names[at] == base:
            return Estimate(None, None, None, n, "the row itself")
        return means.difference(at, names.index(base), column)

    length, ended, repeated, log_perplexity = (means.estimate(at, column) for column in range(4))
    return RowQuality(
        row=names[at],
        n=int(means.counts[at, 0]),
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
    """A rising function of an estimate and its interval."""
    value, low, high = (None if x is None else function(x) for x in (one.value, one.low, one.high))
    return replace(one, value=value, low=low, high=high)
