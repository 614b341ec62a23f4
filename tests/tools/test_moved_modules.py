"""Test that the old import paths go on working, with a warning that names the new ones."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sra_fast.tools.moved_modules import present_path

CHANGES = Path(__file__).resolve().parents[2] / "CHANGELOG.md"
MOVE = re.compile(r"^\| `(sra_fast\.\S+)`[^|]*\| `(sra_fast\.\S+)`", re.MULTILINE)
TOLD = MOVE.findall(CHANGES.read_text(encoding="utf-8"))
TAKEN = {"sra_fast.files", "sra_fast.report", "sra_fast.training.data", "sra_fast.training.lora"}


def test_every_move_that_is_told_is_followed_where_the_old_path_is_free() -> None:
    moves = {}
    for old, new in TOLD:
        moves.setdefault(old, new)
    assert len(moves) > 80
    for old, new in moves.items():
        assert present_path(old) == (None if old in TAKEN else new)


def test_an_old_path_gives_the_module_of_the_new_one_and_warns() -> None:
    code = """
import warnings
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    from sra_fast.training.evaluation.heads import analyse_heads as old
    from sra_fast.smollm2 import smollm2_folder as old_folder
from sra_fast.training.pipeline.evaluation.heads import analyse_heads
from sra_fast.files.smollm2 import smollm2_folder
assert old is analyse_heads and old_folder is smollm2_folder
for one in told:
    if issubclass(one.category, DeprecationWarning) and "old path" in str(one.message):
        print(one.message)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        f"sra_fast.{old} is now sra_fast.{new}; the old path goes with version 0.2"
        for old, new in (
            ("training.evaluation", "training.pipeline.evaluation"),
            ("training.evaluation.heads", "training.pipeline.evaluation.heads"),
            ("smollm2", "files.smollm2"),
        )
    ]


@pytest.mark.parametrize("path", ["sra_fast.nothing", "sra_fast.training.evaluation.nothing"])
def test_a_path_that_never_was_is_not_found(path: str) -> None:
    with pytest.raises(ModuleNotFoundError, match="nothing"):
        importlib.import_module(path)


def test_no_present_module_stands_under_an_old_path() -> None:
    root = Path(importlib.import_module("sra_fast").__file__ or "").parent
    for file in root.rglob("*.py"):
        path = ".".join(("sra_fast", *file.relative_to(root).with_suffix("").parts))
        assert present_path(path) is None, path
