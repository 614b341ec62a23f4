"""Every help text is a sentence that can stand alone, of ``sra-fast`` and of the benchmarks."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from sra_fast.cli.app import app

ROOT = Path(__file__).resolve().parents[2]
_FEWEST_WORDS = 4
_DOUBLED = re.compile(r"\b(\w+)\s+\1\b", re.IGNORECASE)


def problem(text: str | None) -> str | None:
    """Return what keeps a help text from being a sentence, or None."""
    if not text:
        return "no help"
    if len(text.split()) < _FEWEST_WORDS:
        return "a telegram"
    if not text.endswith("."):
        return "no full stop at the end"
    doubled = _DOUBLED.search(text)
    return doubled and f"doubled: {doubled.group()}"


def commands(group: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield a group and all commands and groups below it, with their full names."""
    yield path, group
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, f"{path} {name}")


EVERY_COMMAND = dict(commands(get_command(app), "sra-fast"))


def argparse_helps(file: Path) -> list[tuple[str, str]]:
    """Return the help texts in a program of the benchmarks, each with the line it is on."""
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        name = node.func.attr if isinstance(node, ast.Call) and hasattr(node.func, "attr") else ""
        if name != "add_argument":
            continue
        assert isinstance(node, ast.Call)
        written = next((word.value for word in node.keywords if word.arg == "help"), None)
        if written is not None and ast.unparse(written) == "argparse.SUPPRESS":
            continue
        found.append((f"line {node.lineno}", "" if written is None else literal_text(written)))
    return found


def literal_text(node: ast.expr) -> str:
    """Return the text of an expression; "X" stands for what is computed in it."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(literal_text(part) for part in node.values)
    if isinstance(node, ast.BinOp):
        return literal_text(node.left) + literal_text(node.right)
    return "X"


@pytest.mark.parametrize("path", EVERY_COMMAND)
def test_a_command_and_its_parameters_have_sentences(path: str) -> None:
    command = EVERY_COMMAND[path]
    texts = {"the command": command.help, "the first line": (command.help or "").split("\n\n")[0]}
    texts |= {parameter.name: parameter.help for parameter in command.params}
    assert {name: problem(text) for name, text in texts.items() if problem(text)} == {}


@pytest.mark.parametrize(
    "name",
    ["as_json", "debug", "strategies", "device", "template", "temperature", "top_p", "retries"],
)
def test_a_shared_parameter_is_worded_once(name: str) -> None:
    parameters = [one for command in EVERY_COMMAND.values() for one in command.params]
    assert len({one.help for one in parameters if one.name == name}) == 1


@pytest.mark.parametrize("path", EVERY_COMMAND)
def test_a_paragraph_is_one_line_that_the_terminal_wraps(path: str) -> None:
    assert "\n" not in (EVERY_COMMAND[path].help or "").replace("\n\n", "")


@pytest.mark.parametrize("columns", [60, 100])
def test_lines_of_a_description_are_filled(columns: int) -> None:
    command = [sys.executable, "-m", "sra_fast", "annotate", "agree", "--help"]
    environment = {**os.environ, "COLUMNS": str(columns), "PYTHONIOENCODING": "utf-8"}
    shown = subprocess.run(
        command, capture_output=True, encoding="utf-8", check=True, env=environment
    )
    *_, description = re.split(r"\n\s*\n", shown.stdout.partition("╭")[0].rstrip())
    *filled, _ = description.splitlines()
    assert filled
    assert all(len(line.rstrip()) > columns - 20 for line in filled), description


@pytest.mark.parametrize(
    "file",
    sorted(file.relative_to(ROOT).as_posix() for file in (ROOT / "benchmarks").rglob("*.py")),
)
def test_a_program_of_the_benchmarks_has_sentences(file: str) -> None:
    helps = argparse_helps(ROOT / file)
    assert {where: problem(text) for where, text in helps if problem(text)} == {}


@pytest.mark.parametrize("text", [None, "Passes.", "Of all that is drawn", "Print the the JSON."])
def test_a_bad_help_text_is_found(text: str | None) -> None:
    assert problem(text)
