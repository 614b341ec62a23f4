"""Records that are kept in git: short, and all that the reports are drawn from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.finetuning.sweep_report import log_columns
from benchmarks.measuring.compact_json import WIDTH, compact_json
from benchmarks.pipeline import reproduction_record

KEPT = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
ANSWER = {"value": 0.5, "low": 0.25, "high": 0.75, "n": 8, "why": None, "left_out": 2}
RELATION = {"r": 0.5, "low": None, "high": None, "n": 8, "why": "two rows"}


def results() -> dict[str, Any]:
    """The shape of a reproduction's results, with one member of each kind."""
    by_score = {"paper": ANSWER, "mass": ANSWER}
    analysis = {
        "rows": [{"row": "standard", "n": 8, "accuracy": ANSWER, "scores": by_score}],
        "turns": [{"row": "standard", "turn": 3, "accuracy": ANSWER, "scores": by_score}],
        "strategies": [{"name": "Question", "scores": by_score, "over_rows": {"paper": RELATION}}],
        "languages": [],
        "over_rows": {"mass": {"pearson": RELATION}},
    }
    quality = dict.fromkeys(("responses", "accuracy", "low", "high"), 1)
    quality |= {"macro_f1": 1, "majority": 1, "uniform": 1, "confusion": [[1]]}
    return {
        "format": "sra_fast.reproduction/1",
        "data": {"file": "a.json"},
        "classifier": {
            "kind": "lexical",
            "folds": [quality],
            "held_out": quality,
            "all_folds": quality,
            "on_own_replies": quality,
            "plain_on_own_replies": None,
            "plain_on_plain_replies": quality,
        },
        "training": {"steps": 3, "settings": {"rank": 8}},
        "evaluation": {"definition": "paper", "analysis": analysis, "published": {}, "gaps": []},
        "evaluation_by_plain": analysis,
    }


@pytest.mark.parametrize(
    "value",
    [
        {},
        [],
        3.5,
        {"a": [1, 2.5, None, "ü"], "b": {"c": [[1], {}]}},
        {"long": [{"values": list(range(400)), "name": str(at)} for at in range(20)]},
        [[list(range(600)), []], {"last": "x" * WIDTH}],
    ],
)
def test_a_compact_record_is_the_same_value(value: Any) -> None:
    text = compact_json(value)
    assert json.loads(text) == value
    assert text.endswith("\n")


def test_a_run_stands_on_one_line_and_plain_lists_are_never_cut() -> None:
    runs = [{"weight": weight, "scores": [0.1] * 40} for weight in range(30)]
    lines = compact_json({"runs": runs, "all": [0.25] * 2 * WIDTH}).splitlines()
    assert sum(line.startswith('  {"weight"') for line in lines) == 30
    assert len(lines) == 30 + 5


def test_a_record_without_a_number_is_refused() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        compact_json({"loss": float("nan")})


def test_a_log_becomes_a_list_per_quantity() -> None:
    log = [{"eval_loss": 3.0, "step": 0}, {"loss": 2.0, "step": 1}, {"loss": 1.0, "sra": 0.1}]
    assert log_columns(log) == {
        "training": {"step": [1, None], "loss": [2.0, 1.0], "sra": [None, 0.1]},
        "held-out": {"step": [0], "eval_loss": [3.0]},
    }


def test_a_reproduction_keeps_what_its_report_is_drawn_from(tmp_path: Path) -> None:
    run, kept = tmp_path / "run", tmp_path / "kept"
    run.mkdir()
    (run / "results.json").write_text(json.dumps(results()), encoding="utf-8")
    (run / "report.md").write_text("# Found\n", encoding="utf-8")
    (run / "heads.png").write_bytes(b"picture")
    assert reproduction_record.main([str(run), "--out", str(kept)]) == 0
    assert {file.name for file in kept.iterdir()} == {"results.json", "report.md", "heads.png"}
    found = json.loads((kept / "results.json").read_text(encoding="utf-8"))
    assert found["estimate"] == ["value", "low", "high", "n"]
    analysis = found["evaluation"]["analysis"]
    short = [0.5, 0.25, 0.75, 8]
    assert analysis["rows"][0]["scores"] == {"paper": short, "mass": short}
    assert analysis["turns"][0]["scores"] == {"paper": short}
    assert analysis["strategies"][0]["over_rows"] == {"paper": [0.5, None, None, 8]}
    assert analysis["over_rows"] == {"mass": {"pearson": [0.5, None, None, 8]}}
    assert set(found["evaluation_by_plain"]["rows"][0]) == {"row", "n", "accuracy"}
    assert found["classifier"]["all_folds"]["confusion"] == [[1]]
    assert "confusion" not in found["classifier"]["on_own_replies"]
    assert found["classifier"]["plain_on_own_replies"] is None
    assert "folds" not in found["classifier"]


@pytest.mark.parametrize("file", sorted(KEPT.rglob("*.json")), ids=lambda file: file.parent.name)
def test_kept_records_are_short(file: Path) -> None:
    assert file.read_text(encoding="utf-8").count("\n") <= 300
