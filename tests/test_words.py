"""Docstrings begin with a sentence that can stand alone, and the name of a type means one type."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TREES = ("sra_fast", "kernels", "training", "benchmarks", "examples", "docs/hooks")
LINKS = ("sra_fast/kernels", "sra_fast/training")

_FEWEST_WORDS = 4
_VERB = re.compile(
    "(Add|Ask|Compute|Connect|Describe|Encode|Hold|Identify|Load|Log|Name|Note|Pack|Pad|Prepare|Read"
    "|Refuse|Reply|Report|Represent|Return|Run|Say|Score|Show|Space|Stand|Tell|Train|Write)s? "
)
_DANGLING = re.compile(r"^ +\w+(?:, \w+)*: (?:of|from|as for) .*$", re.MULTILINE)


def python_files() -> list[str]:
    """Return setup.py and all Python files of the trees, as relative paths, each once."""
    files = [file.relative_to(ROOT) for tree in TREES for file in (ROOT / tree).rglob("*.py")]
    own = [file.as_posix() for file in files if not any(map(file.is_relative_to, LINKS))]
    return sorted(["setup.py", *own])


def parsed(file: str) -> ast.Module:
    return ast.parse((ROOT / file).read_text(encoding="utf-8"))


def telegrams(module: ast.Module) -> list[str]:
    """The docstrings that do not begin with a sentence, each with the line it belongs to."""
    found = []
    for node in ast.walk(module):
        if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        text = ast.get_docstring(node)
        if text is None:
            continue
        first = text.partition("\n\n")[0]
        if len(first.split()) < _FEWEST_WORDS or not first.endswith("."):
            found.append(f"line {getattr(node, 'lineno', 1)}: {first}")
    return found


def bare_verbs(module: ast.Module) -> list[str]:
    """The classes whose docstring says what they do ("Hold …", "Packs …"), not what they are."""
    classes = [node for node in ast.walk(module) if isinstance(node, ast.ClassDef)]
    return [node.name for node in classes if _VERB.match(ast.get_docstring(node) or "")]


@pytest.mark.parametrize("file", python_files())
def test_the_docstring_of_a_class_begins_with_a_noun(file: str) -> None:
    assert bare_verbs(parsed(file)) == []


@pytest.mark.parametrize("verb", ["Hold", "Packs", "Represent"])
def test_a_class_that_begins_with_a_verb_is_found(verb: str) -> None:
    assert bare_verbs(ast.parse(f'class C:\n    """{verb} all the keys of a call."""')) == ["C"]


def dangling_arguments(module: ast.Module) -> list[str]:
    """The entries of docstrings that say of what a thing is, but not what: "name: of a file."."""
    nodes = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    texts = [ast.get_docstring(n) or "" for n in ast.walk(module) if isinstance(n, nodes)]
    return [entry for text in texts for entry in _DANGLING.findall(text)]


@pytest.mark.parametrize("file", python_files())
def test_an_argument_is_described_by_a_whole_phrase(file: str) -> None:
    assert dangling_arguments(parsed(file)) == []


@pytest.mark.parametrize("entry", ["path: of the file", "retries, timeout: of a request"])
def test_a_dangling_argument_is_found(entry: str) -> None:
    text = f'def f():\n    """Do a thing with it.\n\n    Args:\n        {entry}.\n    """'
    assert len(dangling_arguments(ast.parse(text))) == 1


@pytest.mark.parametrize("file", python_files())
def test_a_docstring_begins_with_a_sentence(file: str) -> None:
    assert telegrams(parsed(file)) == []


@pytest.mark.parametrize(
    "text", ["Likewise.", "Of several processes.", "Return the mean over all layers", ""]
)
def test_a_telegram_is_found(text: str) -> None:
    assert len(telegrams(ast.parse(f'def f():\n    """{text}"""'))) == 1


def types(module: ast.Module) -> list[str]:
    """Return the names of the classes of a file, and of its aliases of types."""
    classes = [node.name for node in ast.walk(module) if isinstance(node, ast.ClassDef)]
    aliases = [
        target.id
        for node in module.body
        if isinstance(node, ast.Assign) and isinstance(node.value, (ast.Subscript, ast.BinOp))
        for target in node.targets
        if isinstance(target, ast.Name) and not target.id.isupper() and target.id[0].isupper()
    ]
    return classes + aliases


def test_classes_and_aliases_of_types_are_found() -> None:
    source = "Row = dict[str, int]\nNumber = int | float\nPLACE = A / 'b'\nclass C: ...\nx = a[0]"
    assert set(types(ast.parse(source))) == {"C", "Row", "Number"}


def test_the_name_of_a_type_is_defined_once() -> None:
    places = defaultdict(list)
    for file in python_files():
        for name in types(parsed(file)):
            places[name].append(file)
    assert {name: files for name, files in places.items() if len(files) > 1} == {}
