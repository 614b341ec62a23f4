"""Test the figures and the report of an evaluation."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from evaluation_records import PLAIN, synthetic
from head_cases import head_case
from sra_fast.training.pipeline.evaluation.analysis import AnalysisError
from sra_fast.training.pipeline.evaluation.evaluation_report import (
    REPORT,
    RESULTS,
    Findings,
    write_report,
)
from sra_fast.training.pipeline.evaluation.figures import HEADS, write_figures
from sra_fast.training.pipeline.evaluation.heads import analyse_heads
from sra_fast.training.pipeline.evaluation.language_quality import analyse_quality
from sra_fast.training.pipeline.evaluation.relation import analyse, table_of_conditions


def test_report_and_figures(tmp_path: Path) -> None:
    records = [replace(one, text="a secret sentence of hers") for one in synthetic()]
    analysis = analyse(records)
    heads = analyse_heads(**head_case(0.6), draws=60)
    figures = write_figures(tmp_path, analysis, "paper", heads)
    assert len(figures) == 5
    for name in figures:
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    ablated = [replace(one, row="standard, best heads ablated") for one in records[::4]]
    findings = Findings(
        analysis,
        "paper",
        analyse_quality(records),
        heads,
        table_of_conditions([*records[::4], *ablated]),
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
    assert "published, Llama2-7B-chat: SRA (table1) | 8 | 0.914 [–] | 0.848 [–]" in page
    assert "- a smaller \\*model\\*" in page
    assert "- 3 replies are empty" in page
    assert "## Without the best heads" in page
    assert "one of the same condition and strategy that does not" in page
    assert "dialogues that share their strategies and conditions with another" in page
    assert "Of heads with an AUC of 0.7 planted at random," in page
    assert '"d0"' not in json.dumps(results["heads"])  # thousands of dialogues would be clutter
    accuracy = results["analysis"]["rows"][0]["accuracy"]
    assert f"{accuracy['value']:.3f} [{accuracy['low']:.3f}, {accuracy['high']:.3f}]" in page
    assert results["published"]["Llama3-8B-instruct"]["rows"][0]["accuracy"] == 0.594
    assert all(f"]({name})" in page for name in figures)


def test_one_response_gives_gaps_and_no_numbers(tmp_path: Path) -> None:
    records = [replace(PLAIN, sra={"paper": math.nan}, lookback=math.nan, perplexity=None)]
    analysis = analyse(records)
    figures = write_figures(tmp_path, analysis, "paper")
    assert HEADS not in figures
    write_report(tmp_path, Findings(analysis, "paper", analyse_quality(records)), figures)
    page = (tmp_path / REPORT).read_text(encoding="utf-8")
    assert "| standard | 1 | 1.000 [–] | – | – | – | – | – |" in page
    assert "no response with a value" in page
    assert "a single dialogue, so there is no interval" in page
    assert not list(tmp_path.glob(".*"))


def test_an_unknown_definition_is_named(tmp_path: Path) -> None:
    with pytest.raises(AnalysisError, match="'table1'; they have paper, mass, lookback"):
        write_figures(tmp_path, analyse([PLAIN]), "table1")
