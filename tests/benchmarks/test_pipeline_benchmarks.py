"""Test that the pipeline's benchmarks run through at tiny sizes, and compare before they time."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tiny_chat_model import save_tiny_model

pytest.importorskip("datasets", reason="needs the package datasets (extra 'train')")
pytest.importorskip("sklearn", reason="needs the package scikit-learn (extra 'pipeline')")

from benchmarks.pipeline import evaluation_cost, generation_speed
from sra_fast.chat.templates import TEMPLATES


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the arguments that both commands share: a file of dialogues and a model."""
    folder = tmp_path_factory.mktemp("inputs")
    speakers = ("seeker", "supporter")
    entries = [
        {
            "situation": f"situation {number}",
            "dialog": [
                {"speaker": speakers[n % 2], "annotation": {}, "content": f"{number} says {n}"}
                for n in range(10)
            ],
        }
        for number in range(6)
    ]
    file = folder / "dialogues.json"
    file.write_text(json.dumps(entries), encoding="utf-8")
    return [str(file), "--model", str(save_tiny_model(folder / "model"))]


def test_evaluation_scores_as_score_does(tmp_path: Path, words: list[str]) -> None:
    settings = ["--conversations", "3", "--rounds", "2", "--dtypes", "float32"]
    assert evaluation_cost.main([*words, *settings, "--out", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "evaluation.json").read_text(encoding="utf-8"))
    (part,) = record["dtypes"]
    assert part["same"]
    assert part["ratio"] > 0
    assert "WRONG" not in (tmp_path / "evaluation.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("nan", [False, True])
def test_a_wrong_score_gives_no_ratio_in_silence(
    tmp_path: Path, words: list[str], monkeypatch: pytest.MonkeyPatch, nan: bool
) -> None:
    right = evaluation_cost.score_replies

    def wrong(model: Any, tokenizer: Any, whole: Any, template: Any, *rest: Any) -> Any:
        if not nan:
            return right(model, tokenizer, whole, TEMPLATES["c1_hf"], *rest)
        result = right(model, tokenizer, whole, template, *rest)
        return SimpleNamespace(scores={n: v * math.nan for n, v in result.scores.items()})

    monkeypatch.setattr(evaluation_cost, "score_replies", wrong)
    settings = ["--conversations", "2", "--rounds", "1", "--dtypes", "float32"]
    assert evaluation_cost.main([*words, *settings, "--out", str(tmp_path)]) == 1
    page = (tmp_path / "evaluation.md").read_text(encoding="utf-8")
    assert "WRONG" in page
    assert ("not finite" in page) == nan
    text = (tmp_path / "evaluation.json").read_text(encoding="utf-8")
    assert "NaN" not in text
    assert not json.loads(text)["dtypes"][0]["same"]


def test_batched_replies_are_those_of_generate(tmp_path: Path, words: list[str]) -> None:
    settings = ["--cuts", "3", "--alone", "2", "--rounds", "1", "--dtypes", "float32"]
    assert generation_speed.main([*words, *settings, "--out", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "generation.json").read_text(encoding="utf-8"))
    (part,) = record["dtypes"]
    assert part["same_replies"]
    assert set(part["ways"]) == {"one by one", "batched", "batched and shared"}
    assert part["ways"]["one by one"]["ratio"] == 1.0


def test_other_replies_give_no_ratio(
    tmp_path: Path, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = generation_speed.draw
    monkeypatch.setattr(
        generation_speed,
        "draw",
        lambda logits, *rest: (right(logits, *rest) + 1) % logits.shape[-1],
    )
    settings = ["--cuts", "2", "--alone", "1", "--rounds", "1", "--dtypes", "float32"]
    assert generation_speed.main([*words, *settings, "--out", str(tmp_path)]) == 1
    assert "WRONG" in (tmp_path / "generation.md").read_text(encoding="utf-8")
