"""Test what ``sra-fast extend`` cuts, draws and writes, and that a killed run ends the same."""

from __future__ import annotations

import inspect
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

from fake_endpoint import HANG, FakeEndpoint, Request, Response, always, completion, failure
from sra_fast.chat.conversations import read_conversations
from sra_fast.chat.conversion import read_dialogues
from sra_fast.chat.dialogues import Dialogue, Turn
from sra_fast.chat.strategies import STRATEGIES
from sra_fast.chat.templates import TEMPLATES
from sra_fast.cli.app import app
from sra_fast.training.cli.extend import extend
from sra_fast.training.cli.reproduce import reproduce
from sra_fast.training.pipeline.extension.counts import as_markdown, describe
from sra_fast.training.pipeline.extension.cuts import Cutting, ExtensionError, cut
from sra_fast.training.pipeline.extension.extend import Extension, cut_and_split
from sra_fast.training.pipeline.generation.sampling import Sampling
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
    """Write a file of dialogues with messages to merge."""
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
def test_cuts_lie_after_5_to_23_turns_that_end_with_the_seeker(opens: str) -> None:
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
    with pytest.raises(ExtensionError, match="nothing to write in 1 dialogue:"):
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


def test_a_strategys_name_leaves_the_table_whole() -> None:
    found = cut([dialogue(1)], {"A|B": "a"}, Cutting(probability=1.0))
    page = as_markdown(describe({"train": found}, ["A|B"]))
    assert r"| A\|B | 10 | 10 | 1.0 |" in page.splitlines()


@pytest.mark.parametrize("command", [extend, reproduce])
def test_the_shares_are_the_papers_dialogues(tmp_path: Path, command: object) -> None:
    defaults = inspect.signature(command).parameters  # type: ignore[arg-type]
    shares = {name: defaults[name].default for name in ("test", "validation")}
    extension = Extension(
        file=esconv(tmp_path, 1297),
        out=tmp_path / "out",
        template=TEMPLATES["c1_hf"],
        strategies={"A": "a"},
        cutting=Cutting(probability=1.0, cuts=1),
        sampling=Sampling(),
        replier={},
        **shares,
    )
    parts = cut_and_split(extension).parts
    assert {name: len(part) for name, part in parts.items()} == {
        "train": 1147,
        "test": 100,
        "validation": 50,
    }


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

    assert json.loads((out / "run.json").read_text())["finished"] is True
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


def echo(request: Request, number: int = 0) -> Response:
    """Return a reply that tells which prompt it answers."""
    return completion(f"Reply {request.body['seed']}")


def seeds(out: Path) -> list[int]:
    """Return the seeds of the prompts whose replies are kept."""
    kept = [line for path in out.glob("replies/*.jsonl") for line in path.read_text().splitlines()]
    return sorted(int(json.loads(line)["text"].split()[1]) for line in kept)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (failure(401), "refused the key"),
        (failure(500, "so sorry"), "so sorry"),
        (failure(429, "slowly"), "too many requests"),
        (Response("{"), "is not JSON"),
    ],
    ids=["401", "500", "429", "malformed"],
)
def test_an_endpoint_that_dies_leaves_every_reply_that_came(
    tmp_path: Path, fault: Response, says: str
) -> None:
    out, file = tmp_path / "out", esconv(tmp_path, 6)
    with FakeEndpoint(echo) as server:
        words = (file, "--model", "big", "--endpoint", server.url, "--batch-size", 4)
        assert invoke(*words, "--out", tmp_path / "whole")[0] == 0
        every = seeds(tmp_path / "whole")
        assert every == sorted(request.body["seed"] for request in server.requests)

        server.requests.clear()
        server.answer = lambda request, number: echo(request) if number < 6 else fault
        status, _, stderr = invoke(*words, "--out", out)
        assert status == 1
        kept = seeds(out)
        assert len(kept) == 6
        assert says in stderr
        assert f"{len(every) - 6} of {len(every)} prompts have no reply" in stderr
        assert not (out / "train.jsonl").exists()

        server.requests.clear()
        server.answer = echo
        assert invoke(*words, "--out", out)[0] == 0
        asked = sorted(request.body["seed"] for request in server.requests)
    assert asked == sorted(set(every) - set(kept))
    for name in ("train.jsonl", "test.jsonl", "validation.jsonl", "statistics.json"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_prompt_that_is_refused_is_a_gap_and_asked_again(tmp_path: Path) -> None:
    out, file = tmp_path / "out", esconv(tmp_path, 6)
    with FakeEndpoint(echo) as server:
        words = (file, "--model", "big", "--endpoint", server.url, "--batch-size", 4)
        words = (*words, "--out", out)

        def hard(request: Request) -> bool:
            return request.text.endswith("at 6, part 0") and request.body["seed"] % 2 == 0

        def filtered(request: Request, number: int) -> Response:
            return failure(400, "content filter") if hard(request) else echo(request)

        server.answer = filtered
        status, _, stderr = invoke(*words)
        assert status == 1
        everything = len(server.requests)
        left = sum(map(hard, server.requests))
        assert 0 < left == everything - len(seeds(out))
        assert f"{left} of {everything} prompts have no reply" in stderr
        assert "content filter" in stderr
        described = json.loads((out / "statistics.json").read_text())
        assert described["missing"] == left
        assert json.loads((out / "run.json").read_text())["finished"] is False
        assert described["parts"]["all"]["replies"] == everything - left

        server.requests.clear()
        server.answer = echo
        assert invoke(*words)[0] == 0
    assert len(server.requests) == left
    described = json.loads((out / "statistics.json").read_text())
    assert (described["missing"], described["parts"]["all"]["replies"]) == (0, everything)


def test_retries_and_timeout_reach_the_endpoint(tmp_path: Path) -> None:
    words = (esconv(tmp_path, 4), "--model", "big", "--max-new-tokens", 5, "--out", tmp_path / "o")
    with always(HANG) as server:
        given = ("--endpoint", server.url, "--timeout", 0.1, "--retries", 0)
        status, _, stderr = invoke(*words, *given)
    assert status == 1
    assert "did not answer within 0.1 s (with up to 0 retries)" in " ".join(stderr.split())
    asked = [json.dumps(request.body) for request in server.requests]
    assert len(asked) == len(set(asked))


def test_empty_replies_are_counted_and_no_reply_at_all_is_an_error(tmp_path: Path) -> None:
    def answer(request: Request, number: int) -> Response:
        return completion("" if request.body["seed"] % 2 else "Take heart.")

    with FakeEndpoint(answer) as server:
        words = (esconv(tmp_path, 4), "--model", "big", "--endpoint", server.url)
        status, stdout, stderr = invoke(*words, "--out", tmp_path / "out", "--json")
        assert status == 0, stderr
        result = json.loads(stdout)
        empty = sum(request.body["seed"] % 2 for request in server.requests)
        assert 0 < result["empty"] == empty
        assert result["parts"]["all"]["replies"] == len(server.requests) - empty
        server.answer = lambda request, number: completion("assistant: ")
        status, _, stderr = invoke(*words, "--out", tmp_path / "none")
    assert status == 1
    assert "replies are empty; check that the model is a chat model" in stderr


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([{"text": "no dialogue"}], "other.json[0]: this is a table"),
        (
            [
                {"dialog": [{"speaker": "seeker", "content": "Hi"}]},
                {"dialog": [{"speaker": "usr", "text": "Hi"}]},
            ],
            "other.json[1], dialog[0]: mixes dialects",
        ),
        (
            [{"id": "a", "messages": [], "strategy": "Offer Hope"}],
            "nothing to write in 1 dialogue:",
        ),
        ([{"dialog": [{"speaker": "seeker", "content": 5}]}], "'content' must be a string"),
        ([{"dialog": [{"speaker": "seeker", "content": "Hi"}]}], "nothing to write in 1 dialogue:"),
    ],
    ids=["other", "mixed", "conversations", "a number", "too short"],
)
def test_bad_dialogues_are_named(tmp_path: Path, model: Path, content: object, says: str) -> None:
    file = tmp_path / "other.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    status, _, stderr = invoke(file, "--model", model, "--out", tmp_path / "out")
    assert status == 1
    assert says in stderr
    assert not (tmp_path / "out").exists()


def test_a_dialogue_that_stands_there_twice_is_in_one_part(tmp_path: Path) -> None:
    entries = json.loads(esconv(tmp_path, 4).read_text())
    entries += [{**entry, "dialog": entry["dialog"][:9]} for entry in entries]  # cut shorter
    entries.append({**entries[0], "dialog": entries[0]["dialog"][:2]})
    file = tmp_path / "twice.json"
    file.write_text(json.dumps(entries), encoding="utf-8")
    with always(completion("Take heart.")) as server:
        words = (file, "--model", "big", "--endpoint", server.url, "--out", tmp_path / "out")
        status, _, stderr = invoke(*words, "--test", 0.3, "--validation", 0.3)
    assert status == 0, stderr
    assert "4 dialogues begin like an earlier one" in stderr
    assert "5 of 9 dialogues give no conversation" in stderr
    said = []
    for part in ("train", "test", "validation"):
        found = read_conversations(tmp_path / "out" / f"{part}.jsonl")
        said.append({c.messages[0].content for c in found})
    assert [len(one) for one in said] == [2, 1, 1]
    assert len(set.union(*said)) == 4


@pytest.mark.parametrize(
    ("count", "shares", "says"),
    [
        (6, (0.6, 0.6), "together below 1, found 0.6 and 0.6"),
        (6, (1.0, 0.0), "together below 1"),
        (2, (0.1, 0.1), "2 of the dialogues can be cut, and a split into 3 parts needs 3"),
        (1, (0.1, 0.0), "1 of the dialogues can be cut"),
    ],
)
def test_a_split_that_cannot_be_is_refused_before_anything_is_generated(
    tmp_path: Path, count: int, shares: tuple[float, float], says: str
) -> None:
    with always(completion("Take heart.")) as server:
        words = (esconv(tmp_path, count), "--model", "big", "--endpoint", server.url)
        words = (*words, "--test", shares[0], "--validation", shares[1])
        status, _, stderr = invoke(*words, "--out", tmp_path / "out")
    assert status == 1
    assert says in stderr
    assert not server.requests
    assert not (tmp_path / "out").exists()
