"""Test the heads, the figures and the report of an evaluation."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
from sklearn.metrics import roc_auc_score

from evaluation_records import PLAIN, brute_force_auc, synthetic
from sra_fast.training.pipeline.evaluation.analysis import AnalysisError
from sra_fast.training.pipeline.evaluation.evaluation_report import (
    REPORT,
    RESULTS,
    Findings,
    write_report,
)
from sra_fast.training.pipeline.evaluation.figures import HEADS, write_figures
from sra_fast.training.pipeline.evaluation.heads import HeadsError, analyse_heads, halves
from sra_fast.training.pipeline.evaluation.language_quality import analyse_quality
from sra_fast.training.pipeline.evaluation.relation import analyse, table_of_conditions

STRATEGIES = ("Affirmation", "Reflection of feelings", "Question")


def head_case(signal: float = 0.0, dialogues: int = 60, seed: int = 7) -> dict[str, Any]:
    """Make masses of which head (1, 2) knows who adheres: 3 items per dialogue, two conditions.

    Strategies and conditions differ in mass; strategies and items differ in adherence; heads differ
    in nothing else.
    """
    generator = numpy.random.default_rng(seed)
    items = 3 * dialogues
    asked = generator.integers(3, size=items)
    willing = numpy.array([0.8, 0.5, 0.2])[asked] + generator.uniform(-0.2, 0.2, items)
    adherent = generator.random((2, items)) < willing
    mass = generator.random((2, items, 3, 4)) + generator.random((1, items, 3, 4))
    mass[:, :, 1, 2] += signal * adherent
    mass += 3 * asked[:, None, None]  # a longer name
    mass[1] += 7  # a template that is attended to more
    return {
        "mass": mass.reshape(2 * items, 3, 4),
        "adherent": adherent.ravel(),
        "dialogue": [f"d{i // 3}" for i in range(items)] * 2,
        "condition": ["standard"] * items + ["c1_hf"] * items,
        "strategy": [STRATEGIES[one] for one in asked] * 2,
        "item": [f"i{i}" for i in range(items)] * 2,
    }


def of_dialogues(case: dict[str, Any], chosen: frozenset[object]) -> dict[str, Any]:
    kept = [at for at, one in enumerate(case["dialogue"]) if one in chosen]
    return {name: [column[at] for at in kept] for name, column in case.items()}


def test_aucs_of_heads_are_those_of_all_pairs_of_one_condition_and_strategy() -> None:
    case = head_case(signal=0.3, dialogues=20)
    case["mass"] = numpy.round(case["mass"], 1)  # ties
    found = analyse_heads(**case, best=12, draws=20)
    choose, measure = halves(case["dialogue"], found.seed)
    for half in (choose, measure):
        mine = of_dialogues(case, half)
        strata = list(zip(mine["condition"], mine["strategy"], strict=True))
        for one in found.best:
            column = numpy.array(mine["mass"])[:, one.layer, one.head]
            truth = brute_force_auc(column, mine["adherent"], strata)
            if half is choose:
                assert one.chosen == pytest.approx(truth, abs=1e-12)
            else:
                assert one.measured.value == pytest.approx(truth, abs=1e-12)
                assert found.measured[one.layer][one.head] == pytest.approx(truth, abs=1e-12)


def test_halves_part_whole_dialogues_by_the_seed_alone() -> None:
    dialogue = head_case()["dialogue"]
    choose, measure = halves(dialogue)
    assert (len(choose), len(measure), choose & measure) == (30, 30, frozenset())
    assert halves(dialogue) == (choose, measure)
    assert halves(dialogue, seed=1) != (choose, measure)


def test_a_model_that_always_affirms_has_no_head_that_predicts() -> None:
    """Let adherence go with the strategy alone, as mass does: no head knows more than that."""
    case = head_case()
    slip = numpy.random.default_rng(1).random(180) < 0.1
    affirms = numpy.array(case["strategy"]) == "Affirmation"
    case["adherent"] = affirms ^ numpy.tile(slip, 2)
    for name in ("standard", "c1_hf"):
        mine = numpy.array(case["condition"]) == name
        assert roc_auc_score(case["adherent"][mine], case["mass"][mine, 0, 0]) < 0.25
    found = analyse_heads(**case, draws=50)
    assert found.median == pytest.approx(0.5, abs=0.1)
    assert found.beyond == 0


def test_the_head_that_knows_is_found_on_other_dialogues() -> None:
    case = head_case(signal=0.8)
    found = analyse_heads(**case, best=3, draws=200)
    best = found.best[0]
    assert (best.layer, best.head) == (1, 2)
    assert found.measured[1][2] == best.measured.value
    assert best.measured.low is not None
    assert best.measured.low > 0.7
    assert (found.beyond, len(found.best)) == (1, 3)
    assert found.threshold is not None
    assert 0 < found.threshold < 0.25
    assert (found.dialogues, found.responses) == ((30, 30), (180, 180))
    assert found.shuffled == 180
    assert found == analyse_heads(**case, best=3, draws=200)


def test_chance_alone_exceeds_its_threshold_in_one_of_twenty_analyses() -> None:
    """Expect a head in 7.5 ± 2.7 of 150 analyses; the second condition repeats the first."""
    found = 0
    for seed in range(150):
        case = head_case(seed=100 + seed)
        case["adherent"][180:] = case["adherent"][:180]
        case["mass"][180:] = case["mass"][:180]
        found += bool(analyse_heads(**case, best=0, permutations=99, seed=seed).beyond)
    assert 1 <= found <= 15


def test_items_answered_in_other_conditions_do_not_exchange_their_labels() -> None:
    """Give each condition's items with one answer the same label, so that only pairs move."""
    case = {
        "mass": numpy.arange(12.0).reshape(12, 1, 1),
        "adherent": [True, False, True, True, False, False] * 2,
        "dialogue": ["first"] * 6 + ["other"] * 6,
        "condition": ["a", "a", "b", "b", "a", "b"] * 2,
        "strategy": ["Question"] * 12,
        "item": [f"{half}{at}" for half in "xy" for at in (0, 1, 0, 1, 2, 3)],
    }
    found = analyse_heads(**case, draws=5, permutations=50)
    assert found.measured[0][0] is not None
    assert found.shuffled == 2  # condition a of items 0 and 1; both adhere in condition b


def test_what_heads_cannot_say_is_named() -> None:
    case = head_case()
    alone = case | {"strategy": case["item"], "condition": [f"{i}" for i in range(360)]}
    found = analyse_heads(**alone, draws=20)
    assert (found.best, found.median, found.measured[0][0]) == ((), None, None)
    assert len(found.gaps) == 2
    assert "no condition and strategy with both" in found.gaps[0]
    # Each dialogue's two items of the only strategy are answered under other conditions besides
    # "c1_hf".
    apart = {
        "mass": [[[float(at)]] for at in range(8)],
        "adherent": [True, False, True, False] * 2,
        "dialogue": ["d0"] * 4 + ["d1"] * 4,
        "condition": ["c1_hf", "c1_hf", "standard", "c2_hf"] * 2,
        "strategy": ["Question"] * 8,
        "item": ["i0", "i1", "i0", "i1", "i2", "i3", "i2", "i3"],
    }
    found = analyse_heads(**apart, draws=20)
    assert (found.threshold, found.beyond, found.shuffled) == (None, None, 0)
    assert found.measured[0][0] == 0.0
    assert "labels cannot be shuffled" in found.gaps[0]


def test_wrong_masses_are_refused() -> None:
    case = head_case()
    mass = case["mass"]
    with pytest.raises(HeadsError, match=r"shape \(360, 12\)"):
        analyse_heads(**case | {"mass": mass.reshape(360, 12)})
    for name in ("adherent", "dialogue", "condition", "strategy", "item"):
        with pytest.raises(HeadsError, match=f"{name} has 359 values for 360"):
            analyse_heads(**case | {name: case[name][:-1]})
    case["item"][180:] = ["i0"] * 180
    case["strategy"] = ["Question"] * 360
    with pytest.raises(HeadsError, match=r"mass\[180\] and mass\[181\] .* 'c1_hf' and item 'i0'"):
        analyse_heads(**case)
    mass[7, 2, 3] = numpy.nan
    with pytest.raises(HeadsError, match=r"mass\[7, 2, 3\] is nan"):
        analyse_heads(**case)


def test_report_and_figures(tmp_path: Path) -> None:
    records = [replace(one, text="a secret sentence of hers") for one in synthetic()]
    analysis = analyse(records, draws=60)
    heads = analyse_heads(**head_case(0.6), draws=60)
    figures = write_figures(tmp_path, analysis, "paper", heads)
    assert len(figures) == 5
    for name in figures:
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    ablated = [replace(one, row="standard, best heads ablated") for one in records[::4]]
    findings = Findings(
        analysis,
        "paper",
        analyse_quality(records, draws=60),
        heads,
        table_of_conditions([*records[::4], *ablated], draws=60),
        settings={"model": "tiny | model"},
        deviations=["a smaller *model*"],
        notes=["3 replies are empty"],
    )
    write_report(tmp_path, findings, figures)
    page = (tmp_path / REPORT).read_text(encoding="utf-8")
    results = json.loads((tmp_path / RESULTS).read_text(encoding="utf-8"))
    for text in (page, json.dumps(results)):
        assert "secret" not in text
        assert str(tmp_path) not in text
        assert "NaN" not in text
        assert "nan" not in text.lower().split()
    assert "published, Llama2-7B-chat: SRA (table1) | 8 | 0.914 | 0.848" in page
    assert "- a smaller \\*model\\*" in page
    assert "- 3 replies are empty" in page
    assert "## Without the best heads" in page
    assert "one of the same condition and strategy that does not" in page
    assert "shuffles of adherence among the conversations of one strategy" in page
    assert '"d0"' not in json.dumps(results["heads"])  # thousands of dialogues would be clutter
    accuracy = results["analysis"]["rows"][0]["accuracy"]
    assert f"{accuracy['value']:.3f} [{accuracy['low']:.3f}, {accuracy['high']:.3f}]" in page
    assert results["published"]["Llama3-8B-instruct"]["rows"][0]["accuracy"] == 0.594
    assert all(f"]({name})" in page for name in figures)


def test_one_response_gives_gaps_and_no_numbers(tmp_path: Path) -> None:
    records = [replace(PLAIN, sra={"paper": math.nan}, lookback=math.nan, perplexity=None)]
    analysis = analyse(records, draws=20)
    figures = write_figures(tmp_path, analysis, "paper")
    assert HEADS not in figures
    write_report(tmp_path, Findings(analysis, "paper", analyse_quality(records)), figures)
    page = (tmp_path / REPORT).read_text(encoding="utf-8")
    assert "| standard | 1 | 1.000 | – | – | – | – | – |" in page
    assert "no response with a value" in page
    assert "a single dialogue, so there is no interval" in page
    assert not list(tmp_path.glob(".*"))


def test_an_unknown_definition_is_named(tmp_path: Path) -> None:
    with pytest.raises(AnalysisError, match="'table1'; they have paper, mass, lookback"):
        write_figures(tmp_path, analyse([PLAIN], draws=5), "table1")
