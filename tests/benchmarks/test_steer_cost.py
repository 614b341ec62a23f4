"""Test that the benchmark of steering runs through, and that wrong logits get no ratio."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from benchmarks.cpu import steer_cost
from sra_fast.files.models import find_model
from tiny_chat_model import save_tiny_model


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    model: Path = save_tiny_model(tmp_path_factory.mktemp("tiny") / "model")
    return ["--model", str(model), "--tokens", "64", "--rounds", "2"]


def test_every_way_of_steering_gets_a_ratio(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(steer_cost, "SHORT", 64)
    assert steer_cost.main(words) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert [line.split("|")[1].strip() for line in lines[2:]] == list(steer_cost.WAYS)


def test_wrong_logits_get_no_ratio(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(steer_cost, "differs", lambda model, way: 0.5)
    assert steer_cost.main(words) == 1
    assert "off by 5.0e-01" in capsys.readouterr().out


@pytest.mark.parametrize("way", steer_cost.WAYS)
def test_a_model_that_is_not_steered_is_found(
    words: list[str], way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steer_cost, "SHORT", 64)
    model: Any = find_model(words[1]).load("float32", "cpu")
    assert steer_cost.differs(model, way) <= steer_cost.TOLERANCE / 10
    monkeypatch.setattr(steer_cost.sra_fast, "steer", lambda *_, **__: nullcontext())
    assert steer_cost.differs(model, way) > steer_cost.TOLERANCE
