"""The command ``sra-fast view``: what cannot be shown is named, with the way out."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import benchmarks.viewer.example_chats as examples
import sra_fast
from marked_batches import marked_batch
from model_families import DENSE
from sra_fast.cli.app import app
from sra_fast.files.score_folder import MASSES, SHARDS
from sra_fast.files.score_tables import SCORES_JSONL


def call(*arguments: object, status: int = 0) -> tuple[str, str]:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(one) for one in arguments])
    assert result.exit_code == status, result.output
    assert "Traceback" not in result.output
    return result.stdout, re.sub(r"\x1b\[[0-9;]*m", "", result.stderr)


@pytest.fixture(scope="module")
def unprofiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("scores") / MASSES
    sra_fast.score(DENSE[0].build(), marked_batch((20,))).save(file)
    return file


@pytest.fixture
def profiled(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Show two conversations whatever the result is; return how the result was described."""
    calls: list[dict[str, Any]] = []

    def viewed(result: object, titles: object, labels: object) -> object:
        calls.append({"titles": titles, "labels": labels})
        return (examples.conversation(layers=24, heads=16),)

    monkeypatch.setattr("sra_fast.report.viewer.viewed_result.viewed", viewed)
    return calls


def test_a_result_without_profiles_is_refused_with_the_way_out(unprofiled: Path) -> None:
    for place in (unprofiled, "--json"):
        words = ("view", unprofiled) if place != "--json" else ("view", unprofiled, "--json")
        out, said = call(*words, status=1)
        text = json.loads(out)["error"] if place == "--json" else said
        assert "scored without profiles" in text
        assert "score again with profile='mean' (--profile mean)" in text
    assert not unprofiled.with_name("view.html").exists()


def test_a_page_is_written_beside_the_result(
    unprofiled: Path, profiled: list[dict[str, Any]]
) -> None:
    page = unprofiled.with_name("view.html")
    out, said = call("view", unprofiled, "--json")
    assert json.loads(out) == {
        "command": "view",
        "out": str(page),
        "bytes": page.stat().st_size,
        "left_out": [],
    }
    assert f"written to {page}" in said
    page.unlink()


def test_what_is_left_out_is_said(
    unprofiled: Path, profiled: list[dict[str, Any]], tmp_path: Path
) -> None:
    words = ("view", unprofiled, "--out", tmp_path / "page.html", "--max-mb", "0.2")
    assert "single heads are left out" in call(*words)[1]
    assert (tmp_path / "page.html").stat().st_size <= 200_000


def test_a_page_that_is_too_large_names_the_option(
    unprofiled: Path, profiled: list[dict[str, Any]], tmp_path: Path, monkeypatch: Any
) -> None:
    huge = examples.conversation(kind="mean", title="x" * 200_000)
    monkeypatch.setattr("sra_fast.report.viewer.viewed_result.viewed", lambda *_: (huge,))
    words = ("view", unprofiled, "--out", tmp_path / "page.html", "--max-mb", "0.1")
    assert "allow a larger page (--max-mb)" in call(*words, status=1)[1]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_names_its_conversations(
    unprofiled: Path, profiled: list[dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / MASSES).write_bytes(unprofiled.read_bytes())
    rows = [{"conversation": "c7", "strategy": name} for name in ("Offer Hope", "Chit Chat")]
    (tmp_path / SCORES_JSONL).write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    call("view", tmp_path)
    assert profiled == [{"titles": {0: "c7"}, "labels": ["Offer Hope", "Chit Chat"]}]


@pytest.mark.parametrize(
    ("inside", "message"),
    [
        ([], "holds no masses.safetensors; give the folder of a scoring run"),
        ([f"{SHARDS}/"], "the run is not finished; continue it first"),
        (
            [f"templates/c1_hf/{MASSES}", f"templates/standard/{MASSES}"],
            "holds several results; give one of those in templates/c1_hf, templates/standard",
        ),
    ],
)
def test_a_folder_without_a_result_is_named(
    tmp_path: Path, inside: list[str], message: str
) -> None:
    for name in inside:
        place = tmp_path / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.mkdir() if name.endswith("/") else place.touch()
    assert message in call("view", tmp_path, status=1)[1]


def test_a_table_of_other_responses_is_refused(unprofiled: Path, tmp_path: Path) -> None:
    (tmp_path / MASSES).write_bytes(unprofiled.read_bytes())
    (tmp_path / SCORES_JSONL).write_text("")
    assert "has 0 lines, and masses.safetensors 2 responses" in call("view", tmp_path, status=1)[1]


def test_a_path_that_is_not_there_is_wrong_use(tmp_path: Path) -> None:
    assert "does not exist" in call("view", tmp_path / "nothing", status=2)[1]
    (tmp_path / "text").write_text("not a result")
    assert "not a safetensors file" in call("view", tmp_path / "text", status=1)[1]
