"""Test that shards merge to the bytes of the run without shards, or are refused by name."""

from __future__ import annotations

import json
import re
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pandas", reason="needs the package pandas (extra 'cli')")

from sra_fast.chat.conversations import read_conversations
from sra_fast.chat.templates import TEMPLATES
from sra_fast.files import score_file, shard_merging
from sra_fast.files.models import ModelSource, find_model
from sra_fast.files.run_folder import FolderBusyError, locked
from sra_fast.files.run_record import RUN, RunFolderError
from sra_fast.files.score_file import FileScorer
from sra_fast.files.score_folder import MASSES
from sra_fast.files.score_jobs import Job, ShardJob
from sra_fast.files.score_tables import SCORES_JSONL
from sra_fast.files.scoring_options import ScoringOptions
from sra_fast.files.shard import Shard
from sra_fast.files.shard_merging import merge_if_last, merge_shards
from sra_fast.result import SRAResult
from tiny_chat_model import save_tiny_model, talk, write_jsonl

Folders = dict[str, bytes]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    return find_model(str(save_tiny_model(tmp_path_factory.mktemp("model") / "tiny")))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    records = [talk(f"c{i}", 1 + i % 3, meta={"site": i} if i % 2 else {}) for i in range(7)]
    return write_jsonl(tmp_path_factory.mktemp("data") / "chats.jsonl", records)


class Scoring:
    """Scores one file into folders, whole or by shards."""

    def __init__(self, source: ModelSource, file: Path, **options: Any) -> None:
        settings: dict[str, Any] = {"batch_tokens": 200, "dtype": "float32", "device": "cpu"}
        self.scorer = FileScorer(source, file, ScoringOptions(**{**settings, **options}))
        self.conversations = read_conversations(file)

    def job(self, folder: Path, shard: Shard | None = None, template: str = "standard") -> Job:
        return self.scorer.prepare(
            "score", folder, self.conversations, TEMPLATES[template], "all", shard=shard
        )

    def whole(self, folder: Path, **more: Any) -> None:
        self.scorer.run([self.job(folder, **more)])

    def shard(self, folder: Path, number: int, of: int, **more: Any) -> int:
        """Score a shard, and return how many batches were scored for it now."""
        job = self.job(folder, Shard(number, of), **more)
        assert isinstance(job, ShardJob)
        seen: list[int] = []
        original = self.scorer._score

        def counted(job: Job, batch: Any, *more: Any) -> SRAResult:
            seen.append(len(batch))
            return original(job, batch, *more)

        self.scorer._score = counted  # type: ignore[method-assign]
        try:
            self.scorer.run_shard(job)
        finally:
            self.scorer._score = original  # type: ignore[method-assign]
        return len(seen)


@pytest.fixture(scope="module")
def scoring(source: ModelSource, file: Path) -> Scoring:
    return Scoring(source, file)


def files(folder: Path) -> Folders:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def unsharded(scoring: Scoring, tmp_path_factory: pytest.TempPathFactory) -> Folders:
    folder = tmp_path_factory.mktemp("whole") / "out"
    scoring.whole(folder)
    return files(folder)


@pytest.fixture(scope="module")
def three(scoring: Scoring, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with three finished shards that are not merged; it is to be copied."""
    folder = tmp_path_factory.mktemp("three") / "out"
    for number in (3, 1, 2):
        scoring.shard(folder, number, 3)
    return folder


@pytest.fixture
def out(three: Path, tmp_path: Path) -> Path:
    shutil.copytree(three, tmp_path / "out")
    return tmp_path / "out"


def refusal(folder: Path) -> str:
    """Return why shards are not merged, which leaves all that is done as it was."""
    shards = {name: data for name, data in files(folder).items() if name != RUN}
    with pytest.raises(RunFolderError) as caught:
        merge_shards(folder)
    assert {name: data for name, data in files(folder).items() if name != RUN} == shards
    return str(caught.value)


@pytest.mark.parametrize("of", [1, 2, 5, 40])
def test_shards_merge_to_the_bytes_of_the_run_without_them(
    of: int, scoring: Scoring, unsharded: Folders, tmp_path: Path
) -> None:
    for number in range(of, 0, -1):
        scoring.shard(tmp_path / "out", number, of)
    merged = merge_shards(tmp_path / "out")
    assert merged.shards == of
    assert files(tmp_path / "out") == unsharded
    assert [row["conversation_id"] for row in merged.rows] == list(merged.result.conversation_ids)


def test_profiles_and_their_tokenizer_are_merged_too(
    source: ModelSource, file: Path, tmp_path: Path
) -> None:
    scoring = Scoring(source, file, profile="layers", sources="messages", definition="mass")
    scoring.whole(tmp_path / "whole")
    for number in (1, 2):
        scoring.shard(tmp_path / "out", number, 2)
    merge_shards(tmp_path / "out")
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_merging_a_merged_folder_changes_nothing(out: Path, unsharded: Folders) -> None:
    first = merge_shards(out)
    again = merge_shards(out)
    assert (first.shards, again.shards) == (3, 0)
    assert again.rows == first.rows
    assert files(out) == unsharded


def test_a_shard_of_a_merged_run_is_done(scoring: Scoring, out: Path, unsharded: Folders) -> None:
    merge_shards(out)
    job = scoring.job(out, Shard(2, 3))
    assert not isinstance(job, ShardJob)
    assert job.is_done()
    assert files(out) == unsharded


def test_missing_and_unfinished_shards_are_named_with_the_place(out: Path) -> None:
    shutil.rmtree(out / "shard-1-of-3")
    run = out / "shard-3-of-3" / RUN
    run.write_text(run.read_text().replace('"finished": true', '"finished": false'))
    told = refusal(out)
    assert f"shard 1 of 3 is missing in {out} on host {socket.gethostname()}" in told
    assert "which holds 2 and 3" in told
    assert "that folder is not shared with them" in told
    done = len(list((out / "shard-3-of-3" / "batches").iterdir()))
    assert f"shard 3/3 is not finished ({done} batches done)" in told


def test_shards_of_a_folder_that_is_not_shared_are_brought_together(
    scoring: Scoring, unsharded: Folders, tmp_path: Path
) -> None:
    scoring.shard(tmp_path / "here", 1, 2)
    scoring.shard(tmp_path / "there", 2, 2)
    assert "shard 2 of 2 is missing" in refusal(tmp_path / "here")
    assert "shard 1 of 2 is missing" in refusal(tmp_path / "there")
    shutil.move(tmp_path / "there" / "shard-2-of-2", tmp_path / "here")
    merge_shards(tmp_path / "here")
    assert files(tmp_path / "here") == unsharded


def test_the_last_of_a_launch_says_that_the_folder_is_not_shared(
    scoring: Scoring, tmp_path: Path
) -> None:
    scoring.shard(tmp_path, 1, 2)
    with pytest.raises(RunFolderError, match=r"shard 2 of 2 is missing.*not shared"):
        merge_if_last(tmp_path, Shard(1, 2), patience=0.3)


def test_only_the_last_of_a_launch_merges(
    scoring: Scoring, unsharded: Folders, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    scoring.shard(out, 2, 2)
    job = scoring.job(out, Shard(1, 2))
    assert isinstance(job, ShardJob)
    with job.place.opened():
        assert merge_if_last(out, Shard(2, 2)) is None  # the other is at work
    scoring.shard(out, 1, 2)
    with locked(out):
        assert merge_if_last(out, Shard(2, 2)) is None  # the other merges
    merged = merge_if_last(out, Shard(1, 2))
    assert merged is not None
    assert merged.shards == 2
    assert merge_if_last(out, Shard(2, 2)) is None  # the other has merged
    assert files(out) == unsharded


def test_shards_of_different_numbers_are_refused(
    scoring: Scoring, out: Path, tmp_path: Path
) -> None:
    with pytest.raises(RunFolderError, match=r"holds shards of 3 \(shard-1-of-3\).*shard 1/2"):
        scoring.job(out, Shard(1, 2))
    scoring.shard(tmp_path / "other", 1, 2)
    shutil.move(tmp_path / "other" / "shard-1-of-2", out)
    told = refusal(out)
    assert "of 2 (shard-1-of-2) and of 3 (shard-1-of-3, shard-2-of-3, shard-3-of-3)" in told


def test_shards_of_other_settings_are_refused_before_they_are_scored(
    scoring: Scoring, out: Path
) -> None:
    before = files(out)
    shutil.rmtree(out / "shard-2-of-3")
    with pytest.raises(RunFolderError, match=r"in shard-1-of-3 the setting 'template.name' is"):
        scoring.job(out, Shard(2, 3), template="c1_hf")
    assert before.items() >= files(out).items()


CHANGED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "template.name": lambda s: s["template"].update(name="c1_hf"),
    "model.weights": lambda s: s["model"].update(weights="0"),
    "versions.torch": lambda s: s["versions"].update(torch="1.0"),
    "own_definitions": lambda s: s.update(own_definitions={"peak": {"source_sha256": "0"}}),
    "device": lambda s: s.update(device="cuda"),
    "prompts_sha256": lambda s: s.update(prompts_sha256="0"),
    "date": lambda s: s.update(date="2026-01-01"),
    "shard.batches": lambda s: s["shard"].update(batches=3),
}


@pytest.mark.parametrize("setting", CHANGED)
def test_shards_of_other_settings_or_code_are_not_merged(setting: str, out: Path) -> None:
    run = out / "shard-2-of-3" / RUN
    record = json.loads(run.read_text())
    CHANGED[setting](record["settings"])
    run.write_text(json.dumps(record))
    told = refusal(out)
    assert f"the setting {setting!r} is" in told
    assert "in shard-1-of-3 and" in told
    assert "in shard-2-of-3" in told


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"format": "other"}', "another shard's", "a run's"]
)
def test_a_strange_run_json_of_a_shard_is_refused(content: str, out: Path) -> None:
    run = out / "shard-2-of-3" / RUN
    if content == "another shard's":
        content = (out / "shard-1-of-3" / RUN).read_text()
    elif content == "a run's":
        record = json.loads(run.read_text())
        del record["settings"]["shard"]
        content = json.dumps(record)
    run.write_text(content)
    told = refusal(out)
    assert str(run) in told
    assert re.search("not written by this version|is not that of shard 2/3", told)


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "a changed byte": lambda file: file.write_bytes(
        file.read_bytes()[:-1] + bytes([file.read_bytes()[-1] ^ 1])
    ),
    "cut": lambda file: file.write_bytes(file.read_bytes()[:-9]),
    "missing": lambda file: file.unlink(),
}


@pytest.mark.parametrize("name", ["batches/00001.safetensors", SCORES_JSONL])
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_part_is_named_and_made_again(
    damage: Callable[[Path], Any],
    name: str,
    scoring: Scoring,
    out: Path,
    unsharded: Folders,
    caplog: pytest.LogCaptureFixture,
) -> None:
    part = out / "shard-2-of-3" / name
    damage(part)
    told = refusal(out)
    assert f"{part} is missing, or not as it was written; give the command of shard 2/3" in told
    with caplog.at_level("WARNING", "sra_fast"):
        assert scoring.shard(out, 2, 3) == int(name != SCORES_JSONL)
    assert f"{part} is missing, or not as it was written; it is made again" in caplog.text
    merge_shards(out)
    assert files(out) == unsharded


def test_a_part_that_is_not_in_run_json_is_missed(out: Path) -> None:
    run = out / "shard-2-of-3" / RUN
    record = json.loads(run.read_text())
    del record["digests"]["batches/00001.safetensors"]
    run.write_text(json.dumps(record))
    assert "batches/00001.safetensors is missing, or not as it was" in refusal(out)


def test_a_merged_run_whose_masses_are_damaged_is_told_how_to_get_them(
    scoring: Scoring, out: Path, unsharded: Folders
) -> None:
    merge_shards(out)
    (out / MASSES).write_bytes(b"garbage")
    assert f"{out / MASSES} is missing, or not as it was written" in refusal(out)
    with pytest.raises(RunFolderError, match="score without shards"):
        scoring.job(out, Shard(1, 3))
    scoring.whole(out)
    assert files(out) == unsharded


def test_whole_runs_and_shards_do_not_share_a_folder(
    scoring: Scoring, out: Path, tmp_path: Path
) -> None:
    with pytest.raises(RunFolderError, match=r"shards of a run that are not merged \(shard-1-of-3"):
        scoring.job(out)
    begun = scoring.job(tmp_path / "begun")
    with begun.folder.opened():
        pass
    with pytest.raises(RunFolderError, match="holds this run without shards, which is not finish"):
        scoring.job(tmp_path / "begun", Shard(1, 3))
    assert "holds a run without shards" in refusal(tmp_path / "begun")


def test_a_shard_that_begins_while_another_reads_the_file_is_no_stranger(
    scoring: Scoring, unsharded: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = score_file.encode_prompts

    def encode_while_the_other_begins(*args: Any, **more: Any) -> Any:
        monkeypatch.setattr(score_file, "encode_prompts", original)
        scoring.shard(tmp_path, 2, 2)
        return original(*args, **more)

    monkeypatch.setattr(score_file, "encode_prompts", encode_while_the_other_begins)
    scoring.shard(tmp_path, 1, 2)
    merge_shards(tmp_path)
    assert files(tmp_path) == unsharded


def test_folders_without_shards_are_refused(tmp_path: Path) -> None:
    assert f"{tmp_path} holds no shards (looked for folders such as shard-1-of-2 in" in refusal(
        tmp_path
    )
    (tmp_path / "notes.txt").write_text("precious")
    assert "holds no shards (looked for folders such as" in refusal(tmp_path)
    record = {"format": "sra_fast.run/1", "finished": True, "settings": {"kind": "train"}}
    (tmp_path / RUN).write_text(json.dumps(record))
    assert "holds a run of kind 'train', which has no shards" in refusal(tmp_path)


def test_one_process_works_in_a_shard_and_others_beside_it(
    scoring: Scoring, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with locked(tmp_path / "out" / "shard-1-of-3"):
        with pytest.raises(FolderBusyError, match=r"another process is working in .*shard-1-of-3"):
            scoring.shard(out, 1, 3)
        assert scoring.shard(out, 2, 3) == 0
        monkeypatch.setattr(shard_merging, "_PATIENCE", 0.3)
        with pytest.raises(FolderBusyError, match=r"another process is working in .*shard-1-of-3"):
            merge_shards(out)
    merge_shards(out)
