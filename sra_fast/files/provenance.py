"""Tell what a result depends on: files, code, packages, and the commit of this project."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import inspect
import os
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
COMMIT = "SRA_FAST_COMMIT"  # the environment variable that names the commit

_CODE = ("sra_fast", "kernels", "training", "benchmarks", "setup.py", "pyproject.toml")
"""The places where a new file changes what is run; elsewhere lie data and the folders of runs."""
_RESULTS = ":!/benchmarks/results"

_BLOCK = 1 << 20  # bytes of a file that are in memory at a time


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal digits.

    Raises:
        OSError: the file cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def versions(*packages: str) -> dict[str, str]:
    """Return the version of each package by its name, as the package itself tells it."""
    return {name: str(importlib.import_module(name).__version__) for name in packages}


def code_sha256() -> str:
    """Return a SHA-256 of the source files that scores depend on, wherever they are installed."""
    digest = hashlib.sha256()
    for package in ("sra_fast", "sra_fast.kernels"):
        folder = Path(str(importlib.import_module(package).__file__)).parent
        files = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*.py")}
        for name, file in sorted(files.items()):
            # Installed, these are folders inside; in a checkout they are links, which are not read.
            if name.partition("/")[0] not in ("kernels", "training"):
                digest.update(f"{package} {name}\n".encode())
                digest.update(file.read_bytes())
    return digest.hexdigest()


def code_fingerprint(thing: object) -> dict[str, str]:
    """Return what tells a function, class, module or object from another version of it.

    ``place`` is the module and the name in it, ``source_sha256`` a SHA-256 of the source: of a
    function or a module itself, of any other object's class. Code that it calls from elsewhere and
    the state of an object are not part of it. Where there is no source, as for a compiled module,
    ``package`` is the installed package that it comes from, with its version.

    Raises:
        ValueError: there is neither source nor an installed package.
    """
    while hasattr(thing, "__wrapped__"):
        thing = thing.__wrapped__
    named = isinstance(thing, (ModuleType, type)) or hasattr(thing, "__qualname__")
    code: Any = thing if named else type(thing)
    module = code.__name__ if isinstance(code, ModuleType) else (code.__module__ or "builtins")
    place = module if isinstance(code, ModuleType) else f"{module}:{code.__qualname__}"
    try:
        source = inspect.getsource(code)
    except (OSError, TypeError):  # not a single line of source, or nothing that can have some
        packages = _packages_with(module.partition(".")[0])
        if not packages:
            raise ValueError(
                f"the source of {place} cannot be read, so a run folder could not tell when it "
                "changes; write it into a file, or install the package that it comes from"
            ) from None
        found = [f"{name} {importlib.metadata.version(name)}" for name in sorted(set(packages))]
        return {"place": place, "package": ", ".join(found)}
    return {"place": place, "source_sha256": hashlib.sha256(source.encode("utf-8")).hexdigest()}


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


def _packages_with(module: str) -> list[str]:
    """Return the names of the installed packages that a module at top level comes from."""
    packages = importlib.metadata.packages_distributions().get(module)
    if packages is None:  # Python 3.10 does not look into wheels without a list of their modules
        try:
            packages = [importlib.metadata.distribution(module).name]
        except importlib.metadata.PackageNotFoundError:
            packages = []
    return list(packages)
