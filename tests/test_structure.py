"""Test the project's structure: imports go one way, and a file is found by its name."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TREES = {
    "sra_fast": "sra_fast",
    "kernels/span_attention": "sra_fast/kernels",
    "training": "sra_fast/training",
}
LINKS = ("kernels", "training")
COMMANDS = ("sra_fast/cli", "training/cli")


def python_files(*folders: str) -> list[Path]:
    """Return all Python files below folders of the checkout, each once, as relative paths."""
    return [
        file.relative_to(ROOT)
        for folder in folders
        for file in sorted((ROOT / folder).rglob("*.py"))
        if not set(file.relative_to(ROOT / "sra_fast").parts[:1] if folder == "sra_fast" else ())
        & set(LINKS)
    ]


def imported(file: Path) -> set[str]:
    """Return the first part of every absolute import of a file, at any depth of it."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.split(".")[0])
    return found


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    command = [sys.executable, "-c", code, "--config", str(ROOT / "pyproject.toml"), "--no-cache"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the installed tree, in which imports can be planted."""
    folder = tmp_path_factory.mktemp("tree")
    for name, inside in TREES.items():
        ignored = shutil.ignore_patterns("__pycache__", *(LINKS if name == "sra_fast" else ()))
        shutil.copytree(ROOT / name, folder / inside, ignore=ignored)
    return folder


def test_imports_go_one_way(tree: Path) -> None:
    done = lint_imports(tree)
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout


@pytest.mark.parametrize(
    ("place", "wrong"),
    [
        ("tools/printable.py", "import sra_fast.cli.app"),
        ("chat/conversations.py", "from sra_fast.measure import spans"),
        ("measure/spans.py", "def late():\n    from sra_fast.scoring import score"),
        ("report/write.py", "from sra_fast.training import SRACallback"),
        ("kernels/contract.py", "from sra_fast import op"),
        ("cli/app.py", "from sra_fast.training.cli.train import train"),
    ],
)
def test_an_import_against_the_way_is_found(tree: Path, place: str, wrong: str) -> None:
    file = tree / "sra_fast" / place
    before = file.read_text(encoding="utf-8")
    try:
        file.write_text(f"{before}\n{wrong}\n", encoding="utf-8")
        done = lint_imports(tree)
    finally:
        file.write_text(before, encoding="utf-8")
    assert done.returncode == 1, done.stdout
    assert "1 broken" in done.stdout


@pytest.mark.parametrize("file", python_files(*TREES), ids=str)
def test_the_library_imports_neither_tests_nor_benchmarks(file: Path) -> None:
    support = {path.stem for path in (ROOT / "tests" / "support").glob("*.py")}
    assert not imported(file) & {"benchmarks", "tests", "conftest", *support}


def test_benchmarks_do_not_import_the_insides_of_tests() -> None:
    support = {path.stem for path in (ROOT / "tests" / "support").glob("*.py")}
    for file in python_files("benchmarks"):
        allowed = {"op_cases", "op_truth"}  # the GPU report runs the tests' grid
        assert not imported(file) & ({"tests", "conftest"} | support - allowed), file


def test_a_file_name_is_found_once() -> None:
    """Leave out ``__init__``, ``__main__`` and the command line's files, whose names recur."""
    names = Counter(
        file.name
        for file in python_files(*TREES, "benchmarks", "tests")
        if not file.name.startswith("__") and not str(file.parent).startswith(COMMANDS)
    )
    assert [name for name, count in names.items() if count > 1] == []


@pytest.mark.parametrize("tree_name", ["kernels/span_attention", "training"])
def test_imports_inside_the_linked_trees_are_relative(tree_name: str) -> None:
    own = "sra_fast." + TREES[tree_name].rpartition("/")[2]
    for file in python_files(tree_name):
        for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                assert not f"{node.module}.".startswith(f"{own}."), f"{file}: {node.module}"


FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]+")
INSTALL = re.compile(r"pip install( --[a-z-]+)+")
CALLS_GIT = Path("sra_fast/files/provenance.py")


def texts(tree: ast.AST) -> list[str]:
    """The string constants of a piece of code that are no docstrings."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and node.body
        if isinstance(node.body[0], ast.Expr)
    }
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if id(node) not in docstrings
    ]


def commanded(source: str) -> list[str]:
    """The flags in the texts of a piece of code, and the commands that its errors name."""
    tree = ast.parse(source)
    found = [flag for text in texts(tree) for flag in FLAG.findall(INSTALL.sub("", text))]
    errors = [node for node in ast.walk(tree) if isinstance(node, ast.Raise)]
    return found + [text for one in errors for text in texts(one) if "sra-fast " in text]


def test_flags_and_commands_are_found_in_texts() -> None:
    source = """
def work():
    \"\"\"As --this does.\"\"\"
    raise ValueError(f"{error}; give --eval-data FILE, pip install --no-deps x")
    raise ValueError("(--out)", "train it by 'sra-fast classify train'", "a--b", "--", "---")
"""
    assert set(commanded(source)) == {
        "--eval-data",
        "--out",
        "train it by 'sra-fast classify train'",
    }


def test_the_library_names_neither_flags_nor_commands() -> None:
    """Whoever calls it from Python has none; the command line adds the options to an error."""
    found = {
        str(file): names
        for file in python_files(*TREES)
        if not file.as_posix().startswith(COMMANDS) and file != CALLS_GIT
        if (names := commanded((ROOT / file).read_text(encoding="utf-8")))
    }
    assert not found
