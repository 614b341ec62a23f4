"""Test `sra-fast score --layerwise`: the scores of the whole model, told layer by layer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from sra_fast.chat.conversations import read_conversations
from sra_fast.chat.templates import get_template
from sra_fast.cli.app import app
from sra_fast.files.models import find_model
from sra_fast.files.score_file import FileScorer
from sra_fast.files.scoring_options import ScoringOptions
from sra_fast.result import SRAResult
from tiny_chat_model import save_tiny_model, talk, write_jsonl


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and a file of conversations."""
    folder = tmp_path_factory.mktemp("layerwise")
    save_tiny_model(folder / "tiny")
    write_jsonl(folder / "chats.jsonl", [talk("c1"), talk("c2", 3), talk("c3", 1)])
    return folder


def call(place: Path, *words: object, status: int = 0) -> dict[str, Any]:
    """Return what ``sra-fast score`` prints as JSON, which ends with ``status``."""
    given = ("score", place / "chats.jsonl", "--model", place / "tiny", *words, "--json")
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, list(map(str, given)))
    assert result.exit_code == status, result.output
    printed: dict[str, Any] = json.loads(result.stdout)
    return printed


def test_the_scores_are_those_of_the_whole_model(place: Path, tmp_path: Path) -> None:
    whole = call(place, "--out", tmp_path / "whole")
    layers = call(place, "--layerwise", "--out", tmp_path / "layers")
    assert layers["checked"] == whole["checked"] == "passed"
    one = SRAResult.load(tmp_path / "whole" / "masses.safetensors")
    other = SRAResult.load(tmp_path / "layers" / "masses.safetensors")
    torch.testing.assert_close(one.mass, other.mass, rtol=0, atol=1e-6)
    assert sorted(
        p.name for p in (tmp_path / "layers").iterdir() if not p.name.startswith(".")
    ) == [
        "masses.safetensors",
        "run.json",
        "scores.jsonl",
        "scores.parquet",
    ]


def test_a_run_of_the_other_kind_is_not_continued(place: Path, tmp_path: Path) -> None:
    call(place, "--out", tmp_path / "out")
    assert "'layerwise'" in call(place, "--layerwise", "--out", tmp_path / "out", status=1)["error"]


def test_weights_that_may_be_missing_are_refused(place: Path, tmp_path: Path) -> None:
    words = ("--layerwise", "--allow-missing", "--out", tmp_path / "out")
    assert "may lack weights (allow_missing)" in call(place, *words, status=1)["error"]


def test_progress_is_told_after_each_layer_and_adds_up(place: Path, tmp_path: Path) -> None:
    file = place / "chats.jsonl"
    options = ScoringOptions(layerwise=True, device="cpu", batch_tokens=1)
    scorer = FileScorer(find_model(str(place / "tiny")), file, options)
    job = scorer.prepare(
        "score", tmp_path / "out", read_conversations(file), get_template("standard"), "all"
    )
    told: list[int] = []
    scorer.run([job], lambda job, tokens: told.append(tokens))
    assert sum(told) == job.tokens
    layers = 2
    assert len(told) == len(job.prompts) * (layers + 1)  # and one when a batch is written
    assert told[2::3] == [0] * len(job.prompts)
