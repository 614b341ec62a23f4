"""Test run folders: what they accept, what they refuse and what they leave alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sra_fast.files.run_folder import RUN, RunFolder, RunFolderError

SETTINGS: dict[str, Any] = {"kind": "score", "model": {"name": "tiny"}, "turns": "all"}
RESULT = "result.txt"


def finish(folder: Path, settings: dict[str, Any]) -> None:
    """Do a whole run in a folder."""
    run = RunFolder(folder, settings)
    with run.opened():
        (folder / RESULT).write_text("done")
        run.finish()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({**SETTINGS, "turns": "last"}, "its setting 'turns' is 'all', and now it is 'last'"),
        ({**SETTINGS, "model": {"name": "big"}}, "its setting 'model.name' is 'tiny'"),
        ({**SETTINGS, "more": 1}, "its setting 'more' is None"),
        ({"kind": "score", "model": {"name": "tiny"}}, "its setting 'turns' is 'all'"),
    ],
)
def test_other_settings_are_named(settings: dict[str, Any], words: str, tmp_path: Path) -> None:
    finish(tmp_path, SETTINGS)
    with pytest.raises(RunFolderError, match="another folder") as caught:
        RunFolder(tmp_path, settings).check()
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", '{"format": "other", "settings": {}}', '"x"']
)
def test_a_strange_run_json_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / RUN).write_text(content)
    with pytest.raises(RunFolderError, match="not written by this version"):
        RunFolder(tmp_path, SETTINGS).check()
    assert (tmp_path / RUN).read_text() == content


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("x")
    with pytest.raises(RunFolderError, match="is a file"):
        RunFolder(tmp_path / "out", SETTINGS).check()


def test_checking_writes_nothing(tmp_path: Path) -> None:
    RunFolder(tmp_path / "out", SETTINGS).check()
    assert list(tmp_path.iterdir()) == []


def test_two_processes_do_not_share_a_folder(tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    assert fcntl
    run = RunFolder(tmp_path / "out", SETTINGS)
    with (
        run.opened(),
        pytest.raises(RunFolderError, match="another process"),
        RunFolder(run.path, SETTINGS).opened(),
    ):
        pass
    with run.opened():
        pass


def test_a_run_that_begins_anew_replaces_its_own_kind_only(tmp_path: Path) -> None:
    out = tmp_path / "out"
    finish(out, SETTINGS)
    (out / "mine.txt").write_text("x")
    demo = RunFolder(out, {**SETTINGS, "kind": "demo"})
    with pytest.raises(RunFolderError, match="of kind 'score'"), demo.opened(replacing=[RESULT]):
        pass
    assert (out / RESULT).exists()
    other = RunFolder(out, {**SETTINGS, "turns": "last"})
    with (
        RunFolder(out, SETTINGS).opened(),
        pytest.raises(RunFolderError, match="another process"),
        other.opened(replacing=[RESULT]),
    ):
        pass
    assert (out / RESULT).exists()
    with other.opened(replacing=[RESULT, "missing"]):
        pass
    assert sorted(path.name for path in out.iterdir()) == ["mine.txt", RUN]
    other.check()


def test_the_settings_can_be_read_by_people(tmp_path: Path) -> None:
    finish(tmp_path, {**SETTINGS, "strategies": {"Hoffnung ü": "…"}})
    text = (tmp_path / RUN).read_text(encoding="utf-8")
    assert "Hoffnung ü" in text
    assert json.loads(text)["finished"] is True


def test_files_and_folders_of_a_finished_run_are_checked(tmp_path: Path) -> None:
    run = RunFolder(tmp_path, SETTINGS)
    with run.opened():
        (tmp_path / RESULT).write_text("done")
        (tmp_path / "deep" / "er").mkdir(parents=True)
        (tmp_path / "deep" / "er" / "one.txt").write_text("1")
        (tmp_path / "mine.txt").write_text("not of the run")
        run.finish([RESULT, "deep"])
    assert set(json.loads((tmp_path / RUN).read_text())["digests"]) == {RESULT, "deep/er/one.txt"}
    assert run.damaged() == []
    (tmp_path / "mine.txt").write_text("changed")
    assert run.damaged() == []
    (tmp_path / RESULT).write_text("dome")
    (tmp_path / "deep" / "er" / "one.txt").unlink()
    assert run.damaged() == [RESULT, "deep/er/one.txt"]
    with pytest.raises(RunFolderError, match="its setting 'turns'"):
        RunFolder(tmp_path, {**SETTINGS, "turns": "last"}).damaged()
    assert RunFolder(tmp_path / "new", SETTINGS).damaged() == []
