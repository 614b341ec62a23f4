"""``sra-fast extend``: what is cut, drawn and written, and that a killed run ends the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fake_endpoint import always, completion, failure
from sra_fast.cli.app import app
from sra_fast.conversations import read_conversations
from sra_fast.esconv import Dialogue, Turn, read_dialogues
from sra_fast.strategies import STRATEGIES
from sra_fast.training.extension.cuts import Cutting, ExtensionError, cut
from sra_fast.training.extension.statistics import as_markdown, describe
from tiny_chat_model import save_tiny_model

pytest.importorskip("datasets", reason="needs the package datasets (extra 'train')")


def dialogue(number: int, turns: int = 30, opens: str = "user") -> Dialogue:
    roles = ["user", "assistant"] if opens == "user" else ["assistant", "user"]
    return Dialogue(
        f"d{number}",
        f"Situation {number}.",
        tuple(Turn(roles[i % 2], f"{roles[i % 2]} {number} says {i}", ()) for i in range(turns)),  # type: ignore[arg-type]
    )


def esconv(folder: Path, count: int = 12) -> Path:
    """A file of dialogues with messages to merge."""
    entries = []
    for number in range(count):
        dialog = []
        for turn in range(10):
            speaker = "supporter" if turn % 2 else "seeker"
            for part in range(1 + (turn == 4)):
                annotation = {"strategy": "Question"} if turn % 2 else {}
                content = f"{speaker} {number} at {turn}, part {part}"
                dialog.append({"speaker": speaker, "annotation": annotation, "content": content})
        entries.append({"situation": f"It is day {number}.", "dialog": dialog})
    path = folder / "dialogues.json"
    path.write_text(json.dumps(entries), encoding="utf-8")
    return path


def invoke(*words: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["extend", *map(str, words)])
    return done.exit_code, done.stdout, done.stderr


# --- Cuts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("opens", ["user", "assistant"])
def test_cuts_lie_behind_5_to_23_turns_that_end_with_the_seeker(opens: str) -> None:
    every = Cutting(probability=1.0)
    found = cut([dialogue(1, opens=opens)], {"A": "a", "B": "b"}, every)
    lengths = {len(c.messages) for c in found}
    assert lengths == set(range(5 if opens == "user" else 6, 24, 2))
    assert all(c.messages[-1].role == "user" for c in found)
    assert all(len([c for c in found if len(c.messages) == n]) == 2 for n in lengths)
    assert {c.dialogue for c in found} == {"d1"}
    assert len({c.id for c in found}) == len(found)


def test_an_unanswered_turn_is_no_cut() -> None:
    found = cut([dialogue(1, turns=7)], {"A": "a"}, Cutting(probability=1.0))
    assert [len(c.messages) for c in found] == [5]


def test_strategies_are_drawn_with_their_probability_and_for_each_dialogue_alone() -> None:
    many = [dialogue(number) for number in range(60)]
    found = cut(many, STRATEGIES, Cutting())
    assert len(found) == pytest.approx(0.3 * 15 * 10 * 60, rel=0.05)
    counts = Counter(c.strategy for c in found)
    assert set(counts) == set(STRATEGIES)
    assert min(counts.values()) > 130
    alone = cut([many[7]], STRATEGIES, Cutting())
    assert alone == [c for c in found if c.dialogue == "d7"] or [c.id for c in alone] == [
        c.id for c in found if c.dialogue == "d7"
    ]


def test_most_cuts_and_dialogues() -> None:
    many = [dialogue(number) for number in range(20)]
    found = cut(many, STRATEGIES, Cutting(probability=1.0, cuts=2, dialogues=5))
    assert len(found) == 5 * 2 * 15
    assert len({c.dialogue for c in found}) == 5
    other = cut(many, STRATEGIES, Cutting(probability=1.0, cuts=2, dialogues=5, seed=1))
    assert {c.id for c in found} != {c.id for c in other}


def test_nothing_to_cut_is_an_error() -> None:
    with pytest.raises(ExtensionError, match="none of 1 dialogues"):
        cut([dialogue(1, turns=4)], STRATEGIES, Cutting())
    for wrong in ({"first_turn": 0}, {"probability": 0.0}, {"cuts": 0}):
        with pytest.raises(ExtensionError):
            Cutting(**wrong)  # type: ignore[arg-type]


def test_the_statistics_count(tmp_path: Path) -> None:
    found = cut([dialogue(1), dialogue(2)], {"A": "a", "B": "b"}, Cutting(probability=1.0))
    parts = {"train": found[:20], "test": found[20:]}
    described = describe(parts, ["A", "B"])
    assert described["parts"]["all"]["replies"] == len(found) == 40
    assert described["parts"]["train"]["dialogues"] == 1
    assert described["parts"]["all"]["turns"] == pytest.approx(14.0)
    assert described["parts"]["all"]["turn_words"] == pytest.approx(4.0)
    assert described["strategies"]["A"] == {"train": 10, "test": 10, "all": 20, "words": 1.0}
    assert "| A | 10 | 10 | 20 | 1.0 |" in as_markdown(described)


# --- The command -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


def test_a_run_from_end_to_end(tmp_path: Path, model: Path) -> None:
    file, out = esconv(tmp_path), tmp_path / "out"
    words = (file, "--model", model, "--out", out, "--max-new-tokens", 8, "--test", 0.2)
    words = (*words, "--validation", 0.1)
    status, stdout, stderr = invoke(*words, "--json")
    assert status == 0, stderr
    result = json.loads(stdout)
    parts = {name: read_conversations(out / f"{name}.jsonl") for name in ("train", "test")}
    parts["validation"] = read_conversations(out / "validation.jsonl")
    assert {name: len(part) for name, part in parts.items()} == {
        name: result["parts"][name]["replies"] for name in parts
    }
    dialogues = {name: {c.dialogue for c in part} for name, part in parts.items()}
    assert [len(dialogues[name]) for name in parts] == [9, 2, 1]
    assert not dialogues["train"] & dialogues["test"]
    assert not dialogues["validation"] & (dialogues["train"] | dialogues["test"])
    everything = [c for part in parts.values() for c in part]
    expected = cut(read_dialogues(file)[0], STRATEGIES, Cutting())
    assert {c.id for c in everything} <= {c.id for c in expected}
    assert len(everything) + result["empty"] == len(expected)
    assert all(c.response for c in everything)

    import datasets

    loaded = datasets.load_dataset(
        "json", data_files=str(out / "train.jsonl"), split="train", cache_dir=str(tmp_path / "hf")
    )
    assert len(loaded) == len(parts["train"])
    assert loaded[0]["messages"][-1]["role"] == "user"

    before = {path: path.read_bytes() for path in out.rglob("*.json*")}
    assert invoke(*words)[0] == 0  # nothing left to do
    assert {path: path.read_bytes() for path in out.rglob("*.json*")} == before
    status, _, stderr = invoke(*words, "--seed", 7)
    assert status == 1
    assert "holds another run: its setting 'cutting.seed'" in stderr


def test_replies_do_not_depend_on_the_batch_size(tmp_path: Path, model: Path) -> None:
    written = []
    for batch in (2, 32):
        out = tmp_path / str(batch)
        words = (esconv(tmp_path, 3), "--model", model, "--out", out, "--batch-size", batch)
        status, _, stderr = invoke(*words, "--max-new-tokens", 6, "--test", 0, "--validation", 0)
        assert status == 0, stderr
        written.append((out / "train.jsonl").read_bytes())
    assert written[0] == written[1]


def test_a_killed_run_ends_the_same(tmp_path: Path, model: Path) -> None:
    file = esconv(tmp_path, 6)
    words = [str(file), "--model", str(model), "--max-new-tokens", "24", "--batch-size", "2"]
    whole = tmp_path / "whole"
    assert invoke(*words, "--out", whole)[0] == 0
    killed = tmp_path / "killed"
    code = "from sra_fast.cli.entry import main; main()"
    command = [sys.executable, "-c", code, "extend", *words, "--out", str(killed)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env={**os.environ})
    deadline = time.monotonic() + 60
    while len(list(killed.glob("replies/*.jsonl"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = {path.name: path.stat().st_mtime_ns for path in killed.glob("replies/*.jsonl")}
    assert len(done) >= 2
    assert not (killed / "train.jsonl").exists()
    assert invoke(*words, "--out", killed)[0] == 0
    for name in ("train.jsonl", "test.jsonl", "validation.jsonl", "statistics.json"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()
    assert all((killed / "replies" / n).stat().st_mtime_ns == time_ for n, time_ in done.items())


def test_an_endpoint_replies(tmp_path: Path) -> None:
    with always(completion("Here is a response: Take heart.")) as server:
        words = (esconv(tmp_path, 4), "--model", "big", "--endpoint", server.url)
        status, stdout, stderr = invoke(*words, "--out", tmp_path / "out", "--json")
    assert status == 0, stderr
    assert json.loads(stdout)["parts"]["all"]["reply_words"] == 2.0


def test_an_endpoint_that_fails_leaves_what_is_done(tmp_path: Path) -> None:
    with always(failure(401)) as server:
        words = (esconv(tmp_path, 4), "--model", "big", "--endpoint", server.url)
        status, _, stderr = invoke(*words, "--out", tmp_path / "out")
    assert status == 1
    assert "401" in stderr


def test_bad_dialogues_are_named(tmp_path: Path, model: Path) -> None:
    file = tmp_path / "other.json"
    file.write_text('[{"text": "no dialogue"}]', encoding="utf-8")
    status, _, stderr = invoke(file, "--model", model, "--out", tmp_path / "out")
    assert status == 1
    assert "other.json dialogue 0" in stderr
    assert not (tmp_path / "out").exists()
