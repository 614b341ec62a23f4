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
import triton

from benchmarks.static.compilation import TARGETS, Binary, tiles_of
from benchmarks.static.hot_loops import HotLoop
from benchmarks.static.judgement import BEST, NAMES, SHARED, JudgedKernel, judged
from benchmarks.static.kernel_cases import KernelCase, every_case, quick_cases
from benchmarks.static.loop_tables import as_markdown, as_table
from sra_fast.kernels.triton_kernels.configurations import (
    TABLE,
    Kernel,
    configuration,
)

ROOT = Path(__file__).resolve().parents[2]
CLASSES = {(width, size) for width in (64, 128, 256) for size in (2, 4)}
# Older releases of triton leave out fences, which the report says; nothing else may be wrong there.
FENCES = tuple(map(int, triton.__version__.split(".")[:2])) < (3, 7)


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


@pytest.fixture(scope="module")
def quick() -> subprocess.CompletedProcess[str]:
    """Compile one case per kernel and architecture; the command compiles all the others too."""
    return run("-m", "benchmarks.static.report", "--json", "--quick")


@pytest.mark.parametrize("architecture", TARGETS)
def test_every_kernel_compiles_without_spills_in_its_hot_loops(
    architecture: str, quick: subprocess.CompletedProcess[str]
) -> None:
    found = [row for row in rows(quick) if row["architecture"] == architecture]
    problems = {p for row in found for p in row["problems"] if not (FENCES and "fence" in p)}
    assert not problems
    assert quick.returncode == int(FENCES and any(row["problems"] for row in rows(quick)))
    assert {row["kernel"] for row in found} == set(NAMES.values())

    best, _ = BEST[architecture]
    products = ("forward", "epilogue", "steering", "dk_dv", "dq", "row_dk", "row_dq", "profile")
    for kernel in products:
        assert {row["instruction"] for row in found if row["kernel"] == kernel} == {best}
    # A few packed rows are too few for wgmma and tcgen05.
    (decode,) = (row for row in found if row["kernel"] == "decode")
    assert decode["instruction"] == ("v_mfma" if architecture == "gfx942" else "HMMA")


@pytest.mark.parametrize("architecture", TARGETS)
def test_hot_loops_are_counted_by_class(
    architecture: str, quick: subprocess.CompletedProcess[str]
) -> None:
    found = [row for row in rows(quick) if row["architecture"] == architecture]
    without, with_spans = (row["binary"]["loops"] for row in found if row["kernel"] == "forward")
    assert (len(without), len(with_spans)) == (2, 3)  # no mask, edges; and spans
    for loop in [*without, *with_spans]:
        assert sum(loop["by_class"].values()) == loop["instructions"]
        assert loop["by_class"]["products"]
        assert loop["by_class"]["barriers"]
    (plain, edges), (*_, spans) = without, with_spans
    assert plain["instructions"] < edges["instructions"] < spans["instructions"]
    # Each thread takes its share of the tile's exponentials, and two or so of the rows' maxima.
    (made, _) = (row["binary"] for row in found if row["kernel"] == "forward")
    threads = made["warps"] * (64 if architecture == "gfx942" else 32)
    share = made["block_m"] * made["block_n"] // threads
    assert share < plain["by_class"]["exponentials"] <= share + 4
    assert made["loops"][0]["by_class"].get("spills", 0) == 0


SPOILED = """
import sys
from unittest.mock import patch
from benchmarks.static import report
from benchmarks.static.kernel_cases import KernelCase
from sra_fast.kernels.triton_kernels.configurations import TABLE, Configuration, Kernel
import torch

large = Configuration(128, 128, 4, 2)
case = KernelCase("forward", 128, torch.bfloat16, spans=0)
with (
    patch.dict(TABLE["sm_80"][Kernel.FORWARD], {(128, 2): large}),
    patch.object(report, "every_case", lambda: [case]),
):
    sys.exit(report.main(["--json", "--arch", "sm_80"]))
"""


def test_a_configuration_that_spills_in_a_hot_loop_fails() -> None:
    done = run("-c", SPOILED)
    (spilled,) = rows(done)
    assert done.returncode == 1
    (problem,) = spilled["problems"]
    assert problem.endswith("spills in hot loops")
    assert spilled["binary"]["stack"] > 0


def row(width: int = 128, lone: int = 0, spills: int = 0, **read: Any) -> JudgedKernel:
    """Return the verdict on a dq kernel for sm_90 of which this was read."""
    loop = HotLoop(300, {"products": 20, "spills": spills, "other": 280 - spills}, lone)
    made = Binary("dq_kernel", 1, 128, 64, 8, 3, instructions={"HGMMA": 20}, loops=(loop,), **read)
    return judged("sm_90", KernelCase("backward", width, torch.bfloat16, spans=3), made)


@pytest.mark.parametrize(
    ("made", "problems", "remarks"),
    [
        (row(), 0, 0),
        (row(spills=2), 1, 0),
        (row(spills=2, width=256), 0, 1),
        (row(spills_outside=9, stack=40), 0, 1),
        (row(lone=2, serialised_by="registers"), 1, 0),
        (row(lone=2, serialised_by="registers", width=256), 0, 1),
        (row(lone=2, width=256), 1, 0),  # without a reason
        (row(unfenced=4), 1, 0),
        (row(shared=SHARED["sm_90"] + 1), 1, 0),
        (row(tensor_columns=513), 1, 0),
        (row(error="no"), 1, 0),
    ],
)
def test_what_was_read_decides_the_verdict(made: JudgedKernel, problems: int, remarks: int) -> None:
    assert (len(made.problems), len(made.remarks)) == (problems, remarks)
    assert made.verdict.startswith("FAILS" if problems else "ok")


def test_reasons_stand_in_the_tables() -> None:
    listed = [row(lone=2, serialised_by="registers", width=256), row(spills=7)]
    for table in (as_table(listed), as_markdown(listed)):
        assert "2 products one by one: registers" in table
        assert "7 spills in hot loops" in table
        assert "300" in table
    assert listed[0].per_block == 300  # 8 warps and 128 × 64 logits: 16 × 64 per warp


def test_the_quick_cases_are_some_of_all() -> None:
    assert set(quick_cases()) <= set(every_case())


def test_the_interpreter_is_refused() -> None:
    command = [sys.executable, "-m", "benchmarks.static.report"]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert "TRITON_INTERPRET" in done.stderr
    assert not done.stdout


def test_the_table_is_complete() -> None:
    assert set(TABLE) == {tiles_of(target) for target in TARGETS}
    assert set(BEST) == set(SHARED) == set(TARGETS)
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
