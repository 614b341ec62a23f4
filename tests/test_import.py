"""Importing the package: light, and safe beside the package `kernels` from Hugging Face."""

from __future__ import annotations

import re
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


def test_every_public_name_is_there() -> None:
    import sra_fast

    for name in sra_fast.__all__:
        assert getattr(sra_fast, name) is not None
        assert name in dir(sra_fast)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        sra_fast.nothing  # noqa: B018


def test_the_folder_kernels_does_not_shadow_the_package_of_that_name(tmp_path: Path) -> None:
    """transformers imports `kernels` if it is installed in the version that it wants."""
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


def test_every_package_is_installed() -> None:
    listed = set(re.findall(r'"(sra_fast(?:\.\w+)*)",', (ROOT / "setup.py").read_text("utf-8")))
    places = {
        "sra_fast": "sra_fast",
        "kernels/span_attention": "sra_fast.kernels",
        "training": "sra_fast.training",
    }
    found = {
        ".".join([name, *module.parent.relative_to(ROOT / folder).parts])
        for folder, name in places.items()
        for module in (ROOT / folder).rglob("__init__.py")
    }
    assert found == listed
