"""Test what is computed from records: Table 1, correlations over conditions, AUC, language."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from evaluation_records import PLAIN, brute_force_auc, synthetic
from sra_fast.report.comparison import mean_sra
from sra_fast.tools.grouped import numbered
from sra_fast.tools.intervals import mean_interval
from sra_fast.training.pipeline.evaluation.analysis import AnalysisError
from sra_fast.training.pipeline.evaluation.condition_correlation import (
    leave_one_out,
)
from sra_fast.training.pipeline.evaluation.group_means import group_means
from sra_fast.training.pipeline.evaluation.language_quality import (
    analyse_quality,
    distinct,
    repetition,
    words,
)
from sra_fast.training.pipeline.evaluation.published import PUBLISHED, published_relation
from sra_fast.training.pipeline.evaluation.ranking import (
    auc,
    aucs_of_ranks,
    stratum_ranks,
    weighted_auc,
)
from sra_fast.training.pipeline.evaluation.records import Record, RecordError, write_records
from sra_fast.training.pipeline.evaluation.relation import analyse, table_of_conditions


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return synthetic()


def test_records_are_written_as_they_are(tmp_path: Path) -> None:
    unknown = replace(
        PLAIN, sra={"paper": math.nan}, lookback=math.nan, perplexity=None, language="de"
    )
    write_records(tmp_path / "records.jsonl", [PLAIN, unknown])
    content = (tmp_path / "records.jsonl").read_text()
    assert "NaN" not in content
    first, second = (json.loads(line) for line in content.splitlines())
    assert Record(**first) == PLAIN
    nothing = {"sra": {"paper": None}, "lookback": None, "perplexity": None, "language": "de"}
    assert second == {**first, **nothing}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"turn": 0}, "turn must be at least 1"),
        ({"tokens": -1}, "tokens must be at least 0"),
        ({"probability": 1.5}, "probability must be in"),
        ({"lookback": 2.0}, "lookback must be"),
        ({"sra": {"paper": -1.0}}, "sra.'paper'. must be"),
        ({"perplexity": 0.0}, "perplexity must be"),
    ],
)
def test_a_record_that_cannot_be_names_its_field(change: dict[str, Any], says: str) -> None:
    with pytest.raises(RecordError, match=f"condition 'standard', item '{PLAIN.item}': {says}"):
        replace(PLAIN, **change)


def test_auc_is_sklearns_with_ties() -> None:
    generator = numpy.random.default_rng(0)
    scores = generator.integers(0, 12, 90).astype(float)
    positive = generator.random(90) < 0.4
    strata = generator.integers(0, 3, 90)
    one = numpy.zeros(90, dtype=numpy.int64)
    ones = numpy.ones((1, 90))
    assert weighted_auc(scores, positive, one, ones)[0] == pytest.approx(
        roc_auc_score(positive, scores), abs=1e-12
    )
    truth = brute_force_auc(scores, positive, strata)
    assert weighted_auc(scores, positive, strata, ones)[0] == pytest.approx(truth, abs=1e-12)


def test_aucs_of_ranks_are_those_of_all_pairs() -> None:
    generator = numpy.random.default_rng(4)
    scores = generator.integers(0, 9, (60, 5)).astype(float)
    strata = generator.integers(0, 4, 60)
    positive = generator.random(60) < 0.4
    other = positive.copy()
    for stratum in range(4):
        other[strata == stratum] = generator.permutation(positive[strata == stratum])
    found = aucs_of_ranks(stratum_ranks(scores, strata), numpy.stack([positive, other]), strata)
    assert found is not None
    for labels, aucs in zip((positive, other), found, strict=True):
        truth = [brute_force_auc(column, labels, strata) for column in scores.T]
        assert aucs == pytest.approx(truth, abs=1e-12)
    assert aucs_of_ranks(stratum_ranks(scores, strata), strata[None] > 1, strata) is None


def test_weights_of_auc_are_repetitions() -> None:
    generator = numpy.random.default_rng(1)
    scores, positive = generator.integers(0, 6, 40).astype(float), generator.random(40) < 0.5
    counts = generator.integers(0, 4, (3, 40))
    found = weighted_auc(scores, positive, numpy.zeros(40, dtype=int), counts.astype(float))
    for weights, value in zip(counts, found, strict=True):
        again = numpy.repeat(numpy.arange(40), weights)
        assert value == pytest.approx(roc_auc_score(positive[again], scores[again]), abs=1e-12)


def test_means_of_groups_are_those_of_their_responses() -> None:
    dialogues = ["a", "a", "b", "c", "c", "c"]
    column = numpy.array([1.0, 2.0, 4.0, numpy.nan, 8.0, 16.0])
    group = numpy.array([0, 1, 0, 0, 1, 1])
    means = group_means(column[:, None], group, 2, numbered(dialogues)[0])
    assert means.values[:, 0].tolist() == [2.5, 26 / 3]
    assert means.responses[:, 0].tolist() == [2, 3]
    assert means.dialogues[:, 0].tolist() == [2, 2]
    few = means.estimate(0, 0)
    assert (few.value, few.low, few.n) == (2.5, None, 2)
    assert few.why == "fewer than 8 dialogues, too few for an interval that holds"


def test_table_1_by_hand() -> None:
    sra = {"standard": [0.001, 0.003], "c1_hf": [0.004, math.nan]}
    hand = [
        replace(
            PLAIN,
            row=row,
            dialogue=str(at),
            predicted="Offer Hope" if hit else "Clarification",
            sra={"paper": sra[row][at]},
        )
        for row, hits in (("standard", (0, 1)), ("c1_hf", (1, 1)))
        for at, hit in enumerate(hits)
    ]
    standard, c1 = table_of_conditions(hand)
    assert (standard.accuracy.value, c1.accuracy.value) == (0.5, 1.0)
    assert standard.scores["paper"].value == pytest.approx(0.002)
    assert standard.log_scores["paper"].value == pytest.approx(math.log(0.002))
    assert (c1.scores["paper"].value, c1.scores["paper"].n) == (0.004, 1)
    assert c1.accuracy_difference.value == 0.5
    assert c1.score_differences["paper"].value == pytest.approx(0.002)
    assert c1.accuracy.high == 1.0
    assert 0 < (c1.accuracy.low or 0) < 0.5  # two of two say little
    assert "single dialogue" in (c1.scores["paper"].why or "")
    assert standard.auc["paper"].value == 1.0
    assert "every response adheres" in (c1.auc["paper"].why or "")


def test_differences_are_paired(records: list[Record]) -> None:
    """Copy a condition: it differs from the original by nothing, in every dialogue."""
    copied = [replace(one, row="copy") for one in records if one.row == "standard"]
    row = next(one for one in table_of_conditions([*records, *copied]) if one.row == "copy")
    assert (row.accuracy_difference.value, row.accuracy_difference.low) == (0.0, None)
    assert "the same without any of the dialogues" in (row.accuracy_difference.why or "")
    tuned = table_of_conditions(records)[-1].accuracy_difference
    assert tuned.low is not None
    assert 0 < tuned.low < (tuned.value or 0) < (tuned.high or 0)


def test_relation_over_conditions_is_scipys_of_their_means(records: list[Record]) -> None:
    found = analyse(records)
    sra = [row.scores["paper"].value for row in found.rows]
    accuracy = [row.accuracy.value for row in found.rows]
    relation = found.over_rows["paper"]
    truth = stats.pearsonr(sra, accuracy).statistic
    assert relation.pearson.r == pytest.approx(truth, abs=1e-12)
    log = stats.pearsonr(numpy.log(sra), accuracy).statistic
    assert relation.pearson_log.r == pytest.approx(log, abs=1e-12)
    assert relation.spearman.r == pytest.approx(stats.spearmanr(sra, accuracy).statistic, abs=1e-12)
    assert relation.pearson.low is not None
    assert relation.pearson.low < truth < (relation.pearson.high or 2)


def test_turns_and_strategies_are_plain_means(records: list[Record]) -> None:
    found = analyse(records)
    for turn in found.turns:
        mine = [one for one in records if (one.row, one.turn) == (turn.row, turn.turn)]
        assert turn.accuracy.value == pytest.approx(numpy.mean([one.adherent for one in mine]))
        assert turn.scores["mass"].value == pytest.approx(
            numpy.mean([one.sra["mass"] for one in mine])
        )
    for group in found.strategies:
        mine = [one for one in records if one.strategy == group.name]
        assert group.accuracy.n == len(mine)
        by_row: dict[str, list[Record]] = {}
        for one in mine:
            by_row.setdefault(one.row, []).append(one)
        sra = [numpy.mean([one.sra["paper"] for one in row]) for row in by_row.values()]
        accuracy = [numpy.mean([one.adherent for one in row]) for row in by_row.values()]
        truth = stats.pearsonr(sra, accuracy).statistic
        assert group.over_rows["paper"].r == pytest.approx(truth, abs=1e-12)


def test_aucs_compare_pairs_of_one_condition_and_strategy() -> None:
    made = synthetic(languages=("en", "de"))
    found = analyse(made)
    for groups, name in (
        (found.rows, "row"),
        (found.strategies, "strategy"),
        (found.languages, "language"),
    ):
        for group in groups:
            called = getattr(group, "row" if name == "row" else "name")
            mine = [one for one in made if getattr(one, name) == called]
            truth = brute_force_auc(
                [one.sra["paper"] for one in mine],
                [one.adherent for one in mine],
                [(one.row, one.strategy) for one in mine],
            )
            assert group.auc["paper"].value == pytest.approx(truth, abs=1e-12)


def test_a_longer_name_that_is_followed_more_is_no_prediction() -> None:
    """Let mass grow with the strategy's name, which must not count within a strategy."""
    generator = numpy.random.default_rng(6)
    made = [
        replace(
            one,
            sra={"mass": float((1 + 4 * long) * generator.uniform(0.01, 0.02))},
            predicted=one.strategy if generator.random() < (0.9 if long else 0.1) else "-",
        )
        for one in synthetic(dialogues=300)
        for long in [one.strategy == "Clarification"]
    ]
    found = analyse(made)
    for row in found.rows:
        mine = [one for one in made if one.row == row.row]
        pooled = roc_auc_score([one.adherent for one in mine], [one.sra["mass"] for one in mine])
        assert pooled > 0.8
        assert row.auc["mass"].value == pytest.approx(0.5, abs=0.1)


def test_languages_need_two() -> None:
    assert analyse(synthetic(languages=("en",))).languages == ()
    found = analyse(synthetic(languages=("en", "de", None))).languages
    assert [group.name for group in found] == ["en", "de"]
    assert sum(group.accuracy.n for group in found) == 2 * 120


def test_what_is_undefined_has_a_reason(records: list[Record]) -> None:
    constant = [replace(one, sra={"paper": 0.001, "mass": math.nan}) for one in records]
    found = analyse(constant, base="c5_hl")
    assert found.over_rows["paper"].pearson.r is None
    assert "score constant" in (found.over_rows["paper"].pearson.why or "")
    assert "4 of 4 conditions without a value" in (found.over_rows["mass"].pearson.why or "")
    row = found.rows[0]
    assert row.auc["paper"].value == 0.5  # all ties
    assert (row.scores["mass"].value, row.scores["mass"].why) == (None, "no response with a value")
    assert "no condition 'c5_hl'" in (row.accuracy_difference.why or "")
    two = analyse([one for one in records if one.row in ("standard", "c1_hf")])
    assert "2 conditions" in (two.over_rows["paper"].pearson.why or "")
    with pytest.raises(AnalysisError, match="no records"):
        analyse([])


def test_auc_without_pairs_of_one_stratum_is_undefined() -> None:
    strata, positive = numpy.array([0, 1]), numpy.array([True, False])
    found = auc(
        numpy.array([1.0, 2.0]), positive, strata, numpy.array([0, 1]), numpy.array([True, True])
    )
    assert found.value is None
    assert "no condition and strategy has both" in (found.why or "")


# The published SRA has few digits, so the third decimal of r is what the table gives, no more.
@pytest.mark.parametrize("model", list(PUBLISHED))
def test_published_correlations_are_scipys(model: str) -> None:
    rows = PUBLISHED[model]
    accuracy = [row.accuracy for row in rows]
    found = published_relation(model)
    for one, column, truth in (
        (found.pearson, [row.sra for row in rows], stats.pearsonr),
        (found.pearson_log, [row.log_sra for row in rows], stats.pearsonr),
        (found.spearman, [row.sra for row in rows], stats.spearmanr),
    ):
        assert one.r == pytest.approx(truth(column, accuracy).statistic, abs=1e-12)
        assert (one.n, one.low) == (8, None)
        assert one.why


def test_language_by_hand() -> None:
    spoken = words("Don't — worry, “it” is OK... 2 人は")
    assert spoken == ["don't", "worry", "it", "is", "ok", "2", "人", "は"]
    assert words("हिन्दी है।") == ["हिन्दी", "है"]
    assert repetition(["a", "b", "c"]) is None
    assert repetition([*"abcdabcd"]) == pytest.approx(1 / 5)
    assert distinct([["a", "b", "a", "b"]], 4, 0) == {1: 0.5, 2: pytest.approx(2 / 3), 3: 1.0}
    assert distinct([["a"], ["a"]], 2, 0) == {1: 0.5, 2: None, 3: None}


def test_quality_against_the_base_row() -> None:
    generator = numpy.random.default_rng(0)
    made = []
    for at in range(40):
        text = " ".join(generator.permutation([f"w{i}" for i in range(12)]))
        made.append(replace(PLAIN, dialogue=str(at), text=text, perplexity=float(4 + at % 3)))
        broken = " ".join(["so", "it", "goes", "on"] * (4 + at % 2))
        made.append(replace(made[-1], row="fine-tuned", text=broken, perplexity=2.0))
    base, tuned = analyse_quality(made).rows
    assert base.words.value == 12.0
    assert tuned.words_difference.value == pytest.approx(18 - 12)
    assert base.perplexity.value == pytest.approx(
        stats.gmean([one.perplexity or 0 for one in made if one.row == "standard"])
    )
    assert tuned.perplexity_ratio.value == pytest.approx(2 / (base.perplexity.value or 1))
    assert tuned.perplexity_ratio.high is not None
    assert tuned.perplexity_ratio.high < 1
    assert (tuned.repetition.value or 0) > 0.6
    assert base.repetition.value == 0.0
    assert (tuned.distinct[1] or 1) < (base.distinct[1] or 0)
    assert (base.distinct[1] or 0) == pytest.approx(12 / 480)


def test_distinct_compares_rows_of_different_size() -> None:
    """Expect about the same distinct-1 for a condition of like language, ten times as long."""
    generator = numpy.random.default_rng(3)

    def text() -> str:
        return " ".join(f"w{i}" for i in generator.integers(0, 400, 30))

    small = [replace(PLAIN, dialogue=str(i), text=text()) for i in range(30)]
    large = [replace(PLAIN, row="c1_hf", dialogue=str(i), text=text()) for i in range(300)]
    found = analyse_quality([*small, *large])
    assert found.distinct_words == 900
    one, other = (row.distinct[1] or 0 for row in found.rows)
    assert one == pytest.approx(other, abs=0.03)


def test_empty_texts_are_a_gap() -> None:
    made = [
        replace(PLAIN, dialogue=str(at), row=row, text=text, perplexity=None)
        for at in range(3)
        for row, text in (("standard", "a b c d e"), ("fine-tuned", "…"))
    ]
    base, tuned = analyse_quality(made).rows
    assert tuned.distinct == {1: None, 2: None, 3: None}
    assert tuned.repetition.value is None
    assert base.perplexity.why == "no response with a value"
    with pytest.raises(AnalysisError, match="no record has a text"):
        analyse_quality([replace(PLAIN, text="")])


def test_what_hangs_on_one_condition_shows() -> None:
    scores, accuracy = [1.0, 2.0, 3.0, 10.0, math.nan], [0.3, 0.2, 0.1, 0.9, 0.5]
    found = leave_one_out(["a", "b", "c", "far", "unknown"], scores, accuracy)
    assert list(found) == ["a", "b", "c", "far"]
    assert found["far"] == pytest.approx(-1.0)
    for row in ("a", "b", "c"):
        others = [at for at in range(4) if "abcf"[at] != row[0]]
        truth = stats.pearsonr(
            [scores[at] for at in others], [accuracy[at] for at in others]
        ).statistic
        assert found[row] == pytest.approx(truth)
        assert truth > 0.8
    assert leave_one_out(["a", "b"], [1.0, 2.0], [0.1, 0.2]) == {"a": None, "b": None}


def test_the_published_relation_hangs_on_no_single_row() -> None:
    for model in PUBLISHED:
        without = published_relation(model).without
        assert set(without) == {row.row for row in PUBLISHED[model]}
        assert min(r for r in without.values() if r is not None) > 0.6


def test_an_evaluation_a_comparison_and_a_mean_have_one_interval(records: list[Record]) -> None:
    """The same responses: the three ways to ask give the same numbers."""
    mine = [one for one in records if one.row == "standard"]
    scores, dialogues = [one.sra["paper"] for one in mine], [one.dialogue for one in mine]
    evaluated = analyse(mine).rows[0].scores["paper"]
    rows = [{"sra": sra, "dialogue": name} for sra, name in zip(scores, dialogues, strict=True)]
    rate = mean_interval(scores, dialogues)
    for found in (evaluated, mean_sra(rows).mean):
        assert (found.value, found.low, found.high) == pytest.approx(
            (rate.value, rate.low, rate.high), rel=1e-12
        )
        assert found.n == rate.n
