"""Test that every command that scores can leave the check of the model out, and says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from sra_fast.cli.app import app
from tiny_chat_model import save_tiny_model, talk, write_jsonl

REPLYING = ("--no-perplexity", "--max-new-tokens", "4", "--device", "cpu")
COMMANDS = {
    "score": (),
    "compare": ("--templates", "standard"),
    "evaluate": ("--templates", "standard", *REPLYING),
}


def call(*words: object, status: int = 0) -> dict[str, Any]:
    """Return what a command prints as JSON, which ends with ``status``."""
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, [*map(str, words), "--json"])
    assert result.exit_code == status, result.output
    printed: dict[str, Any] = json.loads(result.stdout)
    return printed


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_model_that_differs_is_refused_with_the_way_out(
    tmp_path: Path, model: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if command == "evaluate":
        pytest.importorskip("sklearn", reason="needs the package sklearn (extra 'pipeline')")

    monkeypatch.setattr("sra_fast.measure.self_check.TOLERANCE", -1.0)  # no difference passes
    monkeypatch.setattr("sra_fast.measure.self_check._CHECKED", {})
    chats = write_jsonl(tmp_path / "chats.jsonl", [talk("c1", 1), talk("c2", 1)])
    words = (command, chats, "--model", model, "--out", tmp_path / "out", *COMMANDS[command])
    error = call(*words, status=1)["error"]
    assert error.endswith("check=False scores it unchecked (--no-check)")
    call(*words, "--no-check")


def test_a_comparison_says_how_the_check_went(tmp_path: Path, model: Path) -> None:
    chats = write_jsonl(tmp_path / "chats.jsonl", [talk("c1", 1)])
    words = ("compare", chats, "--model", model, *COMMANDS["compare"], "--out")
    assert call(*words, tmp_path / "checked")["checked"] == "passed"
    assert call(*words, tmp_path / "not", "--no-check")["checked"] == "skipped: switched off"


@pytest.mark.parametrize("name", ["score", "compare", "demo", "evaluate", "reproduce"])
def test_every_command_that_scores_has_the_option(name: str) -> None:
    found: Any = get_command(app)
    options = {word for one in found.commands[name].params for word in one.secondary_opts}
    assert "--no-check" in options
