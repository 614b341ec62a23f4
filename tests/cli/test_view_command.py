"""The command ``sra-fast view``: what cannot be shown is named, with the way out."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

import benchmarks.viewer.example_chats as examples
import sra_fast
from chat_tokenizers import byte_level_bpe
from marked_batches import marked_batch
from model_families import DENSE
from sra_fast.cli.app import app
from sra_fast.files.score_file import TOKENIZER
from sra_fast.files.score_folder import MASSES, SHARDS
from sra_fast.files.score_tables import SCORES_JSONL
from sra_fast.report.viewer.result_files import read_result
from sra_fast.report.viewer.viewed_conversation import ViewError


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


@pytest.fixture(scope="module")
def profiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run with profiles, of two responses in two conversations."""
    folder = tmp_path_factory.mktemp("run")
    model = DENSE[0].build()
    sra_fast.score(model, marked_batch((20, 18)), profile="heads").save(folder / MASSES)
    byte_level_bpe().save_pretrained(folder / TOKENIZER)
    result = sra_fast.SRAResult.load(folder / MASSES)
    rows = [
        {"conversation_id": f"c{number}", "strategy": "Offer Hope"}
        for number in result.conversation.tolist()
    ]
    (folder / SCORES_JSONL).write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder


@pytest.mark.parametrize("column", ["conversation_id", "conversation"])  # the old name
def test_conversations_are_called_as_the_table_of_the_run_calls_them(
    column: str, profiled: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(profiled, folder)
    table = (folder / SCORES_JSONL).read_text()
    (folder / SCORES_JSONL).write_text(table.replace("conversation_id", column))
    assert read_result(folder).titles == {0: "c0", 1: "c1"}
    (folder / SCORES_JSONL).write_text(table.replace("conversation_id", "name"))
    with pytest.raises(ViewError, match="line 1 has no conversation_id; run the scoring again"):
        read_result(folder)


def test_a_saved_result_knows_what_its_conversations_are_called(profiled: Path) -> None:
    result = sra_fast.SRAResult.load(profiled / MASSES)
    assert read_result(profiled / MASSES).titles == {}
    file = profiled.parent / "named"
    ids = tuple(f"chat {number}" for number in result.conversation.tolist())
    replace(result, conversation_ids=ids).save(file)
    assert read_result(file).titles == {0: "chat 0", 1: "chat 1"}


def test_a_result_without_profiles_is_refused_with_the_way_out(unprofiled: Path) -> None:
    for place in (unprofiled, "--json"):
        words = ("view", unprofiled) if place != "--json" else ("view", unprofiled, "--json")
        out, said = call(*words, status=1)
        text = json.loads(out)["error"] if place == "--json" else said
        assert "scored without profiles" in text
        assert "score again with profile='mean' (--profile mean) into another folder" in text
    assert not unprofiled.with_name("view.html").exists()


def test_conversations_in_place_of_a_result_are_told_what_to_give(tmp_path: Path) -> None:
    file = tmp_path / "chats.jsonl"
    file.write_text('{"messages": []}\n' * 9)
    said = call("view", file, status=1)[1]
    assert "give the folder that `sra-fast score` wrote, or its masses.safetensors" in said


def test_a_page_is_written_beside_the_result(profiled: Path) -> None:
    page = profiled / "view.html"
    out, said = call("view", profiled, "--json")
    assert json.loads(out) == {
        "command": "view",
        "out": str(page),
        "bytes": page.stat().st_size,
        "left_out": [],
    }
    assert f"written to {page}" in said
    assert all(name in page.read_text(encoding="utf-8") for name in ("c0", "Offer Hope"))
    page.unlink()


def test_a_file_alone_needs_the_name_of_its_tokenizer(profiled: Path, tmp_path: Path) -> None:
    file = tmp_path / "scores.safetensors"
    file.write_bytes((profiled / MASSES).read_bytes())
    assert "name the model that it is of (--tokenizer)" in call("view", file, status=1)[1]
    model = DENSE[0].build()
    model.save_pretrained(tmp_path / "model")
    byte_level_bpe().save_pretrained(tmp_path / "model")
    call("view", file, "--tokenizer", tmp_path / "model")
    assert (tmp_path / "view.html").is_file()


def test_what_is_left_out_is_said(profiled: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    call("view", profiled, "--out", page)
    most = (page.stat().st_size - 100) / 1e6
    said = call("view", profiled, "--out", page, "--max-mb", f"{most:.6f}")[1]
    assert "single heads are left out" in said
    assert page.stat().st_size <= most * 1e6


def test_a_page_that_is_too_large_names_the_option(
    profiled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    huge = examples.conversation(kind="mean", title="x" * 200_000)
    monkeypatch.setattr("sra_fast.report.viewer.viewed_result.viewed", lambda *_: (huge,))
    words = ("view", profiled, "--out", tmp_path / "page.html", "--max-mb", "0.1")
    assert "allow a larger page (--max-mb)" in call(*words, status=1)[1]
    assert list(tmp_path.iterdir()) == []


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


def test_a_folder_with_a_damaged_table_or_tokenizer_is_named(
    profiled: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(profiled, tmp_path / "run"))
    (folder / TOKENIZER / "tokenizer.json").write_text("{")
    assert "tokenizer that the run keeps cannot be read" in call("view", folder, status=1)[1]
    table = folder / SCORES_JSONL
    table.write_text('{"strategy": "x"}\n' * len(table.read_text().splitlines()))
    assert f"{SCORES_JSONL} line 1 has no conversation" in call("view", folder, status=1)[1]
