"""Tell what a result depends on: files, versions of packages, and the commit of this project."""

from __future__ import annotations

import hashlib
import importlib
import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COMMIT = "SRA_FAST_COMMIT"  # the environment variable that names the commit

_CODE = ("sra_fast", "kernels", "training", "benchmarks", "setup.py", "pyproject.toml")
"""The places where a new file changes what is run; elsewhere lie data and the folders of runs."""
_RESULTS = ":!/benchmarks/results"


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal digits.

    Raises:
        OSError: the file cannot be read.
    """
    return hashlib.sha256(path.read_bytes()).hexdigest()


def versions(*packages: str) -> dict[str, str]:
    """Return the version of each package by its name, as the package itself tells it."""
    return {name: str(importlib.import_module(name).__version__) for name in packages}


def commit() -> str:
    """Return the commit of this checkout, or ``SRA_FAST_COMMIT`` where its history is not at hand.

    It is "unknown" for an installed package, whose version says more.
    """
    if COMMIT in os.environ:
        return os.environ[COMMIT]

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != ROOT:
            return "unknown"  # somebody else's repository, with this package installed inside
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ":/", _RESULTS)
        changed += git("ls-files", "--others", "--exclude-standard", "--", *_CODE, _RESULTS)
        return git("rev-parse", "--short", "HEAD") + (" with local changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
