"""Test that the compiled kernels meet the report's demands, and that it tells when they do not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.static.compilation import TARGETS
from benchmarks.static.report import BEST, NAMES
from sra_fast.kernels.triton_kernels.configurations import (
    TABLE,
    Kernel,
    configuration,
)

ROOT = Path(__file__).resolve().parents[2]
CLASSES = {(width, size) for width in (64, 128, 256) for size in (2, 4)}


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a process that compiles kernels, even if this one interprets them."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True
    )


def rows(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert done.stdout, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)["rows"]
    return found


@pytest.mark.parametrize("architecture", TARGETS)
def test_every_configuration_compiles_without_spills(architecture: str) -> None:
    done = run("-m", "benchmarks.static.report", "--json", "--arch", architecture)
    found = rows(done)
    failed = [row for row in found if row["problems"]]
    assert done.returncode == 0, failed
    assert not failed
    assert {row["kernel"] for row in found} == set(NAMES.values())

    halves = [row for row in found if row["dtype"] == "bfloat16"]
    best, _ = BEST[architecture]
    for kernel in ("forward", "epilogue", "dk_dv", "dq", "row_dk", "row_dq"):
        assert {row["instruction"] for row in halves if row["kernel"] == kernel} == {best}
    # A few packed rows are too few for wgmma and tcgen05.
    decode = [row for row in halves if row["kernel"] == "decode"]
    assert {row["instruction"] for row in decode if row["binary"]["block_m"] >= 64} == {best}
    small = {row["instruction"] for row in decode if row["binary"]["block_m"] < 64}
    assert small == {"v_mfma" if architecture == "gfx942" else "HMMA"}


SPOILED = """
import sys
from dataclasses import replace
from unittest.mock import patch
from benchmarks.static import report
from benchmarks.static.compilation import KernelCase
from sra_fast.kernels.triton_kernels.configurations import TABLE, Configuration, Kernel
import torch

large = Configuration(128, 128, 4, 2)
case = KernelCase("backward", 128, torch.bfloat16, spans=2)
with (
    patch.dict(TABLE["sm_90"][Kernel.DQ], {(128, 2): large}),
    patch.object(report, "plan", lambda: [case]),
):
    sys.exit(report.main(["--json", "--arch", "sm_90"]))
"""


def test_a_configuration_that_spills_fails() -> None:
    done = run("-c", SPOILED)
    found = rows(done)
    assert done.returncode == 1
    assert {row["kernel"] for row in found if row["problems"]} == {"dq"}
    (spilled,) = (row for row in found if row["kernel"] == "dq")
    assert spilled["problems"] == ["spills"]
    assert spilled["binary"]["stack"] > 0


def test_the_interpreter_is_refused() -> None:
    command = [sys.executable, "-m", "benchmarks.static.report"]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert "TRITON_INTERPRET" in done.stderr
    assert not done.stdout


def test_the_table_is_complete() -> None:
    assert set(TABLE) == set(TARGETS)
    for kernels in TABLE.values():
        assert set(kernels) == set(Kernel)
        for lines in kernels.values():
            assert set(lines) == CLASSES


def test_tiles_are_powers_of_two_that_granules_divide() -> None:
    """Check this because 16 keys or queries share a mark (layout.py)."""
    for kernels in TABLE.values():
        for line in (entry for lines in kernels.values() for entry in lines.values()):
            for size in (line.block_m, line.block_n):
                assert size >= 16
                assert size & (size - 1) == 0


@pytest.mark.parametrize(("width", "served_as"), [(16, 64), (64, 64), (80, 128), (96, 128)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_widths_between_are_served(
    monkeypatch: pytest.MonkeyPatch, width: int, served_as: int, dtype: torch.dtype
) -> None:
    module = "sra_fast.kernels.triton_kernels.configurations.architecture"
    monkeypatch.setattr(module, lambda device: "sm_90")
    q = torch.empty(1, 1, 1, width, dtype=dtype)
    for kernel, walked in ((Kernel.FORWARD, "block_n"), (Kernel.DK_DV, "block_m")):
        line = TABLE["sm_90"][kernel][served_as, dtype.itemsize]
        chosen = configuration(kernel, q, width)
        if width in (80, 96):  # masked loads take registers: half the tile that is walked
            line = replace(line, **{walked: max(16, getattr(line, walked) // 2)})
        assert chosen == line
