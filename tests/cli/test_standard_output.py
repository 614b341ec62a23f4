"""Test commands whose output goes nowhere, and errors that other libraries raise."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import krippendorff
import pytest
from typer.testing import CliRunner

from sra_fast.cli.app import app

ROWS = "item,annotator,preference,sra_a,sra_b,system_a,system_b\n" + "".join(
    f"i{n},{name},{n - 2},0,{n},a,b\n" for n in range(5) for name in ("ann", "bob")
)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    file = tmp_path / "t.csv"
    file.write_text(ROWS)
    return file


def closed_pipe() -> int:
    """Return the writing end of a pipe that nobody reads any more, as under ``| head -0``."""
    reading, writing = os.pipe()
    os.close(reading)
    return writing


@pytest.mark.parametrize("words", [["--version"], ["annotate", "agree", "TABLE", "--json"]])
@pytest.mark.parametrize("output", ["full", "unread", "closed"])
def test_an_output_that_takes_nothing_ends_with_a_status(
    table: Path, words: list[str], output: str
) -> None:
    if output == "full" and not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    program = [
        sys.executable,
        "-m",
        "sra_fast",
        *(str(table) if w == "TABLE" else w for w in words),
    ]
    more: dict[str, Any] = {}
    if output == "closed":
        program = ["sh", "-c", 'exec "$0" "$@" >&-', *program]
    else:
        more["stdout"] = os.open("/dev/full", os.O_WRONLY) if output == "full" else closed_pipe()
    done = subprocess.run(program, stderr=subprocess.PIPE, text=True, **more)
    if "stdout" in more:
        os.close(more["stdout"])
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    if output != "unread" or "--json" in words:  # typer itself ends silently where nobody reads
        assert "error: the result could not be written to standard output (" in done.stderr


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ValueError("Input contains NaN."), "ValueError: Input contains NaN. (while working on"),
        (KeyError("x"), "KeyError: x (while working on"),
        (OSError("it broke"), "OSError: it broke (while working on"),
        (RuntimeError("no"), "RuntimeError: no (while working on"),
        (ValueError(), "ValueError (while working on"),
    ],
    ids=["ValueError", "KeyError", "OSError", "RuntimeError", "empty"],
)
def test_an_error_of_another_library_names_the_file(
    table: Path, error: Exception, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(krippendorff, "alpha", fails)
    result = CliRunner().invoke(app, ["annotate", "agree", str(table), "--json"])
    assert result.exit_code == 1
    assert json.loads(result.stdout)["error"] == f"{says} t.csv; --debug shows where)"


def test_an_error_of_this_library_and_one_that_names_its_file_stay_as_they_are(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise FileNotFoundError(2, "No such file or directory", "gone.csv")

    monkeypatch.setattr(krippendorff, "alpha", fails)
    result = CliRunner().invoke(app, ["annotate", "agree", str(table), "--json"])
    assert "gone.csv" in json.loads(result.stdout)["error"]
    assert "while working" not in result.stdout
    table.write_text(ROWS.replace("i4,bob", "i3,bob"))
    result = CliRunner().invoke(app, ["annotate", "agree", str(table), "--json"])
    assert "was judged by 'bob'" in json.loads(result.stdout)["error"]
    assert "while working" not in result.stdout
