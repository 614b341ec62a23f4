"""Test that a run with a date in its prompts is the same run on another day."""

from __future__ import annotations

import json
from datetime import date, datetime
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from sra_fast.chat.conversations import read_conversations
from sra_fast.chat.templates import TEMPLATES
from sra_fast.files import run_date
from sra_fast.files.models import ModelSource, find_model
from sra_fast.files.run_date import first_day, start_of, writes_date
from sra_fast.files.run_folder import RUN, RunFolder
from sra_fast.files.score_file import FileScorer
from sra_fast.files.scoring_options import ScoringOptions
from tiny_chat_model import save_tiny_model, talk, write_jsonl

DATED = "{{- 'Today is ' + strftime_now('%Y-%m-%d') + '.\n' }}"


@pytest.fixture(scope="module")
def dated(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    """A tiny model whose chat template writes the date."""
    folder = save_tiny_model(tmp_path_factory.mktemp("dated"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = DATED + tokenizer.chat_template
    tokenizer.save_pretrained(folder)
    return find_model(str(folder))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    return find_model(str(save_tiny_model(tmp_path_factory.mktemp("plain"))))


def on(monkeypatch: pytest.MonkeyPatch, day: str) -> None:
    """Let it be that day."""

    class Day(date):
        @classmethod
        def today(cls) -> date:
            return date.fromisoformat(day)

    monkeypatch.setattr(run_date, "date", Day)


def test_scores_of_the_next_day_are_those_of_the_first(
    tmp_path: Path, dated: ModelSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_jsonl(tmp_path / "chats.jsonl", [talk("c1"), talk("c2")])
    scorer = FileScorer(dated, file, ScoringOptions(dtype="float32", device="cpu"))
    conversations = read_conversations(file)

    def prepared(folder: Path, part_of: Path | None = None) -> str:
        job = scorer.prepare(
            "score", folder, conversations, TEMPLATES["standard"], "all", part_of=part_of
        )
        if part_of is None:
            with job.folder.opened():
                pass
        return str(scorer.tokenizer.decode(job.prompts[0].input_ids))[:20]

    on(monkeypatch, "2031-05-07")
    assert prepared(tmp_path / "run") == "Today is 2031-05-07."
    on(monkeypatch, "2031-05-08")
    assert prepared(tmp_path / "run") == "Today is 2031-05-07."  # and the folder takes it
    assert prepared(tmp_path / "run" / "part", tmp_path / "run") == "Today is 2031-05-07."
    assert prepared(tmp_path / "new") == "Today is 2031-05-08."
    settings = json.loads((tmp_path / "run" / RUN).read_text())["settings"]
    assert settings["date"] == "2031-05-07"


def test_a_run_without_a_date_in_its_prompts_records_none(
    tmp_path: Path, plain: ModelSource, dated: ModelSource
) -> None:
    assert first_day(tmp_path, plain, None) is None
    assert first_day(tmp_path, plain, dated) == date.today().isoformat()
    assert not writes_date(plain)
    assert writes_date(dated)


def test_a_run_that_recorded_no_date_stays_without(tmp_path: Path, dated: ModelSource) -> None:
    with RunFolder(tmp_path / "run", {"kind": "score"}).opened():
        pass
    assert first_day(tmp_path / "run", dated) is None


def test_a_run_that_is_begun_anew_has_the_date_of_today(
    tmp_path: Path, dated: ModelSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(monkeypatch, "2031-05-07")
    with RunFolder(tmp_path / "run", {"kind": "score", "date": "2030-01-01"}).opened():
        pass
    assert first_day(tmp_path / "run", dated) == "2030-01-01"
    assert first_day(None, dated) == "2031-05-07"


def test_a_model_without_a_tokenizer_writes_no_date(tmp_path: Path) -> None:
    assert not writes_date(ModelSource("none", str(tmp_path / "none")))


def test_a_day_begins_at_midnight() -> None:
    assert start_of("2031-05-07") == datetime(2031, 5, 7)
    assert start_of(None) is None
