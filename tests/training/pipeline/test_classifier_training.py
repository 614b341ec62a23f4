"""Test the folder of a classifier's training: it can be killed, damaged, shared and mistaken."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sklearn", reason="needs the package scikit-learn (extra 'pipeline')")

from sra_fast.files.run_folder import RunFolder, RunFolderError
from sra_fast.training.pipeline.classifiers import PLAIN_REPLIES, ClassifierError, load_classifier
from sra_fast.training.pipeline.classifiers import held_out as evaluation
from sra_fast.training.pipeline.classifiers.labelled import LabelledResponse, read_labelled

THREE = ("Clarification", "Offer Hope", "Chit Chat")


@pytest.fixture(scope="module")
def trained_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "classifier"
    train_into(folder)
    return folder


def train_into(folder: Path, **changes: Any) -> dict[str, Any]:
    replies = read_labelled(PLAIN_REPLIES)
    data = [
        LabelledResponse(str(number), one.response, name, None, "")
        for name in THREE
        for number, one in enumerate([one for one in replies if one.label == name][:20])
    ]
    options = {"data": "d", "settings": {}, "fold_count": 2, **changes}
    return evaluation.train_with_report("lexical", data, folder, **options)[1]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def refused(*_: Any, **__: Any) -> Any:
    raise AssertionError("trained again")


@pytest.fixture
def folder(trained_folder: Path, tmp_path: Path) -> Path:
    """Return a copy of a trained folder, which a test may damage."""
    shutil.copytree(trained_folder, tmp_path / "classifier")
    return tmp_path / "classifier"


@pytest.mark.parametrize("name", ["report.md", "confusion.png", "ngrams.csv", "trained_on.json"])
@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_what_follows_from_a_classifier_is_made_again_without_training(
    folder: Path, name: str, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = contents(folder)
    (folder / name).write_bytes(whole[name][:-1])
    if damage == "missing":
        (folder / name).unlink()
    monkeypatch.setattr(evaluation, "train_classifier", refused)
    train_into(folder)
    assert contents(folder) == whole


@pytest.mark.parametrize("name", ["weights.safetensors", "vocabulary.json", "report.json"])
def test_a_damaged_classifier_is_named_and_trained_again(
    folder: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    whole = contents(folder)
    changed = bytearray(whole[name])
    changed[-9] ^= 1  # one bit, in a number or a name
    (folder / name).write_bytes(changed)
    if name != "report.json":
        with pytest.raises(ClassifierError, match=f"{name} is missing, or not as it was trained"):
            load_classifier(folder)
    with caplog.at_level("WARNING", "sra_fast"):
        train_into(folder)
    assert f"{folder / name} is missing, or not as it was written" in caplog.text
    assert contents(folder) == whole
    assert load_classifier(folder).classes


@pytest.mark.parametrize("content", [b"", b"{", b'{"predicted": ["nothing known"]}', b"[]"])
def test_a_torn_split_is_named_and_measured_again(
    folder: Path, tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    torn = tmp_path / "torn"
    (torn / "splits").mkdir(parents=True)
    record = json.loads((folder / "run.json").read_text())
    record = {"format": record["format"], "finished": False, "settings": record["settings"]}
    (torn / "run.json").write_text(json.dumps(record))
    (torn / "splits" / "01.json").write_bytes(content)
    train_into(torn)
    assert f"{torn / 'splits' / '01.json'} cannot be read" in caplog.text
    assert contents(torn) == contents(folder)


def test_other_responses_another_seed_and_a_foreign_folder_are_refused(
    folder: Path, tmp_path: Path
) -> None:
    before = contents(folder)
    with pytest.raises(RunFolderError, match="its setting 'seed' is 42, and now it is 1"):
        train_into(folder, seed=1)
    with pytest.raises(RunFolderError, match=r"its setting 'settings\.c' is 10\.0"):
        train_into(folder, settings={"c": 1})
    assert contents(folder) == before
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "mine.txt").write_text("x")
    for replace in (False, True):
        with pytest.raises(RunFolderError, match="is not empty and holds no run"):
            train_into(foreign, replace=replace)
    assert contents(foreign) == {"mine.txt": b"x"}
    other = RunFolder(tmp_path / "scores", {"kind": "score"})
    with other.opened(), pytest.raises(RunFolderError, match="of kind 'score'"):
        train_into(other.path, replace=True)


def test_two_trainings_do_not_share_a_folder(folder: Path) -> None:
    pytest.importorskip("fcntl")
    settings = json.loads((folder / "run.json").read_text())["settings"]
    with (
        RunFolder(folder, settings).opened(),
        pytest.raises(RunFolderError, match="another process is working"),
    ):
        train_into(folder)


def test_a_classifier_of_an_earlier_version_is_read_and_can_be_replaced(folder: Path) -> None:
    (folder / "run.json").unlink()
    assert load_classifier(folder).classes
    with pytest.raises(RunFolderError, match="already holds a classifier"):
        train_into(folder)
    (folder / "mine.txt").write_text("x")
    with pytest.raises(RunFolderError, match="holds no run"):
        train_into(folder, replace=True)
    (folder / "mine.txt").unlink()
    train_into(folder, replace=True)
    assert (folder / "run.json").exists()
