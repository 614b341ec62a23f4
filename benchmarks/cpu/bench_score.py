"""Time each alternative with pytest-benchmark, by ``pytest benchmarks/cpu/bench_score.py``.

``extra_info`` holds, beside each time, its peak memory above the loaded model and the ratios of
``sra_fast.score`` to it in time and memory, all from a fresh process. An alternative whose numbers
are wrong fails before it is timed. The recorded results come from ``python -m benchmarks.cpu``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

# pytest puts this folder on the path, not the root of the checkout
sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.cpu.compare import ComparedCase, Known, compare
from benchmarks.measuring.alternatives import ALTERNATIVES
from benchmarks.measuring.cases import SMALL, SMOLLM2, ModelCase, build_batch, build_model

CASES = (ModelCase(SMOLLM2, 512), ModelCase(SMOLLM2, 1024), ModelCase(SMALL, 1024))
PAIRS = {"a": 1, "b": 1, "c": 3}


@pytest.fixture(scope="module", params=CASES, ids=str)
def checked(request: pytest.FixtureRequest) -> ComparedCase:
    """Measure a case in fresh processes and check it."""
    case: ModelCase = request.param
    return compare(case, list(ALTERNATIVES), PAIRS, Known())


@pytest.fixture(scope="module")
def loaded(checked: ComparedCase) -> tuple[Any, Any]:
    """Build the case's model and batch in this process."""
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
