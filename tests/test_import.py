"""Test that importing the package is light, and safe beside Hugging Face's package `kernels`."""

from __future__ import annotations

import ast
import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def run(code: str, *, cwd: Path = ROOT, path: str = "") -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env={"PYTHONPATH": path, "PATH": "/usr/bin:/bin", "HOME": str(cwd)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_loads_none_of_the_heavy_ones() -> None:
    heavy = {"torch", "transformers", "triton", "datasets", "peft", "matplotlib", "pandas", "typer"}
    loaded = run("import sys, sra_fast; print(*sys.modules)").split()
    assert not heavy & set(loaded)


def test_scoring_loads_no_training_and_no_plotting() -> None:
    code = "import sys, sra_fast; sra_fast.score, sra_fast.encode; print(*sys.modules)"
    assert not {"datasets", "peft", "matplotlib", "pandas", "typer"} & set(run(code).split())


MODULES = {
    "sra_fast": "backends chat definitions explanation files kernels measure monitoring names op "
    "recipes report result scoring steered_model training",
    "sra_fast.training": "data lora memory pipeline sra",
}
each_package = pytest.mark.parametrize("name", MODULES)


@each_package
def test_dir_shows_the_public_names_and_modules_and_nothing_else(name: str) -> None:
    package = importlib.import_module(name)
    modules = MODULES[name].split()
    assert dir(package) == sorted([*package.__all__, *modules])
    code = f"import {name} as package; print([getattr(package, name) for name in dir(package)])"
    run(code)
    for module in modules:
        assert getattr(package, module) is importlib.import_module(f"{name}.{module}")
    with pytest.raises(AttributeError, match=f"module '{name}' has no attribute 'nothing'"):
        package.nothing  # noqa: B018


@each_package
def test_type_checkers_see_the_names_where_they_come_from(name: str) -> None:
    """The imports under TYPE_CHECKING, ``__all__``, ``dir`` and what is found at run time agree."""
    package = importlib.import_module(name)
    seen = {}
    for block in ast.parse(Path(str(package.__file__)).read_text(encoding="utf-8")).body:
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING":
            for line in block.body:
                assert isinstance(line, ast.ImportFrom)
                module = importlib.import_module("." * line.level + (line.module or ""), name)
                for alias in line.names:
                    assert alias.asname == alias.name  # the mark of a name that is given on
                    seen[alias.name] = getattr(module, alias.name)
    assert sorted(seen) == dir(package)
    assert seen == {public: getattr(package, public) for public in dir(package)}


def test_what_users_need_is_public() -> None:
    import sra_fast

    assert set(sra_fast.__all__) >= {
        "Conversation",
        "PromptTemplate",
        "read_conversations",
        "DEFAULT_STRATEGIES",
        "register_definition",
        "register_backend",
        "explain",
    }


def test_a_star_import_brings_what_is_public() -> None:
    names = run("from sra_fast import *; print(*sorted(set(dir()) - {'__builtins__'}))").split()
    import sra_fast

    assert {name for name in names if not name.startswith("__")} == set(sra_fast.__all__)


def test_the_folder_kernels_does_not_shadow_the_package_of_that_name(tmp_path: Path) -> None:
    """Check it because transformers imports `kernels` if it finds the version that it wants."""
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").write_text(
        "class _Any:\n"
        "    def __init__(self, *a, **k): pass\n"
        "    def __call__(self, *a, **k): return self\n"
        "    def __getattr__(self, name): return _Any()\n"
        "def __getattr__(name):\n"
        "    if name.startswith('__'): raise AttributeError(name)\n"
        "    return type(name, (_Any,), {})\n"
    )
    info = tmp_path / "kernels-0.16.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: kernels\nVersion: 0.16.0\n")
    code = (
        "import kernels, sra_fast, sra_fast.kernels.contract, transformers\n"
        "print(kernels.__file__)\nprint(sra_fast.kernels.__file__)"
    )
    theirs, ours = run(code, path=str(tmp_path)).split()
    assert theirs == str(tmp_path / "kernels" / "__init__.py")
    assert Path(ours).parts[-2] in ("span_attention", "kernels")
    assert not (ROOT / "kernels" / "__init__.py").exists()


def copied(folder: Path) -> Path:
    """Copy what is packaged, with links as in the checkout."""
    for name in ("sra_fast", "kernels", "training", "setup.py", "pyproject.toml", "README.md"):
        place = ROOT / name
        if place.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(place, folder / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy(place, folder / name)
    return folder


def setup_py(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "setup.py", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def modules_of_the_real_folders() -> set[str]:
    places = {
        "sra_fast": "sra_fast",
        "kernels/span_attention": "sra_fast/kernels",
        "training": "sra_fast/training",
    }
    return {
        str(Path(inside, file.relative_to(ROOT / folder)))
        for folder, inside in places.items()
        for file in (ROOT / folder).rglob("*.py")
        if folder != "sra_fast" or file.relative_to(ROOT / folder).parts[0] not in LINKS
    }


LINKS = {"kernels": "../kernels/span_attention", "training": "../training"}


def test_the_checkout_shows_the_installed_tree_by_links() -> None:
    for name, target in LINKS.items():
        assert os.readlink(ROOT / "sra_fast" / name) == target


def without_links(checkout: Path, instead: str) -> None:
    """Make a checkout as without symbolic links, where git may write small files for them."""
    for name, target in LINKS.items():
        link = checkout / "sra_fast" / name
        link.unlink()
        if instead == "files":
            link.write_text(target)


@pytest.mark.parametrize("instead", ["links", "nothing", "files"])
def test_every_module_is_packaged_once(tmp_path: Path, instead: str) -> None:
    checkout = copied(tmp_path / "checkout")
    if instead != "links":
        without_links(checkout, instead)
    setup_py(checkout, "-q", "build", "--build-lib", str(tmp_path / "built"))
    built = [str(file.relative_to(tmp_path / "built")) for file in (tmp_path / "built").rglob("*")]
    assert {name for name in built if name.endswith(".py")} == modules_of_the_real_folders()
    for data in (
        "sra_fast/py.typed",
        "sra_fast/kernels/measured.json",
        "sra_fast/kernels/py.typed",
    ):
        assert data in built


@pytest.mark.parametrize("instead", ["nothing", "files"])
def test_an_editable_install_works_without_symbolic_links(tmp_path: Path, instead: str) -> None:
    checkout = copied(tmp_path / "checkout")
    without_links(checkout, instead)
    site = tmp_path / "site"
    options = ["--no-deps", "--no-build-isolation", "--quiet", "--target", str(site)]
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, "--editable", str(checkout)],
        check=True,
        capture_output=True,
    )
    code = (
        f"import site; site.addsitedir({str(site)!r}); import sra_fast.kernels, sra_fast.training\n"
        "print(sra_fast.kernels.__file__, sra_fast.training.__file__)"
    )
    done = subprocess.run(  # without other installations of this project
        [sys.executable, "-S", "-c", code],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    kernels, training = done.stdout.split()
    assert kernels == str(checkout / "kernels" / "span_attention" / "__init__.py")
    assert training == str(checkout / "training" / "__init__.py")
