"""The means of a comparison, and that their intervals are the library's one method."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy
import pytest

from sra_fast.report.comparison import compare, mean_sra, undefined_note
from sra_fast.report.write import REPORT_FILES, write_report
from sra_fast.tools.estimates import FEWEST
from sra_fast.tools.intervals import mean_interval


def scored(dialogues: int = 12, seed: int = 0) -> list[dict[str, Any]]:
    generator = numpy.random.default_rng(seed)
    return [
        {
            "template": template,
            "turn": turn,
            "strategy": ("Question", "Affirmation")[turn % 2],
            "dialogue": f"d{dialogue}",
            "sra": float(generator.gamma(2.0, 0.001)),
        }
        for template in ("standard", "c1_hf")
        for dialogue in range(dialogues)
        for turn in range(1, 2 + dialogue % 4)
    ]


def test_intervals_of_a_comparison_are_those_of_mean_interval() -> None:
    rows = scored()
    found = compare("paper", ["standard", "c1_hf"], rows, rows)
    groups = {
        **{("template", key): one for key, one in found.by_template.items()},
        **{("turn", *key): one for key, one in found.by_turn.items()},
        **{("strategy", *key): one for key, one in found.by_strategy.items()},
    }
    assert len(groups) == 2 + 2 * 4 + 2 * 2
    for (kind, *key), one in groups.items():
        names = ("template",) if kind == "template" else ("template", kind)
        mine = [row for row in rows if [row[name] for name in names] == key]
        expected = mean_interval([row["sra"] for row in mine], [row["dialogue"] for row in mine])
        assert one.mean == expected
        assert one.dialogues == len({row["dialogue"] for row in mine})
        assert (one.mean.low is None) == (one.dialogues < FEWEST)


def test_a_mean_as_json_says_how_many_and_how_sure() -> None:
    rows = [row for row in scored() if row["template"] == "standard"]
    found = mean_sra(rows).to_json()
    mean = math.fsum(row["sra"] for row in rows) / len(rows)
    assert list(found) == ["responses", "dialogues", "sra", "low", "high", "log_sra"]
    assert (found["responses"], found["dialogues"]) == (len(rows), 12)
    assert found["sra"] == pytest.approx(mean)
    assert found["log_sra"] == pytest.approx(math.log(mean))
    assert found["low"] < found["sra"] < found["high"]


def test_a_single_dialogue_and_equal_dialogues_have_no_interval() -> None:
    one = mean_sra([{"dialogue": "d", "sra": 0.1}, {"dialogue": "d", "sra": 0.3}])
    assert (one.sra, one.mean.low, one.mean.high) == (pytest.approx(0.2), None, None)
    same = mean_sra([{"dialogue": name, "sra": 0.1} for name in "abcdefgh"])
    assert (same.sra, same.mean.low, same.mean.high) == (pytest.approx(0.1), None, None)
    assert "the same without any of the dialogues" in (same.mean.why or "")


def test_a_mean_of_few_dialogues_says_why_it_has_no_interval(tmp_path: Path) -> None:
    rows = scored(dialogues=4)
    found = mean_sra(rows).to_json()
    why = "fewer than 8 dialogues, too few for an interval that holds"
    assert (found["low"], found["high"], found["why"]) == (None, None, why)
    write_report(compare("paper", ["standard", "c1_hf"], rows, rows), tmp_path)
    page = (tmp_path / "compare.md").read_text(encoding="utf-8")
    assert f"Where there is no interval: {why}." in page  # one reason, of the last turn's one, too
    assert page.count(why) == 1


def test_a_mean_of_zero_has_no_logarithm() -> None:
    assert mean_sra([{"dialogue": "d", "sra": 0.0}]).log_sra is None


def test_responses_without_a_score_are_counted_and_left_out_of_the_mean() -> None:
    rows = [row for row in scored() if row["template"] == "standard"]
    nothing = [{**row, "sra": None, "dialogue": "other"} for row in rows[:3]]
    known, found = mean_sra(rows), mean_sra([*nothing, *rows])
    assert found.mean == known.mean
    assert (found.responses, found.dialogues, found.undefined) == (len(rows), 12, 3)
    assert found.to_json() == {**known.to_json(), "undefined": 3}
    alone = mean_sra(nothing)
    assert (alone.responses, alone.sra, alone.log_sra, alone.undefined) == (0, None, None, 3)
    assert undefined_note("own", [known]) is None
    assert undefined_note("own", [known, alone]) == (
        f"The means leave out 3 responses of {len(rows) + 3}, for which the definition 'own' "
        "leaves nothing to average."
    )


@pytest.mark.parametrize("scoreless", ["one turn", "one template", "everything"])
def test_a_report_shows_a_dash_where_no_score_is_defined(tmp_path: Path, scoreless: str) -> None:
    left_out = {
        "one turn": lambda row: row["turn"] == 2,
        "one template": lambda row: row["template"] == "c1_hf",
        "everything": lambda row: True,
    }[scoreless]
    rows = [{**row, "sra": None} if left_out(row) else row for row in scored()]
    write_report(compare("own", ["standard", "c1_hf"], rows, rows), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(REPORT_FILES)
    page = (tmp_path / "compare.md").read_text(encoding="utf-8")
    count = sum(row["sra"] is None for row in rows)
    assert f"The means leave out {count} responses of {len(rows)}, for which" in page
    assert re.search(r"\| 0 \| +0 \| +– \| +– \| +– \|", re.sub(" +", " ", page))
