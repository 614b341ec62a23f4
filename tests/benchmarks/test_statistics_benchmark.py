"""Test that the intervals hold in some cells of the simulation, and that its record is whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.statistics.__main__ import main
from benchmarks.statistics.conditions_coverage import coverage_over_conditions
from benchmarks.statistics.coverage import Case, cases, coverage
from benchmarks.statistics.head_threshold import found

LEAST = 0.88
CASES = {f"{case.figure}, {case.data}": case for case in cases()}


@pytest.mark.parametrize(
    ("name", "dialogues"),
    [
        ("mean, log-normal", 8),
        ("mean, normal", 30),
        ("share, 0.1", 2),
        ("share, 0.9", 8),
        ("share, 0.5", 12),
        ("difference of means, log-normal", 8),
        ("difference of shares, 0.9 less 0.1", 8),
        ("correlation, log-normal, r 0.85", 8),
        ("AUC, 0.7", 12),
    ],
)
def test_intervals_hold_as_often_as_they_must(name: str, dialogues: int) -> None:
    one = coverage(CASES[name], dialogues, 200)
    assert one.printed > 0.98
    assert (one.covered or 0) >= LEAST


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_too_few_dialogues_print_no_interval(case: Case) -> None:
    assert (coverage(case, 5, 1).printed == 0) == (case.figure != "share")


def test_r_over_conditions_is_held_where_percentiles_did_not() -> None:
    ours, percentiles = coverage_over_conditions(0.9, "far apart", 30, 150)
    assert (ours.covered or 0) >= LEAST
    assert (percentiles.covered or 1) < 0.85
    assert ours.printed > 0.9


def test_a_head_is_found_where_one_is_planted() -> None:
    one = found(60, 0.7, 1.5, 1.0, 12)
    assert (one.judged, one.planted_head) == (12, pytest.approx(1, abs=0.2))


def test_the_record_has_every_cell(tmp_path: Path) -> None:
    assert main(["--simulations", "1", "--out", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "statistics.json").read_text(encoding="utf-8"))
    assert {(one["figure"], one["data"]) for one in record["coverage"]} == {
        (case.figure, case.data) for case in cases()
    }
    page = (tmp_path / "statistics.md").read_text(encoding="utf-8")
    assert "| mean | log-normal | – | – | – | few | few | few |" in page
    assert (tmp_path / "statistics.png").read_bytes().startswith(b"\x89PNG")
