"""Test that the benchmarks of the host run through, and that a wrong result gets no ratio."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.host import call_cost, generate_cost, generation_times, recording_cost
from tiny_chat_model import save_tiny_model


def test_the_cost_of_a_call_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert call_cost.main(["--turns", "3"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert [line.split("|")[1].strip() for line in lines[2:]] == list(call_cost.CALLS)


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    model = save_tiny_model(tmp_path_factory.mktemp("tiny") / "model")
    return ["--model", str(model), "--prompts", "8", "--new", "3", "--rounds", "2"]


@pytest.mark.parametrize("rows", ["1", "3"])
def test_both_ways_generate_the_same_tokens(
    words: list[str], rows: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate_cost.main([*words, "--rows", rows]) == 0
    assert "WRONG" not in capsys.readouterr().out


@pytest.mark.parametrize("rows", ["1", "3"])
def test_recorded_generations_have_the_tokens_of_plain_ones(
    words: list[str], rows: str, capsys: pytest.CaptureFixture[str]
) -> None:
    longer = [word if word != "8" else "50" for word in words]
    assert recording_cost.main([*longer, "--rows", rows]) == 0
    printed = capsys.readouterr().out
    assert all(way in printed for way in recording_cost.WAYS)
    assert "WRONG" not in printed


def test_a_recording_of_other_tokens_gets_no_ratio(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(recording_cost.WAYS, "sdpa", lambda model, batch, **_: batch["input_ids"])
    assert recording_cost.main(words) == 1
    assert "WRONG" in capsys.readouterr().out


def test_other_tokens_get_no_ratio(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = generation_times.find_model
    made: list[Any] = []

    class Wrong:
        """A model that never generates the same tokens twice."""

        def __init__(self, name: str) -> None:
            self.source = find(name)

        def load(self, *given: str) -> Any:
            model = self.source.load(*given)

            def generate(ids: Any, **_: Any) -> Any:
                made.append(ids)
                return torch.full_like(ids, len(made))

            model.generate = generate
            return model

    monkeypatch.setattr(generation_times, "find_model", Wrong)
    assert generate_cost.main(words) == 1
    assert "WRONG" in capsys.readouterr().out
