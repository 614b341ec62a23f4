"""``python -m benchmarks.pipeline.reproduction_record RUN``: keeps what a reproduction found.

Takes ``report.md`` and the figures out of the folder of a finished ``sra-fast reproduce``, and of
its ``results.json`` what these are drawn from: the report leads with one definition of SRA, so
turns and strategies keep that one; the folds of the classifier and the published tables are left
out. An estimate is a list, whose members ``estimate`` names.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measuring.compact_json import compact_json
from sra_fast.tools.atomic import write_text

RESULTS = Path(__file__).parents[1] / "results" / "reproduce-smollm2"
FORMAT = "sra_fast.reproduction-record/1"
ESTIMATE = ("value", "low", "high", "n")
"""The numbers of an estimate, in order; of a correlation, r stands in the place of the value."""

_BY_SCORE = ("scores", "auc", "over_rows")
_SHOWN_OF_QUALITY = ("responses", "accuracy", "low", "high", "macro_f1", "majority", "uniform")


def main(arguments: Sequence[str] | None = None) -> int:
    """Copy the files of a run and write its record."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pipeline.reproduction_record")
    parser.add_argument(
        "run", type=Path, metavar="RUN", help="The folder of a finished reproduction."
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=RESULTS,
        metavar="DIR",
        help="The folder to write the record, the report and its pictures into.",
    )
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    results = json.loads((given.run / "results.json").read_text(encoding="utf-8"))
    for file in (given.run / "report.md", *sorted(given.run.glob("*.png"))):
        shutil.copyfile(file, given.out / file.name)
    write_text(given.out / "results.json", compact_json(record(results)))
    return 0


def record(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the report and the figures of a reproduction are drawn from."""
    evaluation = results["evaluation"]
    definition = evaluation["definition"]
    by_plain = results["evaluation_by_plain"]
    kept = {
        **results,
        "format": FORMAT,
        "classifier": _classifier(results["classifier"]),
        "training": {  # its settings are those of the whole
            name: value for name, value in results["training"].items() if name != "settings"
        },
        "evaluation": {
            **{name: value for name, value in evaluation.items() if name != "published"},
            "analysis": _with_one_definition(evaluation["analysis"], definition),
        },
        "evaluation_by_plain": by_plain
        and {
            "rows": [
                {name: row[name] for name in ("row", "n", "accuracy")} for row in by_plain["rows"]
            ],
            "over_rows": by_plain["over_rows"],
        },
    }
    return {"format": kept.pop("format"), "estimate": list(ESTIMATE), **_with_short_estimates(kept)}


def _classifier(report: Mapping[str, Any]) -> dict[str, Any]:
    """Without the folds, and without the confusion matrices that are not drawn."""
    undrawn = ("on_own_replies", "plain_on_own_replies", "plain_on_plain_replies")
    kept = {name: value for name, value in report.items() if name not in ("folds", "held_out")}
    for name in undrawn:
        if kept[name] is not None:
            kept[name] = {shown: kept[name][shown] for shown in _SHOWN_OF_QUALITY}
    return kept


def _with_one_definition(analysis: Mapping[str, Any], definition: str) -> dict[str, Any]:
    """Return an analysis whose turns, strategies and languages keep one definition of SRA."""
    kept = dict(analysis)
    for name in ("turns", "strategies", "languages"):
        kept[name] = [
            {
                key: {definition: value[definition]} if key in _BY_SCORE else value
                for key, value in one.items()
            }
            for one in analysis[name]
        ]
    return kept


def _with_short_estimates(value: Any) -> Any:
    if isinstance(value, list):
        return [_with_short_estimates(one) for one in value]
    if not isinstance(value, dict):
        return value
    if {"low", "high", "n", "why"} <= set(value):
        return [
            value["value" if "value" in value else "r"],
            *(value[name] for name in ESTIMATE[1:]),
        ]
    return {name: _with_short_estimates(one) for name, one in value.items()}


if __name__ == "__main__":
    sys.exit(main())
