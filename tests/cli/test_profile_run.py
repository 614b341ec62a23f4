"""Scoring a file with profiles, and the page of it: from JSONL to what a reply looks at."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import sra_fast
from chat_tokenizers import SOUND_TEMPLATES, byte_level_bpe
from sra_fast.chat.encoding import encode
from sra_fast.cli.app import app
from sra_fast.files.run_folder import RUN
from sra_fast.files.score_file import TOKENIZER
from sra_fast.files.score_folder import MASSES
from tiny_chat_model import save_tiny_model, talk, write_jsonl


def call(*arguments: object, status: int = 0) -> str:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(one) for one in arguments])
    assert result.exit_code == status, result.output
    return re.sub(r"\x1b\[[0-9;]*m", "", result.output)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("profiles")
    save_tiny_model(folder / "model")
    write_jsonl(folder / "talks.jsonl", [talk("c1"), talk("c2")])
    return folder


def test_two_commands_lead_from_a_file_to_a_page(place: Path) -> None:
    out = place / "run"
    words = ("score", place / "talks.jsonl", "--model", place / "model", "--out", out)
    call(*words, "--profile", "layers")
    assert json.loads((out / RUN).read_text())["settings"]["profile"] == "layers"
    assert (out / TOKENIZER).is_dir()
    result = sra_fast.SRAResult.load(out / MASSES)
    assert result.profile(0).ndim == 2
    torch.testing.assert_close(result.profile(0).sum(dim=1), torch.ones(len(result.layers)))
    assert all(re.fullmatch(r"message \d+ \(\w+\)", name) for name in result.source_names[0])
    call("view", out)
    page = (out / "view.html").read_text(encoding="utf-8")
    assert "c1" in page
    assert "c2" in page
    # The same command finds it finished; other settings are refused.
    before = (out / MASSES).read_bytes()
    call(*words, "--profile", "layers")
    assert (out / MASSES).read_bytes() == before
    assert "profile" in call(*words, status=1)


def test_sentences_are_the_sources_where_they_are_asked_for(place: Path) -> None:
    out = place / "sentences"
    words = ("score", place / "talks.jsonl", "--model", place / "model", "--out", out)
    assert "goes with a profile" in call(*words, "--sources", "sentences", status=2)
    call(*words, "--profile", "mean", "--sources", "sentences")
    result = sra_fast.SRAResult.load(out / MASSES)
    names = result.source_names[0]
    assert all(re.fullmatch(r"message \d+ \(\w+\), sentence \d+", name) for name in names)
    assert len(names) > len({name.split(",")[0] for name in names})
    call("view", out)
    assert names[-1] in (out / "view.html").read_text(encoding="utf-8")
    said = call(
        *words[:-1], place / "none", "--profile", "mean", "--sources", "documents", status=1
    )
    assert "'c1' (talks.jsonl line 1): sources: the prompt has no documents" in said


def test_profiles_that_are_too_large_name_the_smaller_kind(place: Path) -> None:
    out = place / "large"
    words = ("score", place / "talks.jsonl", "--model", place / "model", "--out", out)
    said = call(*words, "--profile", "heads", "--profile-bytes", 10_000, status=1)
    assert "more than the 10 kB of profile_bytes; 'mean' takes" in said
    assert not (out / MASSES).exists()


@pytest.mark.parametrize("template", ["chatml", "llama_2", "qwen_3"])
def test_messages_are_sources_and_scored_replies_are_none(template: str) -> None:
    tokenizer = byte_level_bpe(SOUND_TEMPLATES[template])
    batch = encode(tokenizer, [talk("c1")], sources="messages", layout="as_written")
    ids, names = batch["source_ids"], batch["source_names"][0]
    assert ids.shape == batch["input_ids"].shape
    assert not bool((ids.bool() & batch["response_mask"].bool()).any())
    assert set(ids.unique().tolist()) == set(range(len(names) + 1))
    (asked,) = (m["content"] for m in talk("c1")["messages"][:1])
    texts = [tokenizer.decode(batch["input_ids"][ids == n]) for n in range(1, len(names) + 1)]
    assert any(asked in text for text in texts)
    assert "source_ids" not in encode(tokenizer, [talk("c1")])
    with pytest.raises(ValueError, match="sources: expected 'messages', 'sentences', 'documents'"):
        encode(tokenizer, [talk("c1")], sources="words")  # type: ignore[arg-type]
