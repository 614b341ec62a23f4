"""Test the command line: what it writes and prints, how it fails, and that texts stay data."""

from __future__ import annotations

import importlib
import json
import linecache
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy
import pandas
import pytest
import torch
from typer.testing import CliRunner

import sra_fast
from sra_fast import SRAResult, backends, definitions, names
from sra_fast.chat.conversations import read_conversations
from sra_fast.chat.encoding import encode
from sra_fast.chat.templates import TEMPLATES
from sra_fast.cli.app import app
from sra_fast.definitions import DEFINITIONS
from sra_fast.scoring import score
from sra_fast.tools.registry import RESULT_COLUMNS
from tiny_chat_model import save_tiny_model, talk, write_jsonl

COMMANDS = (
    *("score", "merge", "compare", "view", "convert", "demo"),
    *("train", "extend", "evaluate", "judge"),
)
GROUPS = (
    ("annotate", "export"),
    ("annotate", "agree"),
    ("classify", "train"),
    ("classify", "predict"),
)
ANSI = re.compile(r"\x1b\[[0-9;]*m")
OWN_CODE = """
from sra_fast.kernels import reference


def part(rows):
    return rows.tokens.mean(dim=1) / 2


class Plain:
    attention = staticmethod(reference.attention)
    mass_only = staticmethod(reference.mass_only)
"""
ESCONV = [
    {
        "situation": "I lost my job.",
        "dialog": [
            {"speaker": "seeker", "annotation": {}, "content": "Hi."},
            {"speaker": "supporter", "annotation": {"strategy": "Question"}, "content": "Why?"},
        ],
    }
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    records = [talk("c1"), talk("c2", 3), talk("c3", strategy="Chit Chat")]
    return write_jsonl(tmp_path / "chats.jsonl", records)


def call(*arguments: object, status: int = 0) -> tuple[str, str]:
    """Return standard output and standard error of a command that ends with ``status``."""
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(one) for one in arguments])
    assert result.exit_code == status, result.output
    assert "Traceback" not in result.output
    return ANSI.sub("", result.stdout), ANSI.sub("", result.stderr)


def call_json(*arguments: object, status: int = 0) -> dict[str, Any]:
    parsed = json.loads(call(*arguments, "--json", status=status)[0])
    assert isinstance(parsed, dict)
    return parsed


def tree(folder: Path) -> dict[str, bytes | None]:
    """Return everything below a folder: relative path to content, None for folders."""
    return {
        str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
    }


# --- The program itself ---


def test_the_names_are_those_of_the_library() -> None:
    assert list(get_args(names.Definition)) == list(DEFINITIONS)


def test_help_imports_neither_torch_nor_transformers() -> None:
    script = (
        "import sys; from sra_fast.cli.app import app\n"
        "try: app(['score', '--help'])\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'transformers', 'pandas', 'numpy', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("package", ["typer", "rich"])
def test_missing_packages_are_named_with_the_way_to_get_them(package: str) -> None:
    script = (
        f"import sys; sys.modules[{package!r}] = None\nfrom sra_fast.cli.entry import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 2
    assert "pip install 'sra_fast[cli]'" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("command", [*((name,) for name in COMMANDS), *GROUPS])
def test_every_command_has_help_and_json(command: tuple[str, ...]) -> None:
    assert "--json" in call(*command, "--help")[0]


@pytest.mark.parametrize("command", [(), ("annotate",), ("classify",), ("score",), *GROUPS])
def test_h_is_help(command: tuple[str, ...]) -> None:
    assert call(*command, "-h") == call(*command, "--help")


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_the_version_is_printed(option: str) -> None:
    assert call(option) == (f"sra-fast {sra_fast.__version__}\n", "")


def test_the_package_runs_as_the_command() -> None:
    command = [sys.executable, "-m", "sra_fast", "convert", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "Usage: sra-fast convert" in done.stdout


def test_completion_is_installed_for_the_shell(tmp_path: Path) -> None:
    # Which shell it is, is read from the processes above this one.
    script = f"{shlex.quote(sys.executable)} -m sra_fast --install-completion; exit $?"
    environment = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, env=environment, check=True
    )
    assert "bash completion installed" in done.stdout
    assert (tmp_path / ".bash_completions" / "sra-fast.sh").is_file()


@pytest.mark.parametrize(
    ("line", "completions"),
    [
        ("sra-fast sc", ["score"]),
        ("sra-fast annotate ", ["export", "agree"]),
        ("sra-fast score --te", ["--template"]),
    ],
)
def test_names_are_completed(line: str, completions: list[str]) -> None:
    environment = {
        **os.environ,
        "_SRA_FAST_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(line.count(" ")),
    }
    command = [sys.executable, "-m", "sra_fast"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.split() == completions


WRONG = [
    ["score"],
    ["score", "nowhere.jsonl", "--model", "."],
    ["score", __file__],
    ["score", __file__, "--model", ".", "--definition", "best"],
    ["score", __file__, "--model", ".", "--batch-tokens", "0"],
    ["score", __file__, "--model", ".", "--template", "standart"],
    ["score", __file__, "--modell", "."],
    ["compare", __file__, "--model", ".", "--templates", "standard,standard"],
    ["compare", __file__, "--model", ".", "--templates", ","],
    ["convert", __file__],
    ["annotate", "agree"],
    ["annotate", "nonsense"],
    ["classify", "train", __file__, "--out", "x", "--kind", "best"],
    ["classify", "train", __file__, "--out", "x", "--set", "ngrams"],
    ["nonsense"],
]


@pytest.mark.parametrize("wrong", WRONG, ids=" ".join)
def test_wrong_use_ends_with_status_2_and_silent_stdout(wrong: list[str]) -> None:
    stdout, stderr = call(*wrong, status=2)
    assert stdout == ""
    assert stderr


@pytest.mark.parametrize("wrong", WRONG, ids=" ".join)
def test_wrong_use_is_told_as_json_wherever_the_option_stands(wrong: list[str]) -> None:
    for place in range(len(wrong) + 1):
        stdout, stderr = call(*wrong[:place], "--json", *wrong[place:], status=2)
        assert list(json.loads(stdout)) == ["error"]
        assert stderr


def test_wrong_use_as_json_says_what_is_wrong() -> None:
    error = call_json("score", __file__, "--model", ".", "--template", "standart", status=2)
    assert "did you mean 'standard'" in error["error"]
    assert "'nonsense'" in call_json("annotate", "nonsense", status=2)["error"]
    # Behind -- it is the name of a file.
    assert call("convert", "--", "--json", status=2)[0] == ""


@pytest.mark.parametrize("option", ["--json", "--debug"])
@pytest.mark.parametrize("command", [("score", __file__), ("annotate", "agree")])
def test_an_option_before_its_command_is_told_to_go_behind_it(
    option: str, command: tuple[str, ...]
) -> None:
    for place in range(len(command) if command[0] == "annotate" else 1):
        _, stderr = call(*command[:place], option, *command[place:], status=2)
        assert f"{option} goes after the command" in stderr
        assert "--version" not in stderr


def test_a_value_that_is_not_one_of_the_choices_is_refused_in_plain_words() -> None:
    error = call_json("score", __file__, "--model", ".", "--turns", "lst", status=2)["error"]
    assert error.endswith("'lst' is not one of 'all', 'last'.")
    assert "Value error" not in error


def test_an_empty_model_name_is_refused(chats: Path, tmp_path: Path) -> None:
    error = call_json("score", chats, "--model=", "--out", tmp_path / "out", status=1)["error"]
    assert error == "the model's name is empty; give a folder or a name (--model)"


def test_a_bad_strategies_file_is_told_with_its_option(model: Path, chats: Path) -> None:
    error = call_json("score", chats, "--model", model, "--strategies", chats, status=1)["error"]
    assert error.startswith("chats.jsonl line 2")
    assert error.endswith("(--strategies)")


def test_an_unknown_template_names_the_nearest() -> None:
    _, stderr = call("score", __file__, "--model", ".", "--template", "standart", status=2)
    assert "did you mean 'standard'" in re.sub(r"[│\s]+", " ", stderr)


# --- score ---


def test_score_writes_what_the_library_computes(model: Path, chats: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = tmp_path / "out"
    printed = call_json("score", chats, "--model", model, "--out", out)
    batch = encode(AutoTokenizer.from_pretrained(model), read_conversations(chats))
    expected = score(AutoModelForCausalLM.from_pretrained(model), batch)

    assert sorted(path.name for path in out.iterdir()) == [
        "masses.safetensors",
        "run.json",
        "scores.jsonl",
        "scores.parquet",
    ]
    rows = [json.loads(line) for line in (out / "scores.jsonl").read_text().splitlines()]
    assert [(row["conversation_id"], row["turn"]) for row in rows] == [
        *(("c1", turn) for turn in (1, 2)),
        *(("c2", turn) for turn in (1, 2, 3)),
        *(("c3", turn) for turn in (1, 2)),
    ]
    for name in DEFINITIONS:
        numpy.testing.assert_allclose([row[name] for row in rows], expected.score(name), rtol=1e-5)
    assert all(row["sra"] == row["paper"] for row in rows)
    numpy.testing.assert_allclose(
        [row["log_sra"] for row in rows], numpy.log([row["sra"] for row in rows])
    )
    assert printed["scores"] == rows
    assert printed["responses"] == 7
    assert printed["sra"] == pytest.approx(expected.sra.mean().item(), rel=1e-5)

    table = pandas.read_parquet(out / "scores.parquet")
    assert table.to_dict("records") == rows
    saved = SRAResult.load(out / "masses.safetensors")
    torch.testing.assert_close(saved.mass, expected.mass, rtol=1e-5, atol=1e-7)


def test_the_check_of_the_model_is_recorded_and_no_setting(
    model: Path, chats: Path, tmp_path: Path
) -> None:
    command = ("score", chats, "--model", model, "--out", tmp_path / "out")
    told = call(*command, "--no-check")[1]
    assert "self-check of the model: skipped: switched off" in " ".join(told.split())
    masses = tmp_path / "out" / "masses.safetensors"
    assert SRAResult.load(masses).checked == "skipped: switched off"
    assert call_json(*command)["checked"] == "skipped: switched off"  # that of the finished run
    fresh = call_json("score", chats, "--model", model, "--out", tmp_path / "fresh")
    assert fresh["checked"] == "passed"


def test_no_definition_may_be_called_like_a_column(
    model: Path, chats: Path, tmp_path: Path
) -> None:
    row = call_json("score", chats, "--model", model, "--out", tmp_path / "out")["scores"][0]
    table = SRAResult.load(tmp_path / "out" / "masses.safetensors").to_pandas()
    assert {*row, *table.columns} - {*DEFINITIONS} == {*RESULT_COLUMNS}


def test_layout_and_thoughts_are_settings_of_a_run(
    model: Path, chats: Path, tmp_path: Path
) -> None:
    command = ["score", chats, "--model", model, "--out"]
    layout, thoughts = ["--layout", "as_written"], ["--thoughts", "Hope", "slowly,"]
    plain = call_json(*command, tmp_path / "plain")
    found = call_json(*command, tmp_path / "own", *layout, *thoughts)
    for row, other in zip(found["scores"], plain["scores"], strict=True):
        assert row["layout"] == "as_generated"  # the template writes all turns alike
        assert row["response_tokens"] < other["response_tokens"]
    for name, option in (("layout", layout), ("thoughts", thoughts)):
        told = call(*command, tmp_path / "plain", *option, status=1)[1]
        assert f"its setting {name!r}" in told
    told = call(*command, tmp_path / "new", "--thoughts", "<think>", "", status=1)[1]
    assert "the closing tag of a thought is empty" in told
    assert "--thoughts" in told


THEIRS = (
    "from sra_fast.kernels.reference import attention, mass_only\n"
    "def half(rows): return rows.tokens.mean(dim=1) / 2\n"
)


@pytest.mark.parametrize("command", ["score", "compare"])
def test_packages_add_definitions_and_backends(
    command: str, installed: Callable[..., None], model: Path, chats: Path, tmp_path: Path
) -> None:
    installed(THEIRS, definitions="half = theirs:half", backends="exact = theirs")
    own = ["--definition", "half", "--backend", "exact", "--out", tmp_path / "own"]
    one = ["--templates", "standard"] if command == "compare" else []
    found = call_json(command, chats, "--model", model, *one, *own)
    plain = ["--definition", "mass", "--backend", "reference", "--out", tmp_path / "plain"]
    known = call_json(command, chats, "--model", model, *one, *plain)
    assert found["definition"] == "half"
    if command == "compare":
        (own_estimate,), (mass,) = found["by_template"], known["by_template"]
        assert own_estimate["sra"] == pytest.approx(mass["sra"] / 2, rel=1e-6)
        report = (tmp_path / "own" / "compare.md").read_text("utf-8")
        assert "SRA is the `half` definition: a definition of the user's own. " in report
        return
    assert [row["half"] for row in found["scores"]] == pytest.approx(
        [row["mass"] / 2 for row in known["scores"]], rel=1e-6
    )
    assert all(row["sra"] == row["half"] for row in found["scores"])
    again = call_json(command, chats, "--model", model, *own)
    assert again["scores"] == found["scores"]


SHORT_NAN = (
    "def long_only(rows):\n"
    "    share = rows.tokens.mean(dim=1)\n"
    "    return share if rows.tokens.shape[1] > SHORTEST else share * float('nan')\n"
)


@pytest.mark.parametrize("command", ["score", "compare"])
@pytest.mark.parametrize("shortest", [24, 10_000])
def test_responses_that_a_definition_leaves_out_are_counted(
    command: str,
    shortest: int,
    installed: Callable[..., None],
    model: Path,
    tmp_path: Path,
) -> None:
    long = talk("long", 1)
    long["messages"][1]["content"] *= 4
    chats = write_jsonl(tmp_path / "chats.jsonl", [talk("c1"), long])
    installed(f"SHORTEST = {shortest}\n{SHORT_NAN}", definitions="long_only = theirs:long_only")
    given = [command, chats, "--model", model, "--definition", "long_only"]
    given += ["--templates", "standard"] if command == "compare" else []
    stdout, stderr = call(*given, "--json", "--out", tmp_path / "out")
    found = json.loads(stdout)
    estimate = found["by_template"][0] if command == "compare" else found
    undefined = 2 if shortest == 24 else 3
    assert (estimate["responses"], estimate["undefined"]) == (3 - undefined, undefined)
    assert (estimate["sra"] is None) == (undefined == 3)
    assert f"The means leave out {undefined} responses of 3, for which the definition" in stderr
    again = json.loads(call(*given, "--json", "--out", tmp_path / "out")[0])
    assert again == found


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("rows.tokens.mean(dim=1) / 0", "gives an infinite score"),
        ("1 / 0", "failed: ZeroDivisionError: division by zero"),
    ],
)
def test_what_a_definition_does_wrong_is_told_with_the_conversation(
    code: str, told: str, installed: Callable[..., None], model: Path, chats: Path, tmp_path: Path
) -> None:
    installed(f"def wrong(rows): return {code}\n", definitions="wrong = theirs:wrong")
    given = ["score", chats, "--model", model, "--definition", "wrong", "--out", tmp_path / "out"]
    error = call_json(*given, status=1)["error"]
    assert error.startswith("conversation 'c1' (chats.jsonl line 1): at turn 1, definition 'wrong'")
    assert told in error
    assert not list((tmp_path / "out").rglob("*.safetensors"))


def test_a_run_is_one_of_the_same_own_definitions(
    own_names: None, model: Path, chats: Path, tmp_path: Path
) -> None:
    given = ["score", chats, "--model", model, "--out", tmp_path / "out"]
    call(*given)
    definitions.register_definition("half", lambda rows: rows.tokens.mean(dim=1) / 2)
    assert "own_definitions" in call(*given, status=1)[1]


def test_a_run_is_one_of_the_same_own_code(
    own_names: None, model: Path, chats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_code.py").write_text(OWN_CODE)
    monkeypatch.syspath_prepend(tmp_path)
    given = ["score", chats, "--model", model, "--definition", "part", "--backend", "plain"]

    def again(code: str, status: int) -> str:
        (tmp_path / "own_code.py").write_text(code)
        linecache.clearcache()
        module = importlib.reload(importlib.import_module("own_code"))
        for registry in (definitions._OWN, backends._OWN):
            registry._things.clear()
        definitions.register_definition("part", module.part)
        backends.register_backend("plain", module.Plain())
        return call(*given, "--out", tmp_path / "out", status=status)[1]

    again(OWN_CODE, 0)
    again(f"# Moved down.\n{OWN_CODE}", 0)
    assert "own_definitions.part.source_sha256" in again(OWN_CODE.replace("/ 2", "/ 33"), 1)
    changed = f"{OWN_CODE}    note = 'another'\n"
    assert "own_backend.source_sha256" in again(changed, 1)


def test_a_name_of_a_package_that_cannot_be_is_refused_with_the_package(
    installed: Callable[..., None], chats: Path
) -> None:
    installed(
        THEIRS, definitions="sra = theirs:half\nhalf = theirs:half", backends="no-way = theirs"
    )
    given = ["score", chats, "--model", "x"]
    for option, name in (("--definition", "sra"), ("--backend", "no-way")):
        error = call_json(*given, option, name, status=2)["error"]
        assert "package 'theirs' offers a" in error
    offered = call_json(*given, "--definition", "best", status=2)["error"]
    assert "table1, half" in offered
    assert "sra" not in offered.split("not one of")[1]


def test_an_own_name_is_checked_without_torch() -> None:
    script = (
        "import sys; from sra_fast.cli.app import app\n"
        "try: app(['score', 'setup.py', '--model', 'x', '--definition', 'papper'])\n"
        "except SystemExit as end: assert end.code == 2\n"
        "heavy = {'torch', 'transformers', 'pandas', 'numpy', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "did you mean 'paper'?" in " ".join(re.sub("[│╭╮╰╯─]", "", done.stderr).split())


@pytest.mark.parametrize("kind", [names.Definition, names.Backend])
def test_the_help_lists_what_is_built_in(kind: Any) -> None:
    told = " ".join(re.sub("[│╭╮╰╯─]", "", call("score", "--help")[0]).split())
    for name in get_args(kind):
        assert name in told


def test_prompt_tokens_count_what_comes_before_the_reply(
    model: Path, chats: Path, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    rows = call_json("score", chats, "--model", model, "--out", tmp_path / "out")["scores"]
    tokens = AutoTokenizer.from_pretrained(model)("Hope grows slowly, c1 1.")["input_ids"]
    assert rows[0]["response_tokens"] == len(tokens) - 1  # without the BOS it adds by itself
    assert rows[1]["prompt_tokens"] > rows[0]["prompt_tokens"] + rows[0]["response_tokens"]


def test_the_table_goes_to_stdout_and_progress_to_stderr(
    model: Path, chats: Path, tmp_path: Path
) -> None:
    stdout, stderr = call("score", chats, "--model", model, "--out", tmp_path / "out")
    assert "Offer Hope" in stdout
    assert "Chit Chat" in stdout
    assert "tokens" not in stdout
    assert "100%" in stderr


def test_json_alone_reaches_a_real_stdout(model: Path, chats: Path, tmp_path: Path) -> None:
    script = (
        "import os, sra_fast.files.batch_scorer as file_scoring; score = file_scoring.score\n"
        "def noisy(*arguments, **named):\n"
        "    print('noise'); os.write(1, b'raw noise'); os.system('echo noise of a child')\n"
        "    return score(*arguments, **named)\n"
        "file_scoring.score = noisy\n"
        "from sra_fast.cli.entry import main; main()"
    )
    command = [sys.executable, "-c", script, "score", str(chats), "--model", str(model), "--json"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "out")], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout)["responses"] == 7
    assert done.stderr.count("noise") >= 3


def test_results_go_to_a_folder_named_after_the_file(
    model: Path, chats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    call("score", chats, "--model", model)
    assert (tmp_path / "sra-results" / "chats" / "scores.jsonl").is_file()


def test_a_template_and_strategies_of_ones_own(model: Path, chats: Path, tmp_path: Path) -> None:
    template = tmp_path / "mine.json"
    template.write_text(json.dumps({"name": "../mine", "instruction": 'Use "{strategy}".'}))
    strategies = tmp_path / "strategies.json"
    strategies.write_text(json.dumps({"Offer Hope": "Hope.", "Chit Chat": "Chat."}))
    common = ["--model", model, "--strategies", strategies]
    scored = call_json("score", chats, *common, "--template", template, "--out", tmp_path / "a")
    assert {row["template"] for row in scored["scores"]} == {"../mine"}
    compared = call_json(
        "compare", chats, *common, "--templates", f"c1_hf,{template}", "--out", tmp_path / "b"
    )
    assert [row["template"] for row in compared["by_template"]] == ["c1_hf", "../mine"]
    folders = sorted(path.name for path in (tmp_path / "b" / "templates").iterdir())
    assert len(folders) == 2
    assert folders[0].startswith("---mine-")


# --- Bad input: one message, status 1, nothing written ---


BAD_LINES: dict[str, tuple[Callable[[], str], list[str]]] = {
    "malformed": (lambda: '{"id": ', ["chats.jsonl line 2", "not valid JSON"]),
    "unknown strategy": (
        lambda: json.dumps(talk("c7", strategy="Hope")),
        ["'c7'", "line 2", "did you mean 'Offer Hope'?"],
    ),
    "empty response": (
        lambda: json.dumps(talk("c7", response=" ")),
        ["'c7'", "line 2", "'response'", "empty"],
    ),
    "too long": (
        lambda: json.dumps(talk("c7", situation="so " * 2000)),
        ["'c7'", "line 2", "tokens", "reaches to 4096"],
    ),
    "control token": (
        lambda: json.dumps(talk("c7", situation="<|im_end|>")),
        ["'c7'", "line 2", "<|im_end|>"],
    ),
}


@pytest.mark.parametrize("kind", BAD_LINES)
@pytest.mark.parametrize("command", ["score", "compare"])
def test_bad_input_is_one_message_and_leaves_nothing(
    command: str, kind: str, model: Path, tmp_path: Path
) -> None:
    line, words = BAD_LINES[kind]
    file = write_jsonl(tmp_path / "chats.jsonl", [talk("c1")])
    file.write_text(file.read_text() + line() + "\n")
    before = tree(tmp_path)
    arguments = [command, file, "--model", model, "--out", tmp_path / "a" / "out", "--json"]
    stdout, stderr = call(*arguments, status=1)
    message = json.loads(stdout)["error"]
    assert f"error: {message}" in stderr
    for word in words:
        assert word in message
    assert tree(tmp_path) == before


def test_nan_in_the_model_names_the_conversation(
    chats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = save_tiny_model(tmp_path / "broken")
    from safetensors.torch import load_file, save_file

    weights = load_file(broken / "model.safetensors")
    weights["model.layers.1.input_layernorm.weight"].fill_(torch.nan)
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    error = call_json("score", chats, "--model", broken, "--out", tmp_path / "out", status=1)
    assert error["error"].startswith("conversation 'c1' (chats.jsonl line 1): ")
    assert "not finite" in error["error"]


@pytest.mark.parametrize(
    ("name", "words"),
    [("./nowhere", "no such folder"), ("{empty}", "config.json"), ("{file}", "is a file")],
)
def test_a_model_that_is_not_there(name: str, words: str, chats: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    name = name.format(empty=tmp_path / "empty", file=chats)
    assert words in call_json("score", chats, "--model", name, status=1)["error"]


def test_debug_shows_where(chats: Path, tmp_path: Path) -> None:
    arguments = ["score", str(chats), "--model", "./nowhere", "--debug"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert "error: model './nowhere'" in result.stderr


def test_an_interrupt_ends_with_130(
    model: Path, chats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sra_fast.files.batch_scorer.score", interrupted)
    stdout, stderr = call(
        "score", chats, "--model", model, "--out", tmp_path / "out", "--json", status=130
    )
    assert json.loads(stdout) == {"error": "interrupted"}
    assert "the same command continues where it stopped" in stderr


def test_what_keeps_nothing_does_not_promise_to_continue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sra_fast.chat.conversion.convert_file", interrupted)
    (tmp_path / "in.json").write_text(json.dumps(ESCONV))
    stderr = call("convert", tmp_path / "in.json", "--out", tmp_path / "out", status=130)[1]
    assert "interrupted; the same command begins anew" in stderr


@pytest.mark.parametrize(
    ("command", "flag"),
    [("score", "--batch-tokens"), ("evaluate", "--batch-size"), ("convert", None)],
)
def test_a_lack_of_memory_names_an_option_that_the_command_has(
    command: str, flag: str | None, model: Path, chats: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_much(*_: object, **__: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("sra_fast.chat.conversion.convert_file", too_much)
    monkeypatch.setattr("sra_fast.files.models.find_model", too_much)
    of_model = ["--model", model] if command != "convert" else []
    message = call(command, chats, *of_model, "--out", chats.with_name("out"), status=1)[1]
    assert "CUDA out of memory" in message
    assert re.findall(r"try a smaller (\S+)", message) == ([flag] if flag else [])


# --- Folders of other runs ---


def test_a_finished_run_is_printed_again_without_the_model(
    model: Path, chats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    first = call_json("score", chats, "--model", model, "--out", out)
    before = tree(out)
    (out / "scores.parquet").unlink()
    monkeypatch.setattr("sra_fast.files.models.ModelSource.load", None)
    assert call_json("score", chats, "--model", model, "--out", out) == first
    assert tree(out) == before


@pytest.mark.parametrize(
    ("changed", "setting"),
    [
        (["--template", "c1_hf"], "template.name"),
        (["--turns", "last"], "turns"),
        (["--definition", "mass"], "definition"),
        (["--batch-tokens", "100"], "batch_tokens"),
        (["--dtype", "bfloat16"], "dtype"),
    ],
)
def test_another_runs_folder_is_refused_with_the_setting(
    changed: list[str], setting: str, model: Path, chats: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    call("score", chats, "--model", model, "--out", out)
    before = tree(out)
    error = call_json("score", chats, "--model", model, "--out", out, *changed, status=1)["error"]
    assert f"its setting '{setting}' is" in error
    assert "another folder" in error
    assert "(--out)" in error
    assert tree(out) == before


def test_other_input_or_another_model_is_another_run(
    model: Path, chats: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    call("score", chats, "--model", model, "--out", out)
    same_name = save_tiny_model(tmp_path / "other" / "tiny", seed=1)
    error = call_json("score", chats, "--model", same_name, "--out", out, status=1)["error"]
    assert "'model.weights'" in error
    write_jsonl(chats, [talk("c1")])
    error = call_json("score", chats, "--model", model, "--out", out, status=1)["error"]
    assert "'input_sha256'" in error


@pytest.mark.parametrize("command", ["score", "compare"])
def test_a_folder_of_something_else_is_left_alone(
    command: str, model: Path, chats: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    before = tree(tmp_path)
    error = call_json(command, chats, "--model", model, "--out", out, status=1)["error"]
    assert "is not empty" in error
    assert tree(tmp_path) == before


# --- Texts are data ---


def test_texts_are_neither_markup_nor_paths_nor_code(model: Path, tmp_path: Path) -> None:
    names = ["[bold]loud[/bold]", "../../up", "{situation}", "a|b `c` $d$", "\x1b[31mred\x07", "%s"]
    records = [talk(name, situation=f"{name} {{strategy}} [/]") for name in names]
    strategies = tmp_path / "s.json"
    strategy = "[red]Hope[/red] ../up {description} $x$ \x1b[2J|"
    strategies.write_text(json.dumps({strategy: "{strategy} [/nothing]"}))
    file = write_jsonl(tmp_path / "odd.jsonl", [{**one, "strategy": strategy} for one in records])
    common = [file, "--model", model, "--strategies", strategies]
    stdout, stderr = call("score", *common, "--out", tmp_path / "work" / "a")
    assert "[red]Hope[/red] ../up {description} $x$ \\x1b[2J|" in stdout
    assert "\x1b[2J" not in stdout + stderr
    rows = (tmp_path / "work" / "a" / "scores.jsonl").read_text().splitlines()
    assert [json.loads(row)["conversation_id"] for row in rows[::2]] == names

    stdout, stderr = call(
        "compare", *common, "--out", tmp_path / "work" / "b", "--templates", "standard"
    )
    assert "[red]Hope[/red]" in stdout
    assert "\x1b" not in (tmp_path / "work" / "b" / "compare.md").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["odd.jsonl", "s.json", "work"]
    assert sorted(path.name for path in (tmp_path / "work").iterdir()) == ["a", "b"]


def test_an_error_shows_control_characters_instead_of_obeying_them(
    model: Path, tmp_path: Path
) -> None:
    file = write_jsonl(tmp_path / "odd.jsonl", [talk("\x1b[2J[bold]", strategy="\x1b[31m")])
    _, stderr = call("score", file, "--model", model, status=1)
    assert "\\x1b[2J[bold]" in stderr
    assert "\x1b" not in stderr


# --- compare ---


def test_compare_says_what_the_scores_say(model: Path, chats: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    names = ["standard", "c1_hf"]
    compared = call_json(
        "compare", chats, "--model", model, "--templates", ",".join(names), "--out", out
    )
    tables = {
        name: pandas.read_json(out / "templates" / name / "scores.jsonl", lines=True)
        for name in names
    }
    for entry in compared["by_template"]:
        table = tables[entry["template"]]
        assert entry["responses"] == len(table) == 7
        assert entry["dialogues"] == 3
        assert entry["sra"] == pytest.approx(table.sra.mean())
        assert entry["log_sra"] == pytest.approx(numpy.log(table.sra.mean()))
        assert entry["low"] is entry["high"] is None
        assert entry["why"] == "fewer than 8 dialogues, too few for an interval that holds"
    for entry in compared["by_turn"]:
        table = tables[entry["template"]]
        chosen = table[table.turn == entry["turn"]]
        assert entry["sra"] == pytest.approx(chosen.sra.mean())
    third = [entry for entry in compared["by_turn"] if entry["turn"] == 3]
    assert [entry["dialogues"] for entry in third] == [1, 1]
    assert [entry["low"] for entry in third] == [None, None]
    for entry in compared["by_strategy"]:
        table = tables[entry["template"]]
        chosen = table[table.strategy == entry["strategy"]]
        assert entry["sra"] == pytest.approx(chosen.sra.mean())
    assert len(compared["by_strategy"]) == 4

    written = json.loads((out / "compare.json").read_text())
    assert written["by_template"] == compared["by_template"]
    report = (out / "compare.md").read_text()
    for name in ("sra_by_template.png", "sra_by_turn.png", "sra_by_strategy.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
        assert f"]({name})" in report
    assert "mean attention per strategy token" in report


def test_compare_scores_only_the_templates_that_are_new(
    model: Path, chats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = ["compare", chats, "--model", model, "--turns", "last", "--out", tmp_path / "out"]
    call(*common, "--templates", "standard")
    used = note_templates(monkeypatch)
    compared = call_json(*common, "--templates", "c1_hl,standard")
    assert used == ["c1_hl"]
    assert [entry["template"] for entry in compared["by_template"]] == ["c1_hl", "standard"]


def note_templates(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note the template of every batch that is scored from now on."""
    from sra_fast.files.score_file import FileScorer

    used: list[str] = []
    original = FileScorer._score

    def noted(self: Any, job: Any, *others: Any) -> SRAResult:
        used.append(job.template.name)
        return original(self, job, *others)

    monkeypatch.setattr(FileScorer, "_score", noted)
    return used


def test_compare_takes_all_seven_templates_by_default(
    model: Path, chats: Path, tmp_path: Path
) -> None:
    compared = call_json(
        "compare", chats, "--model", model, "--turns", "last", "--out", tmp_path / "out"
    )
    assert {entry["template"] for entry in compared["by_template"]} == set(TEMPLATES)


# --- convert ---


def test_convert_writes_conversations_that_score_takes(model: Path, tmp_path: Path) -> None:
    source = tmp_path / "ESConv.json"
    source.write_text(json.dumps(ESCONV))
    out = tmp_path / "new" / "chats.jsonl"
    converted = call_json("convert", source, "--out", out)
    assert converted["conversations"] == 1
    assert converted["notes"]
    assert read_conversations(out)[0].strategy == "Question"
    assert call_json("score", out, "--model", model, "--out", tmp_path / "s")["responses"] == 1


def test_convert_replaces_nothing_unless_forced(tmp_path: Path) -> None:
    source = tmp_path / "ESConv.json"
    source.write_text(json.dumps(ESCONV))
    out = tmp_path / "chats.jsonl"
    out.write_text("precious")
    assert "--force" in call_json("convert", source, "--out", out, status=1)["error"]
    assert out.read_text() == "precious"
    call("convert", source, "--out", out, "--force")
    assert read_conversations(out)
    assert "already" in call_json("convert", source, "--out", source, "--force", status=1)["error"]
    assert json.loads(source.read_text()) == ESCONV


def test_convert_takes_a_strategy_for_whole_dialogues(tmp_path: Path) -> None:
    source = tmp_path / "ESConv.json"
    source.write_text(json.dumps(ESCONV))
    call("convert", source, "--out", tmp_path / "a.jsonl", "--strategy", "Offer Hope")
    assert read_conversations(tmp_path / "a.jsonl")[0].strategy == "Offer Hope"
    _, stderr = call(
        "convert", source, "--out", tmp_path / "b.jsonl", "--strategy", "Offer Hop", status=2
    )
    assert "did you mean 'Offer Hope'" in re.sub(r"[│\s]+", " ", stderr)
    assert not (tmp_path / "b.jsonl").exists()


# --- demo ---


def test_demo_replaces_its_own_results_and_no_others(
    model: Path, chats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = [talk("short", response="Hope."), talk("long", 5)]
    samples[0]["messages"].pop()
    file = write_jsonl(tmp_path / "samples.jsonl", samples)
    monkeypatch.setattr("sra_fast.cli.demo._CONVERSATIONS", file)
    out = tmp_path / "demo"
    first = call_json("demo", "--model", model, "--out", out)
    assert [entry["responses"] for entry in first["by_template"]] == [1] * 7
    assert [entry["turn"] for entry in first["by_turn"]] == [1, 2, 3, 4, 5]
    assert {entry["template"] for entry in first["by_turn"]} == {"standard"}
    (out / "notes.txt").write_text("mine")
    (out / "compare.md").write_text("stale")
    assert call_json("demo", "--model", model, "--out", out) == first
    assert (out / "notes.txt").read_text() == "mine"
    assert (out / "compare.md").read_text() != "stale"

    scores = tmp_path / "scores"
    call("score", chats, "--model", model, "--out", scores)
    before = tree(scores)
    assert "kind" in call_json("demo", "--model", model, "--out", scores, status=1)["error"]
    assert tree(scores) == before


@pytest.mark.real_model
def test_demo_with_the_real_model_shows_the_drift(tmp_path: Path) -> None:
    done = call_json("demo", "--out", tmp_path / "demo")
    assert done["model"] == "SmolLM2-135M-Instruct"
    by_turn = [entry["sra"] for entry in done["by_turn"]]
    assert len(by_turn) == 64
    assert [entry["responses"] for entry in done["by_template"]] == [5] * 7
    assert numpy.mean(by_turn[:8]) > 5 * numpy.mean(by_turn[-8:])
    assert all(os.path.getsize(tmp_path / "demo" / name) > 0 for name in done["files"])
