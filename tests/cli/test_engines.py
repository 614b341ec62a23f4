"""Test ``sra-fast score`` with files that a URI names and with the workers of ray."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sra_fast.cli.app import app
from tiny_chat_model import save_tiny_model, talk, write_jsonl


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


def call(*words: Any) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_a_file_in_memory_gives_the_run_of_a_local_one(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsspec = pytest.importorskip("fsspec", reason="needs the package fsspec")
    monkeypatch.chdir(tmp_path)
    local = write_jsonl(tmp_path / "chats.jsonl", [talk("a"), talk("b")])
    with fsspec.open("memory://in/chats.jsonl", "wb") as file:
        file.write(local.read_bytes())
    done = call("score", "memory://in/chats.jsonl", "--model", model, "--json")
    assert done.exit_code == 0, done.output
    out = tmp_path / "sra-results" / "chats"
    assert json.loads(done.stdout)["out"] == "sra-results/chats"
    assert call("score", local, "--model", model, "--out", tmp_path / "local").exit_code == 0
    for name in ("scores.jsonl", "scores.parquet", "masses.safetensors", "run.json"):
        assert (out / name).read_bytes() == (tmp_path / "local" / name).read_bytes(), name


def test_a_remote_file_that_changed_does_not_continue_a_run(model: Path, tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec", reason="needs the package fsspec")
    out = tmp_path / "out"
    for records, code in (([talk("a")], 0), ([talk("b")], 1)):
        text = "".join(json.dumps(record) + "\n" for record in records)
        with fsspec.open("memory://in/changing.jsonl", "w") as file:
            file.write(text)
        done = call("score", "memory://in/changing.jsonl", "--model", model, "--out", out)
        assert done.exit_code == code, done.output
    assert "its setting 'input_sha256' is" in done.output
    assert "(--out)" in done.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["no-such.jsonl"], "'no-such.jsonl' does not exist"),
        (["memory://no/such.jsonl"], "memory://no/such.jsonl: there is no such file"),
        (["foo://no/such.jsonl"], "no package is known that reads foo://"),
        (["CHATS", "--out", "s3://bucket/out"], "is a URI, and results are written here"),
        (["CHATS", "--workers", "2"], "'--workers': goes with --engine ray"),
        (["CHATS", "--address", "auto"], "'--address': goes with --engine ray"),
        (["CHATS", "--engine", "ray"], "add --workers 2"),
        (["CHATS", "--engine", "ray", "--workers", "0"], "'--workers'"),
        (
            ["CHATS", "--engine", "ray", "--workers", "1", "--address", "127.0.0.1:1"],
            "cluster '127.0.0.1:1': unreachable",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_name(
    words: list[str], message: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "127.0.0.1:1" in words:
        pytest.importorskip("ray", reason="needs the package ray")
        monkeypatch.setattr("ray.is_initialized", lambda: False)
    chats = write_jsonl(tmp_path / "chats.jsonl", [talk("a")])
    given = [chats if word == "CHATS" else word for word in words]
    done = call("score", *given, "--model", model)
    assert done.exit_code in (1, 2)
    assert message in " ".join(done.output.replace("│", " ").split())


def test_ray_that_is_missing_is_named_with_its_extra(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util
    import sys

    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "ray" else found(name, *a)
    )
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    chats = write_jsonl(tmp_path / "chats.jsonl", [talk("a")])
    done = call("score", chats, "--model", model, "--engine", "ray", "--workers", "1")
    assert done.exit_code == 1
    assert "the package 'ray' is missing: pip install 'sra_fast[ray]'" in done.output
