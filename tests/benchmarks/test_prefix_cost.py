"""Test that the benchmark of shared prefixes runs through, and that wrong scores get no ratio."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.cpu import prefix_cost
from tiny_chat_model import save_tiny_model


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    model: Path = save_tiny_model(tmp_path_factory.mktemp("tiny") / "model")
    return ["--model", str(model), "--messages", "8", "--rounds", "1", "--batches", "c1_hf"]


def test_it_says_how_many_fewer_tokens_there_are(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(prefix_cost, "in_fresh_process", lambda *given: 2**20)
    assert prefix_cost.main([*words, prefix_cost.UNLIKE]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    cells = {row[1]: row[2:] for line in lines[2:] for row in [line.replace(" ", "").split("|")]}
    assert float(cells["c1_hf"][1]) > 1.5
    assert float(cells[prefix_cost.UNLIKE][1]) < 1.1  # a token of this model is a byte
    assert cells["c1_hf"][5] == "1MB→1MB"


def test_peak_memory_is_that_of_one_score(words: list[str]) -> None:
    assert prefix_cost.in_fresh_process(prefix_cost.peak, words[1], 4, "c1_hf", True) >= 0


def test_wrong_scores_get_no_ratio(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(prefix_cost, "TOLERANCE", -1.0)
    assert prefix_cost.main(words) == 1
    assert "the scores differ by" in capsys.readouterr().out
