"""Test that a text is a number only if people write numbers so, wherever one is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sra_fast.cli.app import COMMANDS, app
from sra_fast.tools.number_text import finite_number, whole_number
from sra_fast.tools.strict_json import parse_json

NO_NUMBERS = ("1_0", "1_0.5", "nan", "NaN", "inf", "-Infinity", "٣", "１", "0x1F", "1,5", "1 0", "")


@pytest.mark.parametrize(
    ("text", "number"),
    [("1", 1.0), (" -2 ", -2.0), ("+.5", 0.5), ("3.", 3.0), ("1e-4", 1e-4), ("-1.5E+2", -150.0)],
)
def test_numbers_as_people_write_them(text: str, number: float) -> None:
    assert finite_number(text) == number


@pytest.mark.parametrize(("text", "number"), [("12", 12), (" -3\n", -3), ("+4", 4), ("007", 7)])
def test_whole_numbers(text: str, number: int) -> None:
    assert whole_number(text) == number


@pytest.mark.parametrize("text", [*NO_NUMBERS, "1e999", "1" * 5000])
def test_no_numbers(text: str) -> None:
    assert finite_number(text) is None
    assert whole_number(text) is None


def test_a_fraction_is_no_whole_number() -> None:
    assert whole_number("1.0") is None
    assert whole_number("1e2") is None


def test_every_number_option_of_every_command_refuses_them(tmp_path: Path) -> None:
    from typer.main import get_command

    (tmp_path / "x.json").write_text("{}")
    tried = 0
    for name in COMMANDS:
        command = get_command(app).commands[name]  # type: ignore[attr-defined]
        for path, one in [
            *(((name, sub), inner) for sub, inner in getattr(command, "commands", {}).items()),
            *([] if hasattr(command, "commands") else [((name,), command)]),
        ]:
            for option in one.params:
                if option.metavar not in ("N", "NUMBER", "SHARE", "SECONDS"):
                    continue
                words = [*path, max(option.opts, key=len), "1_0", "--json"]
                result = CliRunner().invoke(app, words)
                assert result.exit_code == 2, words
                assert "'1_0' is not a" in json.loads(result.stdout)["error"], words
                tried += 1
    assert tried > 50


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_json_has_no_such_numbers(constant: str) -> None:
    with pytest.raises(ValueError, match=f"x.json line 1: {constant} is no number of JSON"):
        parse_json(f'{{"sra": {constant}}}', "x.json", raises=ValueError)
