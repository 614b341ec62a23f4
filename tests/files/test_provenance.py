"""Test the commit that results name: dirty if the code differs from it, and for nothing else."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy
import pytest

from sra_fast.files import provenance
from sra_fast.files.provenance import COMMIT, code_fingerprint, commit


def git(root: Path, *words: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
    done = subprocess.run(
        ["git", *who, *words], cwd=root, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def write(root: Path, name: str, text: str = "new") -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = (tmp_path / "checkout").resolve()
    for name in ("sra_fast/a.py", "README.md", "benchmarks/results/a.json", "setup.py"):
        write(root, name)
    git(root, "init", "-q")
    git(root, "add", "--all")
    git(root, "commit", "-q", "-m", "a")
    monkeypatch.setattr(provenance, "ROOT", root)
    monkeypatch.delenv(COMMIT, raising=False)
    return root


def test_a_clean_checkout_is_its_commit(checkout: Path) -> None:
    assert commit() == git(checkout, "rev-parse", "--short", "HEAD")


@pytest.mark.parametrize(
    ("changed", "dirty"),
    [
        ("README.md", True),
        ("sra_fast/a.py", True),
        ("sra_fast/new.py", True),
        ("kernels/deep/below/new.py", True),
        ("training/new.py", True),
        ("benchmarks/new.py", True),
        ("pyproject.toml", True),
        ("runs/one/run.json", False),
        ("dialogues.json", False),
        ("benchmarks/results/a.json", False),
        ("benchmarks/results/new.json", False),
    ],
)
def test_a_runs_own_files_change_nothing(checkout: Path, changed: str, dirty: bool) -> None:
    write(checkout, changed, "changed")
    assert commit().endswith("with local changes") == dirty


def test_a_staged_or_removed_file_is_a_change(checkout: Path) -> None:
    (checkout / "setup.py").unlink()
    assert commit().endswith("with local changes")
    git(checkout, "add", "--all")
    assert commit().endswith("with local changes")


def test_the_environment_says_more_than_the_checkout(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(COMMIT, "abc1234")
    assert commit() == "abc1234"


def test_without_git_or_a_checkout_of_its_own_it_is_unknown(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "ROOT", checkout / "sra_fast")  # inside of another repository
    assert commit() == "unknown"
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert commit() == "unknown"
    monkeypatch.setattr(provenance, "ROOT", checkout)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit() == "unknown"


# --- code ---


def test_code_is_told_by_its_place_and_source() -> None:
    one, other = code_fingerprint(write), code_fingerprint(git)
    assert one["place"] == f"{__name__}:write"
    assert one["source_sha256"] != other["source_sha256"]
    assert code_fingerprint(provenance)["place"] == "sra_fast.files.provenance"
    assert code_fingerprint(Path()) == code_fingerprint(type(Path()))


def test_code_without_source_is_told_by_its_package() -> None:
    found = code_fingerprint(numpy.array)
    assert found == {"place": "numpy:array", "package": f"numpy {numpy.__version__}"}


def test_code_that_nothing_tells_apart_is_refused() -> None:
    with pytest.raises(ValueError, match="the source of builtins:len cannot be read"):
        code_fingerprint(len)
