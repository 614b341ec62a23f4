"""Test the command line on files of other formats: it names them, converts them and scores them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy
import pandas
import pytest
from typer.testing import CliRunner

import conversation_files as made
from conversation_files import COLUMNS, FILES
from sra_fast.chat.conversations import read_conversations
from sra_fast.cli.app import app
from tiny_chat_model import save_tiny_model, talk, write_jsonl

NAMED = {
    "ESConv": "dialogues as ESConv keeps them (JSON)",
    "MultiESC": "dialogues as ESConv keeps them (JSON, one object a line)",
    "AnnoMI": "a table of utterances as AnnoMI keeps them (CSV)",
    "ShareGPT in gzip": "ShareGPT keeps them (JSON, one object a line, packed by gzip)",
    "OpenAI lines": "messages as OpenAI's interface takes them (JSON, one object a line)",
    "OpenAI in a folder": "a folder that the datasets library saved",
    "Parquet table": "Parquet",
    "CSV": "a table (CSV)",
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


def call(*arguments: object, status: int = 0) -> dict[str, Any]:
    """Return what a command prints as JSON, or its words if it is refused as wrong use."""
    result = CliRunner(env={"COLUMNS": "300"}).invoke(app, [*map(str, arguments), "--json"])
    assert result.exit_code == status, result.output
    assert "Traceback" not in result.output
    if status == 2:
        return {"error": re.sub(r"[│\s]+", " ", result.stderr)}
    found = json.loads(result.stdout)
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("kind", NAMED)
def test_score_names_the_format_and_the_command_that_reads_it(
    model: Path, tmp_path: Path, kind: str
) -> None:
    make, columns = FILES[kind]
    path = make(tmp_path)
    out = tmp_path / "scores"
    error = call("score", path, "--model", model, "--out", out, status=1)["error"]
    assert NAMED[kind] in error
    command = re.search(r"\(sra-fast (convert \S+ --out (\S+))\)$", error)
    assert command is not None
    assert not out.exists()
    more = [] if columns is None else ["--columns", columns]
    call(*command[1].split(), *more)
    assert len(read_conversations(command[2])) == 2


def test_a_file_without_strategies_is_told_so_first(model: Path, tmp_path: Path) -> None:
    messages = talk("a")["messages"]
    path = write_jsonl(tmp_path / "plain.jsonl", [{"messages": messages}])
    out = tmp_path / "scores"
    error = call("score", path, "--model", model, "--out", out, status=1)["error"]
    assert error.startswith("conversation '0' (plain.jsonl line 1): field 'strategy' is missing;")
    command = re.search(r"\(sra-fast (convert \S+ --strategy NAME --out (\S+))\)$", error)
    assert command is not None
    call(*command[1].replace("NAME", "Affirmation").split())
    assert [one.strategy for one in read_conversations(command[2])] == ["Affirmation"]
    kept_apart = {"messages": messages[:1], "response": "Go on."}  # convert reads no response
    other = write_jsonl(tmp_path / "apart.jsonl", [kept_apart])
    error = call("score", other, "--model", model, "--out", out, status=1)["error"]
    assert "line 1): field 'strategy' is missing;" in error
    assert "convert" not in error


def test_every_command_that_reads_conversations_names_the_format(
    model: Path, tmp_path: Path
) -> None:
    path = FILES["ShareGPT lines"][0](tmp_path)
    own = write_jsonl(tmp_path / "own.jsonl", [talk("a")])
    out = tmp_path / "out"
    commands: list[tuple[object, ...]] = [
        ("compare", path, "--model", model),
        ("evaluate", path, "--model", model),
        ("classify", "train", path),
        ("judge", own, path, "--judge", "x", "--endpoint", "http://127.0.0.1:9"),
        ("train", path, "--model", model),
    ]
    for command in commands:
        error = call(*command, "--out", out, status=1)["error"]
        assert "conversations as ShareGPT keeps them" in error, command
        assert "(sra-fast convert " in error, command
    assert not out.exists()


def test_replies_of_one_dialogue_are_scored_alike_together_and_apart(
    model: Path, tmp_path: Path
) -> None:
    path = FILES["AnnoMI"][0](tmp_path)
    scored = {}
    for name, more in (("apart", []), ("together", ["--whole"])):
        chats = tmp_path / f"{name}.jsonl"
        call("convert", path, "--out", chats, *more)
        rows = call("score", chats, "--model", model, "--out", tmp_path / name)["scores"]
        assert [row["strategy"] for row in rows] == ["Question", "Reflection of feelings"]
        assert [row["turn"] for row in rows] == [1, 2]
        scored[name] = [row["sra"] for row in rows]
    assert [one.id for one in read_conversations(tmp_path / "together.jsonl")] == ["0"]
    numpy.testing.assert_allclose(scored["apart"], scored["together"], rtol=1e-5)


def test_metadata_travels_to_the_tables(model: Path, tmp_path: Path) -> None:
    records = [
        talk("a", meta={"site": "north", "age": 30, "share": 1, "mixed": 1, "tags": ["x"]}),
        talk("b", meta={"site": None, "share": 0.5, "mixed": "one", "good": True}),
        talk("c", 1),
    ]
    chats = write_jsonl(tmp_path / "chats.jsonl", records)
    rows = call("score", chats, "--model", model, "--out", tmp_path / "out")["scores"]
    assert rows[0]["meta/site"] == "north"
    assert rows[0]["meta/tags"] == ["x"]
    assert rows[2]["meta/mixed"] == "one"
    assert rows[4]["meta/age"] is None
    lines = (tmp_path / "out" / "scores.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == rows
    table = pandas.read_parquet(tmp_path / "out" / "scores.parquet")
    assert table["meta/share"].tolist()[:3] == [1.0, 1.0, 0.5]
    assert table["meta/mixed"].tolist()[1:3] == ["1", '"one"']
    assert table["meta/tags"][0] == '["x"]'
    assert table["meta/age"].tolist()[0] == 30
    plain = call("score", chats, "--model", model, "--out", tmp_path / "out")["scores"]
    assert plain == rows


def test_convert_tells_what_it_changed_and_names_its_options(tmp_path: Path) -> None:
    path = FILES["CSV"][0](tmp_path)
    out = tmp_path / "out.jsonl"
    error = call("convert", path, "--out", out, status=1)["error"]
    assert "this is a table (it has: 'talk', 'who', 'said', 'label', 'site')" in error
    assert error.endswith("(--columns)")
    names = tmp_path / "map.json"
    names.write_text('{"Question": "Clarification"}')
    done = call("convert", path, "--out", out, "--columns", COLUMNS, "--map", names, "--whole")
    assert "1 strategy was given another name." in done["notes"]
    (one,) = read_conversations(out)
    assert one.strategy_of(1) == "Clarification"
    assert one.meta == {"site": "north"}
    spoken = made.sharegpt_entry()
    spoken["conversations"][0]["from"] = "Klientin"
    chat = write_jsonl(tmp_path / "s.jsonl", [spoken])
    assert call("convert", chat, "--out", tmp_path / "x", status=1)["error"].endswith("(--roles)")
    call("convert", chat, "--out", tmp_path / "x", "--roles", "Klientin=user")
    plain = write_jsonl(tmp_path / "p.jsonl", [{"messages": talk("a")["messages"]}])
    error = call("convert", plain, "--out", tmp_path / "y", status=1)["error"]
    assert error.endswith("give one that all replies are held against. (--strategy)")
    assert not (tmp_path / "y").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--columns", "id"), "'id' is not of the form NAME=VALUE"),
        (("--columns", "id=a,id=b"), "'id' stands there twice"),
        (("--columns", "id=a,rule=b,content=c"), "did you mean 'role'"),
        (("--roles", "ann=boss"), "'ann' is said to be 'boss'"),
        (("--strategy", "Offer Hope", "--whole"), "leave out --whole, or this"),
    ],
)
def test_wrong_options_of_convert_are_wrong_use(
    tmp_path: Path, words: tuple[str, ...], says: str
) -> None:
    path = FILES["ShareGPT lines"][0](tmp_path)
    out = tmp_path / "out.jsonl"
    result = CliRunner(env={"COLUMNS": "300"}).invoke(
        app, ["convert", str(path), "--out", str(out), *words]
    )
    assert result.exit_code == 2, result.output
    assert says in re.sub(r"[│\s]+", " ", result.stderr)
    assert not out.exists()
