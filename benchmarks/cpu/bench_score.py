"""``pytest benchmarks/cpu/bench_score.py``: the time of each alternative, by pytest-benchmark.

Beside each time stand, as ``extra_info``, its peak memory above the loaded model and what
``sra_fast.score`` takes of it, both from a fresh process. An alternative whose numbers are wrong
fails before it is timed. The recorded results come from ``python -m benchmarks.cpu``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

# pytest puts this folder on the path, not the one above it
sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.cpu.compare import ComparedCase, Known, compare
from benchmarks.measuring.alternatives import ALTERNATIVES
from benchmarks.measuring.cases import SMALL, SMOLLM2, ModelCase, build_batch, build_model

CASES = (ModelCase(SMOLLM2, 512), ModelCase(SMOLLM2, 1024), ModelCase(SMALL, 1024))
PAIRS = {"a": 1, "b": 1, "c": 3}


@pytest.fixture(scope="module", params=CASES, ids=str)
def checked(request: pytest.FixtureRequest) -> ComparedCase:
    """A case, measured in fresh processes and checked."""
    case: ModelCase = request.param
    return compare(case, list(ALTERNATIVES), PAIRS, Known())


@pytest.fixture(scope="module")
def loaded(checked: ComparedCase) -> tuple[Any, Any]:
    """Its model and batch in this process."""
    return build_model(checked.case), build_batch(checked.case)


@pytest.mark.parametrize("key", ALTERNATIVES)
def test_time_and_memory(
    benchmark: Any, checked: ComparedCase, loaded: tuple[Any, Any], key: str
) -> None:
    cell = checked.cells[key]
    if cell.status == "does not fit":
        pytest.skip(cell.note)
    if cell.status != "ok":
        pytest.fail(f"{ALTERNATIVES[key].label}: {cell.status}: {cell.note}")
    benchmark.group = str(checked.case)
    benchmark.extra_info["alternative"] = ALTERNATIVES[key].label
    benchmark.extra_info["peak_bytes"] = cell.peak_bytes
    benchmark.extra_info["score_time_ratio"] = cell.time_ratio
    benchmark.extra_info["score_peak_ratio"] = cell.peak_ratio
    benchmark.pedantic(ALTERNATIVES[key].run, args=loaded, rounds=3, warmup_rounds=1)
