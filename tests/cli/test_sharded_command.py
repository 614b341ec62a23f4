"""Test scoring by shards on the command line: by numbers, by ranks of a launch, and killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sra_fast.cli.app import app
from sra_fast.files.run_record import RUN
from sra_fast.files.score_folder import MASSES
from sra_fast.files.score_tables import SCORES_JSONL, SCORES_PARQUET
from tiny_chat_model import save_tiny_model, talk, write_jsonl

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sharded")
    save_tiny_model(folder / "tiny")
    write_jsonl(folder / "chats.jsonl", [talk(f"c{i}", 1 + i % 3) for i in range(5)])
    return folder


def words(place: Path, out: Path, *more: object) -> list[str]:
    return [
        str(place / "chats.jsonl"),
        *("--model", str(place / "tiny"), "--batch-tokens", "200", "--out", str(out)),
        *map(str, more),
    ]


def call(*arguments: object, status: int = 0) -> tuple[dict[str, Any], str]:
    """Return the object that a command prints under --json, and its standard error."""
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, [*map(str, arguments), "--json"])
    assert result.exit_code == status, result.output
    assert "Traceback" not in result.output
    found = json.loads(result.stdout)
    assert isinstance(found, dict)
    return found, result.stderr


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def whole(place: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return what a run without shards prints, and its files."""
    printed = call("score", *words(place, place / "whole"))[0]
    return printed, files(place / "whole")


def test_shards_and_merging_print_what_the_whole_run_prints(
    place: Path, whole: tuple[dict[str, Any], dict[str, bytes]], tmp_path: Path
) -> None:
    out = tmp_path / "out dir"
    printed = []
    for shard in ("2/2", "1/2"):
        found, said = call("score", *words(place, out, "--shard", shard))
        assert f"shard {shard} is done" in said
        assert f"sra-fast merge '{out}'" in said
        assert (found["shard"], found["files"][-1]) == (
            shard,
            f"shard-{shard[0]}-of-2/{RUN}",
        )
        printed.append(found)
    merged, said = call("merge", out)
    assert "merged 2 shards" in said
    assert sum(one["responses"] for one in printed) == merged["responses"] == 9
    assert merged == {**whole[0], "command": "merge", "out": str(out)}
    assert files(out) == whole[1]
    again, said = call("merge", out)
    assert again == merged
    assert "holds the whole run already" in said
    third = call("score", *words(place, out, "--shard", "1/2"))[0]  # done long ago
    assert third == {**whole[0], "out": str(out)}


def test_a_folder_without_shards_is_called_as_in_the_help_text(tmp_path: Path) -> None:
    error = call("merge", tmp_path, status=1)[0]["error"]
    assert "holds no shards" in error
    assert error.endswith("(DIR)")


@pytest.mark.parametrize("shard", ["0/8", "9/8", "3", "a/b", "1/0", "8/3"])
def test_shards_out_of_range_are_wrong_use(shard: str, place: Path, tmp_path: Path) -> None:
    error = call("score", *words(place, tmp_path / "out", "--shard", shard), status=2)[0]["error"]
    assert "--shard" in error
    assert "there is no shard" in error or "names no shard" in error or "not to 0" in error
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_merged_ends_with_status_1(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    call("score", *words(place, out, "--shard", "1/3"))
    before = files(out)
    assert "shards 2 and 3 of 3 are missing" in call("merge", out, status=1)[0]["error"]
    assert "not merged" in call("score", *words(place, out), status=1)[0]["error"]
    error = call("score", *words(place, out, "--shard", "1/2"), status=1)[0]["error"]
    assert "holds shards of 3" in error
    other = words(place, out, "--shard", "2/3", "--template", "c1_hf")
    assert "'template.name'" in call("score", *other, status=1)[0]["error"]
    assert files(out) == before
    assert "does not exist" in call("merge", tmp_path / "nowhere", status=2)[0]["error"]
    said = call("view", out, status=1)[0]["error"]
    assert "the shards of this run are not merged" in said


# --- by rank ---


def environment(**more: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**kept, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **more}


def launched(arguments: list[str], **more: str) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    return subprocess.run(
        [*launcher, "-m", "sra_fast.cli.score", *arguments],
        capture_output=True,
        text=True,
        env=environment(**more),
        timeout=300,
        check=False,
    )


def test_torchrun_shards_by_rank_and_prints_once(
    place: Path, whole: tuple[dict[str, Any], dict[str, bytes]], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = launched(words(place, out, "--json"))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {**whole[0], "out": str(out)}  # one object, from one process
    assert done.stderr.count("written to") == 1
    assert files(out) == whole[1]


def test_of_processes_that_find_a_merged_run_the_first_prints(
    place: Path,
    whole: tuple[dict[str, Any], dict[str, bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    runner = CliRunner(env={"COLUMNS": "200"})
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        done = runner.invoke(app, ["score", *words(place, place / "whole"), "--json"])
        assert done.exit_code == 0
        assert (json.loads(done.stdout) if rank == "0" else done.stdout) == (
            whole[0] if rank == "0" else ""
        )
    assert files(place / "whole") == whole[1]


@pytest.mark.parametrize(
    ("variables", "more", "says"),
    [
        ({"RANK": "1", "WORLD_SIZE": "2"}, ["--shard", "1/2"], "takes a shard by its rank"),
        ({"WORLD_SIZE": "2"}, [], "WORLD_SIZE is '2' and RANK is not set"),
        ({"RANK": "1"}, [], "RANK is '1' and WORLD_SIZE is not set"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, [], "there is no shard 3; they are 1/2 to 2/2"),
        ({"RANK": "a", "WORLD_SIZE": "2"}, [], "RANK is 'a' and no whole number from 0 on"),
        ({"RANK": "0", "WORLD_SIZE": "0"}, [], "WORLD_SIZE is '0' and no whole number from 1"),
    ],
)
def test_a_launch_that_cannot_be_is_wrong_use(
    variables: dict[str, str],
    more: list[str],
    says: str,
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    result = CliRunner(env={"COLUMNS": "200"}).invoke(
        app, ["score", *words(place, tmp_path / "out", *more)]
    )
    assert result.exit_code == 2
    assert says in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_launch_of_one_process_is_a_run_without_shards(
    place: Path,
    whole: tuple[dict[str, Any], dict[str, bytes]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    call("score", *words(place, tmp_path / "out"))
    assert files(tmp_path / "out") == whole[1]


def test_processes_of_a_launch_that_end_one_after_the_other_need_no_other(
    place: Path,
    whole: tuple[dict[str, Any], dict[str, bytes]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody waits: the first leaves while the second is at work, and the second merges."""
    from sra_fast.files import shard_merging

    monkeypatch.setenv("WORLD_SIZE", "2")
    runner = CliRunner(env={"COLUMNS": "200"})
    out = tmp_path / "out"
    begun = out / "shard-2-of-2"
    begun.mkdir(parents=True)  # as the other process has made it
    monkeypatch.setenv("RANK", "0")
    first = runner.invoke(app, ["score", *words(place, out, "--json")])
    assert (first.exit_code, first.stdout) == (0, "")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(shard_merging, "_PATIENCE", 0.0)
    second = runner.invoke(app, ["score", *words(place, out, "--json")])
    assert second.exit_code == 0, second.output
    assert json.loads(second.stdout) == {**whole[0], "out": str(out)}
    assert files(out) == whole[1]


# --- killed ---

# All runs share one import of torch: each is a forked child that shares nothing but the code.
SCRIPT = """
import json, os, shutil, signal, sys
from pathlib import Path

import torch
torch.set_num_threads(1)  # so that forking is safe
from sra_fast.cli.app import app
import sra_fast.cli.progress, sra_fast.report.comparison, sra_fast.files.shard_merging, pandas

arguments, out = json.loads(sys.argv[1]), Path(sys.argv[2])
replace, remove = os.replace, shutil.rmtree

def run(words, kill_at=None, log=None):
    child = os.fork()
    if child == 0:
        count = 0
        def counted(change):
            def changed(*given, **more):
                nonlocal count
                count += 1
                if count == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                change(*given, **more)
                if log is not None:
                    with log.open("a") as written:
                        written.write(Path(given[-1]).name + " ")
            return changed
        os.replace, shutil.rmtree = counted(replace), counted(remove)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1), os.dup2(null, 2)
        try:
            app(words)
        except SystemExit as end:
            os._exit(end.code or 0)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)

def content(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*")) if path.is_file()
    }

def score(folder, *more):
    return ["score", *arguments, "--out", str(folder), *more]

assert run(score(out / "whole")) == 0
whole = content(out / "whole")
one, two = (["--shard", f"{number}/2"] for number in (1, 2))
assert run(score(out / "half", *one)) == 0
log = out / "shard.log"
shutil.copytree(out / "half", out / "both")
assert run(score(out / "both", *two), log=log) == 0
of_shard = log.read_text().split()
for kill_at in range(1, len(of_shard) + 1):
    folder = out / f"shard-killed-{kill_at}"
    shutil.copytree(out / "half", folder)
    assert run(score(folder, *two), kill_at) == -signal.SIGKILL, kill_at
    assert run(["merge", str(folder)]) == 1, kill_at
    assert run(score(folder, *two)) == 0, kill_at
    assert content(folder) == content(out / "both"), kill_at
log = out / "merge.log"
shutil.copytree(out / "both", out / "merged")
assert run(["merge", str(out / "merged")], log=log) == 0
assert content(out / "merged") == whole
of_merge = log.read_text().split()
for kill_at in range(1, len(of_merge) + 1):
    folder = out / f"merge-killed-{kill_at}"
    shutil.copytree(out / "both", folder)
    assert run(["merge", str(folder)], kill_at) == -signal.SIGKILL, kill_at
    assert run(["merge", str(folder)]) == 0, kill_at
    assert content(folder) == whole, (kill_at, list(content(folder)))
print(json.dumps([of_shard, of_merge]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_killed_at_any_file_a_shard_and_a_merge_go_on(place: Path, tmp_path: Path) -> None:
    arguments = words(place, tmp_path)[:-2]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(arguments), str(tmp_path)],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    of_shard, of_merge = json.loads(done.stdout)
    assert of_shard == [RUN, *(f"0000{n}.safetensors" for n in (1, 3)), SCORES_JSONL, RUN]
    assert of_merge == [
        *(RUN, MASSES, SCORES_JSONL, SCORES_PARQUET, RUN),
        *("shard-1-of-2", "shard-2-of-2"),
    ]
