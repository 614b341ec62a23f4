"""Heads, figures and the report of an evaluation."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
from sklearn.metrics import roc_auc_score

from sra_fast.training.evaluation.analysis import AnalysisError
from sra_fast.training.evaluation.figures import HEADS, write_figures
from sra_fast.training.evaluation.heads import HeadsError, analyse_heads, head_aucs
from sra_fast.training.evaluation.quality import analyse_quality
from sra_fast.training.evaluation.relation import analyse, table_of_rows
from sra_fast.training.evaluation.report import REPORT, RESULTS, Findings, write_report
from test_evaluation_relation import PLAIN, synthetic

Case = tuple[Any, Any, list[str], list[str]]


def head_case(signal: float = 0.0, each: int = 4) -> Case:
    """Masses in which head (1, 2) knows who adheres, 60 dialogues in two rows."""
    generator = numpy.random.default_rng(7)
    dialogue = [f"d{i}" for i in range(60) for _ in range(2 * each)]
    row = [name for _ in range(60) for name in ("standard", "c1_hf") for _ in range(each)]
    adherent = generator.random(len(row)) < 0.5
    mass = generator.random((len(row), 3, 4))
    mass[:, 1, 2] += signal * adherent
    mass[numpy.array(row) == "c1_hf"] += 5  # a template that is attended to more
    return mass, adherent, dialogue, row


def test_head_aucs_are_sklearns() -> None:
    mass, adherent, _, _ = head_case()
    mass = numpy.round(mass, 1)  # ties
    found = head_aucs(mass, adherent, ["one"] * len(mass))
    assert found is not None
    for layer, head in numpy.ndindex(3, 4):
        truth = roc_auc_score(adherent, mass[:, layer, head])
        assert found[layer, head] == pytest.approx(truth, abs=1e-12)


def test_a_difference_between_rows_is_no_prediction() -> None:
    mass, adherent, _, row = head_case()
    adherent = numpy.array([name == "c1_hf" for name in row]) ^ (numpy.arange(len(row)) % 5 == 0)
    assert roc_auc_score(adherent, mass[:, 0, 0]) > 0.75
    found = head_aucs(mass, adherent, row)
    assert found is not None
    assert abs(found[0, 0] - 0.5) < 0.1


def test_the_head_that_knows_is_found_on_other_dialogues() -> None:
    mass, adherent, dialogue, row = head_case(signal=0.6)
    found = analyse_heads(mass, adherent, dialogue, row, best=3, draws=200)
    best = found.best[0]
    assert (best.layer, best.head) == (1, 2)
    assert found.measured[1][2] == best.measured.value
    assert best.measured.low is not None
    assert best.measured.low > 0.7
    assert (found.beyond, len(found.best)) == (1, 3)
    assert found.threshold is not None
    assert 0 < found.threshold < 0.25
    assert (found.dialogues, found.responses) == ((30, 30), (240, 240))
    assert found == analyse_heads(mass, adherent, dialogue, row, best=3, draws=200)


def test_chance_alone_rarely_exceeds_its_threshold() -> None:
    """Of 40 analyses without any signal, about 5% find a head; 8 would be a probability of 0.1%."""
    found = 0
    for seed in range(40):
        mass, _, dialogue, row = head_case()
        generator = numpy.random.default_rng(100 + seed)
        adherent = generator.random(len(row)) < 0.5
        one = analyse_heads(mass, adherent, dialogue, row, best=1, draws=2, seed=seed)
        found += bool(one.beyond)
    assert found < 8


def test_what_heads_cannot_say_is_named() -> None:
    mass, adherent, dialogue, row = head_case(each=1)
    found = analyse_heads(mass, adherent, dialogue, row, draws=20)
    assert (found.threshold, found.beyond, found.shuffled) == (None, None, 0)
    assert "cannot be shuffled" in found.gaps[0]
    none = analyse_heads(mass, numpy.ones(len(row), dtype=bool), dialogue, row, draws=20)
    assert (none.best, none.median, none.measured[0][0]) == ((), None, None)
    assert len(none.gaps) == 2


def test_wrong_masses_are_refused() -> None:
    mass, adherent, dialogue, row = head_case()
    with pytest.raises(HeadsError, match=r"shape \(480, 12\)"):
        analyse_heads(mass.reshape(480, 12), adherent, dialogue, row)
    with pytest.raises(HeadsError, match="row has 479 values for 480"):
        analyse_heads(mass, adherent, dialogue, row[:-1])
    mass[7, 2, 3] = numpy.nan
    with pytest.raises(HeadsError, match=r"mass\[7, 2, 3\] is nan"):
        analyse_heads(mass, adherent, dialogue, row)


def test_report_and_figures(tmp_path: Path) -> None:
    records = [replace(one, text="a secret sentence of hers") for one in synthetic()]
    mass, adherent, dialogue, row = head_case(0.6)
    analysis = analyse(records, draws=60)
    heads = analyse_heads(mass, adherent, dialogue, row, draws=60)
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
        table_of_rows([*records[::4], *ablated], draws=60),
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
    with pytest.raises(AnalysisError, match="'table1'; there is paper, mass, lookback"):
        write_figures(tmp_path, analyse([PLAIN], draws=5), "table1")
