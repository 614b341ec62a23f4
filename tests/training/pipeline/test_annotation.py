"""Test ``sra-fast annotate``: sheets tell nothing away, and figures are right or missing."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import krippendorff
import numpy
import pandas
import pytest
from scipy import stats
from typer.testing import CliRunner

from sra_fast.cli.app import app
from sra_fast.tools.estimates import METHODS
from sra_fast.tools.intervals import correlation, rate_interval
from sra_fast.training.pipeline.annotation.alpha import alpha_of_sums, krippendorff_alpha
from sra_fast.training.pipeline.annotation.rating_tables import (
    plain_text,
    read_table,
    safe_cell,
    write_csv,
)

NAN = numpy.nan
FIELDS = ("item", "annotator", "preference", "sra_a", "sra_b", "system_a", "system_b")
STRATEGIES = ("Offer Hope", "Chit Chat", "Affirmation")


def call(*arguments: object, status: int = 0) -> tuple[str, str]:
    """Return what ``sra-fast annotate`` prints to both outputs when it ends with ``status``."""
    result = CliRunner(env={"COLUMNS": "200"}).invoke(
        app, ["annotate", *(str(one) for one in arguments)]
    )
    assert result.exit_code == status, result.output
    assert "Traceback" not in result.output
    return result.stdout, result.stderr


def call_json(*arguments: object, status: int = 0) -> dict[str, Any]:
    parsed = json.loads(call(*arguments, "--json", status=status)[0])
    assert isinstance(parsed, dict)
    return parsed


def error_of(*arguments: object) -> str:
    return str(call_json(*arguments, status=1)["error"])


def lines(path: Path, records: Iterable[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in records), encoding="utf-8")
    return path


def chat(number: int, system: str, **changes: Any) -> dict[str, Any]:
    return {
        "id": f"c{number}",
        "messages": [
            {"role": "user", "content": f"I feel low, day {number}."},
            {"role": "assistant", "content": "Tell me more."},
            {"role": "user", "content": "Nothing helps."},
        ],
        "strategy": STRATEGIES[number % 3],
        "response": f"Reply {number} in the manner of {'one' if system == 'base' else 'two'}.",
        **changes,
    }


@pytest.fixture
def systems(tmp_path: Path) -> tuple[Path, Path]:
    """Write files base.jsonl and tuned.jsonl of 17 items, in different orders."""
    base = lines(tmp_path / "base.jsonl", [chat(i, "base") for i in range(17)])
    tuned = lines(tmp_path / "tuned.jsonl", [chat(i, "tuned") for i in reversed(range(17))])
    return base, tuned


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline="")))


def fill(path: Path, preferences: Mapping[str, object]) -> Path:
    """Write preferences by item into a sheet, as a spreadsheet would."""
    rows = rows_of(path)
    for row in rows:
        row["preference"] = str(preferences.get(row["item"], ""))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def flat(
    path: Path, preferences: Mapping[str, list[Any]], differences: Iterable[float | None]
) -> Path:
    """Write a CSV table of annotators' preferences for items 0, 1, …; "" where there is none."""
    rows = [
        (f"i{item}", annotator, given[item], "" if d is None else 0, "" if d is None else d)
        for item, d in enumerate(differences)
        for annotator, given in preferences.items()
    ]
    text = [",".join(FIELDS), *(",".join(map(str, (*row, "base", "tuned"))) for row in rows)]
    path.write_text("\n".join(text) + "\n", encoding="utf-8")
    return path


# --- export ---


def test_sheets_tell_nothing_and_the_key_tells_all(
    systems: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = call_json("export", *systems, "--out", out)
    assert done["items"] == 17
    key = json.loads((out / "key.json").read_text())
    assert (key["system_a"], key["system_b"]) == ("base", "tuned")
    for path in out.iterdir():
        if path.name != "key.json":
            text = path.read_text(encoding="utf-8")
            assert "base" not in text
            assert "tuned" not in text
    replies = {"a": "one", "b": "two"}
    for annotator in done["annotators"]:
        rows = rows_of(out / f"sheet-{annotator}.csv")
        assert {row["item"] for row in rows} == {f"c{i}" for i in range(17)}
        for row in rows:
            first = key["items"][row["item"]]["first"][annotator]
            number = int(row["item"][1:])
            assert row["response_one"] == f"Reply {number} in the manner of {replies[first]}."
            assert row["response_two"] != row["response_one"]
            assert row["response_two"].startswith(f"Reply {number} ")
            assert row["preference"] == ""
            assert row["conversation"].splitlines() == [
                f"Seeker: I feel low, day {number}.",
                "Supporter: Tell me more.",
                "Seeker: Nothing helps.",
            ]
            assert row["strategy"] == STRATEGIES[number % 3]
            assert row["description"]


@pytest.mark.parametrize("seed", range(5))
def test_sides_are_balanced_over_all_and_in_each_strategy(
    systems: tuple[Path, Path], tmp_path: Path, seed: int
) -> None:
    out = tmp_path / "out"
    call("export", *systems, "--out", out, "--seed", seed, "--annotators", 3)
    items = json.loads((out / "key.json").read_text())["items"]
    for annotator in ("annotator-1", "annotator-2", "annotator-3"):
        sides = Counter(one["first"][annotator] for one in items.values())
        assert abs(sides["a"] - sides["b"]) == 1
        for remainder in range(3):
            sides = Counter(
                one["first"][annotator]
                for item, one in items.items()
                if int(item[1:]) % 3 == remainder
            )
            assert abs(sides["a"] - sides["b"]) <= 1
    assert all(
        {one["first"]["annotator-1"], one["first"]["annotator-2"]} == {"a", "b"}
        for one in items.values()
    )
    orders = {
        tuple(row["item"] for row in rows_of(out / f"sheet-annotator-{k}.csv")) for k in (1, 2, 3)
    }
    assert len(orders) == 3


def test_the_seed_alone_decides(systems: tuple[Path, Path], tmp_path: Path) -> None:
    def contents(name: str, seed: int) -> dict[str, bytes]:
        out = tmp_path / name
        call("export", *systems, "--out", out, "--items", 9, "--seed", seed)
        return {path.name: path.read_bytes() for path in out.iterdir()}

    one = contents("one", 4)
    assert one == contents("two", 4)
    assert one != contents("three", 5)
    assert len(json.loads(one["key.json"])["items"]) == 9


def test_a_sheet_that_is_filled_in_is_never_replaced(
    systems: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    call("export", *systems, "--out", out)
    (out / "label-studio.xml").unlink()  # as after a crash: the same command goes on
    call("export", *systems, "--out", out)
    assert (out / "label-studio.xml").is_file()
    sheet = fill(out / "sheet-annotator-1.csv", {"c1": 3})
    kept = sheet.read_bytes()
    assert "give another folder (--out)" in error_of("export", *systems, "--out", out)
    assert "give another folder (--out)" in error_of("export", *systems, "--out", out, "--seed", 1)
    assert sheet.read_bytes() == kept
    assert not [path for path in out.iterdir() if path.suffix == ".tmp"]


def test_spreadsheets_compute_nothing(tmp_path: Path) -> None:
    dangerous = ["=1+1", "+1", "-1", "@SUM(A1)", "'=1", " =1"]
    for system in ("base", "tuned"):
        lines(
            tmp_path / f"{system}.jsonl",
            [chat(i, system, id=text, response=text + system) for i, text in enumerate(dangerous)],
        )
    out = tmp_path / "out"
    call("export", tmp_path / "base.jsonl", tmp_path / "tuned.jsonl", "--out", out)
    rows = rows_of(out / "sheet-annotator-1.csv")
    assert not [cell for row in rows for cell in row.values() if cell[:1] in "=+-@" and cell]
    assert pandas.read_csv(out / "sheet-annotator-1.csv").shape == (6, 9)
    filled = fill(out / "sheet-annotator-1.csv", {row["item"]: "-2" for row in rows})
    assert call_json("agree", filled, "--key", out / "key.json")["n"] == 6
    # A spreadsheet that takes an apostrophe off when it saves does no harm.
    _replaced(filled, ",'@SUM", ",@SUM")
    assert call_json("agree", filled, "--key", out / "key.json")["n"] == 6


@pytest.mark.parametrize("text", ["=1", "'=1", "''=1", "'tis", "-", "plain", "a=b", "＝1", "\t=1"])
def test_cells_come_back_as_they_were(tmp_path: Path, text: str) -> None:
    cell = safe_cell(text)
    assert plain_text(cell) == text
    assert not re.match(r"[=+\-@＝\t]", cell)
    path = tmp_path / "t.csv"
    path.write_bytes(write_csv(("text", "more"), [{"text": text, "more": "x\ny"}]).encode())
    assert read_table(path, ("text",)) == [("t.csv line 2", {"text": text, "more": "x\ny"})]


def test_label_studio_gets_tasks_and_a_page_for_them(
    systems: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    call("export", *systems, "--out", out)
    tasks = json.loads((out / "label-studio-annotator-2.json").read_text())
    rows = rows_of(out / "sheet-annotator-2.csv")
    assert [task["data"]["item"] for task in tasks] == [row["item"] for row in rows]
    assert [task["data"]["response_one"] for task in tasks] == [row["response_one"] for row in rows]
    assert [turn["author"] for turn in tasks[0]["data"]["conversation"]] == [
        "Seeker",
        "Supporter",
        "Seeker",
    ]
    page = ElementTree.parse(out / "label-studio.xml").getroot()
    shown = {one.get("value", "") for one in page.iter() if one.tag in ("Text", "Paragraphs")}
    assert {value[1:] for value in shown} <= set(tasks[0]["data"])
    choices = page.find(".//Choices")
    assert choices is not None
    assert [one.get("value") for one in choices] == [str(value) for value in range(-4, 5)]
    assert choices.get("toName") in {one.get("name") for one in page.iter("Text")}


def score_rows(number: int, sra: Any, **changes: Any) -> list[dict[str, Any]]:
    """Return lines of ``sra-fast score``: both replies of an item, the earlier with another SRA."""
    row = {
        "conversation_id": f"c{number}",
        "strategy": STRATEGIES[number % 3],
        "definition": "paper",
        **changes,
    }
    return [{**row, "turn": 1, "sra": 9.0}, {**row, "turn": 2, "sra": sra}]


def scored(folder: Path, file: Path, sra: float) -> Path:
    """Make a folder as ``sra-fast score`` leaves it, for that file as it is now."""
    folder.mkdir()
    lines(folder / "scores.jsonl", [row for i in range(17) for row in score_rows(i, sra)])
    settings = {"kind": "score", "input_sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    record = {"format": "sra_fast.run/1", "finished": True, "settings": settings}
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
    return folder


def test_scores_of_another_file_are_refused(systems: tuple[Path, Path], tmp_path: Path) -> None:
    base, tuned = systems
    of_base, of_tuned = scored(tmp_path / "sb", base, 0.5), scored(tmp_path / "st", tuned, 0.6)
    given = ["export", base, tuned, "--out", tmp_path / "out"]
    swapped = error_of(*given, "--sra-a", of_tuned, "--sra-b", of_base)
    assert f"{of_tuned}: its scores do not belong to base.jsonl as it is now" in swapped
    assert "are not swapped" in swapped
    table = of_tuned / "scores.jsonl"  # the same by the name of the file
    assert "not belong to base.jsonl" in error_of(*given, "--sra-a", table, "--sra-b", of_base)
    kept = tuned.read_text()
    tuned.write_text(kept.replace("Reply 3", "Reply three"))
    stale = error_of(*given, "--sra-a", of_base, "--sra-b", of_tuned)
    assert f"{of_tuned}: its scores do not belong to tuned.jsonl as it is now" in stale
    tuned.write_text(kept)
    run = of_tuned / "run.json"
    run.write_text('{"settings": {"kind": "judge"}}')
    said = error_of(*given, "--sra-a", of_base, "--sra-b", of_tuned)
    assert f"{run}: was not written by scoring" in said
    run.unlink()
    said = error_of(*given, "--sra-a", of_base, "--sra-b", of_tuned)
    assert f"{of_tuned}: holds no run.json" in said
    assert not (tmp_path / "out").exists()
    assert call_json(*given, "--sra-a", of_base, "--sra-b", table)["items"] == 17  # a mere table


@pytest.mark.parametrize("column", ["conversation_id", "conversation"])  # the old name
def test_sra_of_the_last_reply_reaches_the_analysis(
    column: str, systems: tuple[Path, Path], tmp_path: Path
) -> None:
    folder = scored(tmp_path / "scored", systems[0], 0.5)
    table = pandas.DataFrame([row for i in range(17) for row in score_rows(i, 0.5 + i / 64)])
    table = table.rename(columns={"conversation_id": column})
    table.to_csv(tmp_path / "tuned.csv", index=False)
    out = tmp_path / "out"
    scores = ["--sra-a", folder, "--sra-b", tmp_path / "tuned.csv"]
    assert call_json("export", *systems, "--out", out, *scores)["definition"] == "paper"
    key = json.loads((out / "key.json").read_text())["items"]
    assert all(
        (one["sra_a"], one["sra_b"]) == (0.5, 0.5 + int(item[1:]) / 64) for item, one in key.items()
    )


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"conversation_id": "c99"}, "no score of item 'c0', turn 2"),
        ({"strategy": "Chit Chat"}, "was scored for strategy 'Chit Chat'"),
        ({"definition": "mass"}, "by the definition 'paper' and the other by 'mass'"),
        ({"sra": "much"}, "line 2: column 'sra' must be a finite number"),
        ({"conversation_id": None}, "line 1: column 'conversation_id' is missing; say whose reply"),
    ],
    ids=str,
)
def test_scores_of_something_else(
    systems: tuple[Path, Path], tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    one = lines(tmp_path / "a", [row for i in range(17) for row in score_rows(i, 0.5)])
    rows = [row for i in range(17) for row in score_rows(i, 0.5)]
    changed = [{**row, **change} for row in (rows if "definition" in change else rows[:2])]
    other = lines(tmp_path / "b", changed + rows[len(changed) :])
    given = [*systems, "--out", tmp_path / "out", "--sra-a", one, "--sra-b", other]
    assert named in error_of("export", *given)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"id": "other"}, "tuned.jsonl lacks: 'c1'"),
        ({"strategy": "Question"}, "differ in 'strategy'"),
        ({"situation": "Alone."}, "differ in 'situation'"),
        ({"dialogue": "d1"}, "differ in 'dialogue'"),
        ({"messages": [{"role": "user", "content": "Hi."}]}, "differ in 'messages'"),
        ({"response": "Reply 1 in the manner of one."}, None),
    ],
    ids=str,
)
def test_files_must_differ_in_the_replies_alone(
    tmp_path: Path, change: dict[str, Any], named: str | None
) -> None:
    base = lines(tmp_path / "base.jsonl", [chat(i, "base") for i in range(3)])
    tuned = lines(
        tmp_path / "tuned.jsonl",
        [chat(i, "tuned", **(change if i == 1 else {})) for i in range(3)],
    )
    given = ["export", base, tuned, "--out", tmp_path / "out"]
    if named is None:
        assert call_json(*given)["items"] == 3  # one pair of equal replies is a pair
    else:
        assert named in error_of(*given)


def test_wrong_exports(systems: tuple[Path, Path], tmp_path: Path) -> None:
    base, tuned = systems
    out = ["--out", tmp_path / "out"]
    assert "same reply to all of the 17 items" in error_of(
        "export", base, base, *out, "--name-b", "other"
    )
    assert "the files hold 17 items, fewer than the 18 asked for" in error_of(
        "export", base, tuned, *out, "--items", 18
    )
    own = tmp_path / "own.json"
    own.write_text('{"Kindness": "Be kind."}')
    assert "'Offer Hope' is not one of" in error_of(
        "export", base, tuned, *out, "--strategies", own
    )
    call("export", base, base, *out, status=2)
    call("export", base, tuned, *out, "--sra-a", base, status=2)
    assert not (tmp_path / "out").exists()


def test_the_last_assistant_message_is_the_reply(tmp_path: Path) -> None:
    for system in ("base", "tuned"):
        record = chat(0, system)
        said = {"role": "assistant", "content": record.pop("response")}
        record["messages"] += [said, {"role": "user", "content": "Thanks."}]
        lines(tmp_path / f"{system}.jsonl", [record])
    out = tmp_path / "out"
    call("export", tmp_path / "base.jsonl", tmp_path / "tuned.jsonl", "--out", out)
    (row,) = rows_of(out / "sheet-annotator-1.csv")
    assert row["response_one"].startswith("Reply 0")
    assert "Thanks" not in row["conversation"]


# --- From filled sheets to figures ---


def test_filled_sheets_are_unblinded(systems: tuple[Path, Path], tmp_path: Path) -> None:
    scores = [
        lines(tmp_path / name, [row for i in range(17) for row in score_rows(i, sra(i))])
        for name, sra in (("sa", lambda i: 0.5), ("sb", lambda i: 0.5 + i / 64))
    ]
    out = tmp_path / "out"
    call("export", *systems, "--out", out, "--sra-a", scores[0], "--sra-b", scores[1])
    key = json.loads((out / "key.json").read_text())["items"]
    truth = {f"c{i}": (i % 9) - 4 for i in range(17)}  # above 0: tuned is better
    for annotator in ("annotator-1", "annotator-2"):
        seen = {
            item: value if key[item]["first"][annotator] == "a" else -value
            for item, value in truth.items()
        }
        fill(out / f"sheet-{annotator}.csv", seen)
    sheets = [out / "sheet-annotator-1.csv", out / "sheet-annotator-2.csv"]
    found = call_json("agree", *sheets, "--key", out / "key.json")
    expected = stats.pearsonr(list(truth.values()), list(range(17))).statistic
    assert found["pearson"] == pytest.approx({"annotator-1": expected, "annotator-2": expected})
    assert found["alpha"] == pytest.approx(1)
    wins = Counter((value > 0) - (value < 0) for value in truth.values())
    assert found["win_rate"]["tuned"]["wins"] == 2 * wins[1]
    assert found["win_rate"]["base"]["wins"] == 2 * wins[-1]

    # The same through Label Studio.
    exports = []
    for annotator in ("annotator-1", "annotator-2"):
        tasks = json.loads((out / f"label-studio-{annotator}.json").read_text())
        for task in tasks:
            item = task["data"]["item"]
            value = truth[item] if key[item]["first"][annotator] == "a" else -truth[item]
            result = {"from_name": "preference", "value": {"choices": [str(value)]}}
            task["annotations"] = [
                {"result": [], "was_cancelled": True},
                {"result": [result], "was_cancelled": False},
            ]
        exports.append(tmp_path / f"{annotator}.json")
        exports[-1].write_text(json.dumps(tasks))
    assert call_json("agree", *exports, "--key", out / "key.json") == found

    # Part of a sheet is analysed, and what is missing is named.
    fill(sheets[0], {"c0": 1, "c1": 2})
    part = call_json("agree", sheets[0], "--key", out / "key.json")
    assert part["n"] == 2
    assert part["missing"]["preferences"] == 15
    assert {"item": "c2", "annotator": "annotator-1"} in part["missing"]["places"]
    assert part["pearson"] == {"annotator-1": None}
    assert "2 points" in part["notes"]["pearson"]["annotator-1"]


def test_another_key_is_refused(systems: tuple[Path, Path], tmp_path: Path) -> None:
    for seed in (1, 2):
        call("export", *systems, "--out", tmp_path / str(seed), "--seed", seed)
    sheet = fill(tmp_path / "1" / "sheet-annotator-1.csv", {"c1": 1})
    assert "give the key that" in error_of("agree", sheet, "--key", tmp_path / "2" / "key.json")
    assert "give its key too (--key)" in error_of("agree", sheet)
    assert "not the key" in error_of("agree", sheet, "--key", lines(tmp_path / "k", [{}]))
    key = tmp_path / "1" / "key.json"
    assert "no item 'c99'" in error_of(
        "agree",
        _replaced(sheet, ",c1,", ",c99,"),
        "--key",
        key,
    )
    broken = json.loads(key.read_text())
    del broken["items"]["c1"]["first"]
    key.write_text(json.dumps(broken))
    assert "the key was altered (KeyError: 'first')" in error_of("agree", sheet, "--key", key)


def _replaced(path: Path, old: str, new: str) -> Path:
    path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    return path


def test_label_studios_other_exports_are_refused(
    systems: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    call("export", *systems, "--out", out)
    small = tmp_path / "min.json"
    small.write_text(json.dumps([{"item": "c1", "preference": "2"}]))
    assert "min.json task 1: is not a task" in error_of("agree", small, "--key", out / "key.json")
    assert "(--key)" in error_of("agree", small)


def test_an_id_that_stands_twice_is_refused(systems: tuple[Path, Path], tmp_path: Path) -> None:
    base, tuned = systems
    for file in (base, tuned):
        kept = file.read_text()
        file.write_text(kept + json.dumps(chat(3, "tuned")) + "\n")
        said = error_of("export", base, tuned, "--out", tmp_path / "out")
        assert f"conversation 'c3' ({file.name} line 18): field 'id' is also that of" in said
        file.write_text(kept)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ({"dialog": [{"speaker": "seeker", "content": "Hi"}]}, "unknown field 'dialog'"),
        ({"id": "c1", "response": "Hi", "strategy": "Offer Hope"}, "'messages' is missing"),
    ],
    ids=["ESConv", "a mere response"],
)
def test_lines_of_another_kind_are_refused(
    systems: tuple[Path, Path], tmp_path: Path, line: dict[str, Any], named: str
) -> None:
    other = lines(tmp_path / "other.jsonl", [chat(0, "tuned"), line])
    said = error_of("export", systems[0], other, "--out", tmp_path / "out")
    assert "other.jsonl line 2" in said
    assert named in said


def test_a_reply_that_was_scored_twice_is_refused(
    systems: tuple[Path, Path], tmp_path: Path
) -> None:
    rows = [row for i in range(17) for row in score_rows(i, 0.5)]
    one, other = lines(tmp_path / "a", rows), lines(tmp_path / "b", [*rows, *score_rows(3, 0.7)])
    given = [*systems, "--out", tmp_path / "out", "--sra-a", one, "--sra-b", other]
    said = error_of("export", *given)
    assert "b line 35: conversation 'c3', turn 1 is also in b line 7" in said


@pytest.mark.parametrize("value", ["5", "-5", "1.5", "much", "1e9", "−2"])
def test_a_score_that_is_off_the_scale_is_named_in_a_sheet_and_in_label_studio(
    systems: tuple[Path, Path], tmp_path: Path, value: str
) -> None:
    out = tmp_path / "out"
    call("export", *systems, "--out", out)
    sheet = fill(out / "sheet-annotator-1.csv", {"c1": value, "c2": 1})
    at = 2 + [row["item"] for row in rows_of(sheet)].index("c1")
    line = sheet.read_text().split(",c1,")[0].count("\n") + 1
    assert line >= at
    said = error_of("agree", sheet, "--key", out / "key.json")
    assert f"sheet-annotator-1.csv line {line}: preference must be a whole number" in said
    tasks = json.loads((out / "label-studio-annotator-1.json").read_text())
    for task in tasks:
        task["annotations"] = []
    choice = {"from_name": "preference", "value": {"choices": [value]}}
    tasks[4]["annotations"] = [{"result": [choice]}]
    export = tmp_path / "export.json"
    export.write_text(json.dumps(tasks))
    said = error_of("agree", export, "--key", out / "key.json")
    assert "export.json task 5: preference must be a whole number" in said


def test_a_sheet_that_is_given_twice_is_refused(systems: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    call("export", *systems, "--out", out)
    sheet = fill(out / "sheet-annotator-1.csv", {f"c{i}": 1 for i in range(17)})
    copy = tmp_path / "copy.csv"
    copy.write_bytes(sheet.read_bytes())
    said = error_of("agree", sheet, copy, "--key", out / "key.json")
    assert "was judged by 'annotator-1' in sheet-annotator-1.csv line 2 already" in said


def test_one_sheet_of_two_has_no_alpha_and_an_empty_one_changes_nothing(
    systems: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    call("export", *systems, "--out", out)
    one, empty = (out / f"sheet-annotator-{k}.csv" for k in (1, 2))
    assert "no preference is filled in" in error_of("agree", empty, "--key", out / "key.json")
    fill(one, {f"c{i}": i % 5 - 2 for i in range(17)})
    alone = call_json("agree", one, "--key", out / "key.json")
    both = call_json("agree", one, empty, "--key", out / "key.json")
    for found in (alone, both):
        assert found["alpha"] is found["alpha_trimmed"] is None
        assert "a single annotator" in found["notes"]["alpha"]
        assert found["ratings"] == 17
    assert alone["win_rate"] == both["win_rate"]
    assert alone["missing"]["preferences"] == 0
    assert both["missing"]["preferences"] == 17
    assert both["pearson"] == {"annotator-1": None, "annotator-2": None}  # no SRA in the key
    assert "0 points" in both["notes"]["pearson"]["annotator-2"]


# --- agree ---

PEOPLE: dict[str, list[Any]] = {
    "ann": [4, 3, 0, -2, -4, 1, 2, -1, 3, 0],
    "bob": [3, 3, 1, -2, -3, 0, 2, -2, 4, 0],
}
DIFFERENCES = [0.9, 0.8, 0.1, -0.3, -0.9, 0.2, 0.5, -0.2, 0.6, 0.05]


def test_the_figures_are_those_of_scipy_and_krippendorff(tmp_path: Path) -> None:
    found = call_json("agree", flat(tmp_path / "t.csv", PEOPLE, DIFFERENCES))
    assert found["n"] == 10
    assert found["annotators"] == ["ann", "bob"]
    d = numpy.array(DIFFERENCES)
    inside = (d > d.min()) & (d < d.max())  # of ten values the percentiles cut off both ends
    for name, given in PEOPLE.items():
        x = numpy.array(given, dtype=float)
        assert found["pearson"][name] == pytest.approx(stats.pearsonr(x, d).statistic)
        low, high = numpy.percentile(x, [1, 99])
        both = inside & (x >= low) & (x <= high)
        assert found["pearson_trimmed"][name] == pytest.approx(
            stats.pearsonr(x[both], d[both]).statistic
        )
        interval = found["intervals"]["pearson"][name]
        assert interval["low"] < found["pearson"][name] < interval["high"]
    ratings = numpy.array(list(PEOPLE.values()), dtype=float)
    alpha = krippendorff.alpha(reliability_data=ratings, level_of_measurement="interval")
    assert found["alpha"] == pytest.approx(alpha)
    alpha = krippendorff.alpha(reliability_data=ratings[:, inside], level_of_measurement="interval")
    assert found["alpha_trimmed"] == pytest.approx(alpha)
    few = "fewer than 8 items, too few for an interval that holds"  # after trimming
    assert found["notes"] == {"pearson_trimmed": {"bob": few}}


def test_win_rates_by_hand(tmp_path: Path) -> None:
    # Of 20 judgements: b better 5 + 5 (ann 4 3 1 2 3, bob 3 3 1 2 4), a better 3 + 3, ties 2 + 2.
    rates = call_json("agree", flat(tmp_path / "t.csv", PEOPLE, DIFFERENCES))["win_rate"]
    tuned, base = rates["tuned"], rates["base"]
    assert (tuned["wins"], tuned["ties"], tuned["losses"]) == (10, 4, 6)
    assert (base["wins"], base["ties"], base["losses"]) == (6, 4, 10)
    assert tuned["rate_ties_half"] == pytest.approx(12 / 20)
    assert tuned["rate_ties_lost"] == pytest.approx(10 / 20)
    assert tuned["rate_ties_left_out"] == pytest.approx(10 / 16)
    assert base["rate_ties_half"] == pytest.approx(8 / 20)
    ours, theirs = (one["intervals"]["rate_ties_half"] for one in (tuned, base))
    assert ours["low"] == pytest.approx(1 - theirs["high"])
    assert ours["low"] < tuned["rate_ties_half"] < ours["high"]


def test_swapping_the_systems_changes_nothing_but_their_names(tmp_path: Path) -> None:
    one = call_json("agree", flat(tmp_path / "one.csv", PEOPLE, DIFFERENCES))
    rows = [
        {
            "item": f"i{item}",
            "annotator": name,
            "preference": -given[item],
            "sra_a": DIFFERENCES[item],
            "sra_b": 0,
            "system_a": "tuned",
            "system_b": "base",
        }
        for item in range(10)
        for name, given in PEOPLE.items()
    ]
    other = call_json("agree", lines(tmp_path / "other.jsonl", rows))
    for name in ("pearson", "pearson_trimmed"):
        assert other[name] == pytest.approx(one[name])
    assert other["alpha"] == pytest.approx(one["alpha"])
    assert other["win_rate"] == one["win_rate"]


def test_rows_the_other_way_round_change_nothing(tmp_path: Path) -> None:
    expected = call_json("agree", flat(tmp_path / "one.csv", PEOPLE, DIFFERENCES))
    rows = []
    for item in range(10):
        for turn, (name, given) in enumerate(PEOPLE.items()):
            turned = (item + turn) % 2 and item > 0  # also from annotator to annotator of an item
            sign, names = (-1, ("tuned", "base")) if turned else (1, ("base", "tuned"))
            sra = (0, DIFFERENCES[item])[::sign]
            values = (f"i{item}", name, sign * given[item], *sra, *names)
            rows.append(dict(zip(FIELDS, values, strict=True)))
    found = call_json("agree", lines(tmp_path / "mixed.jsonl", rows))
    as_shown = ("as_shown", "as_shown_trimmed", "systems_alone", "alpha_as_shown")
    assert {name: found["comparison"].pop(name) for name in as_shown} != {
        name: expected["comparison"].pop(name) for name in as_shown
    }
    assert found == expected


# --- What the comparison alone explains ---

SYSTEMS = ("standard", "c3_hf", "c1_hf")  # from the lowest SRA to the highest


def compared(
    noise: float, within: float, *, pairs: int = 120, seed: int = 0
) -> list[dict[str, Any]]:
    """Judgements of three systems, two at a time and on random sides, by two annotators.

    A preference is twice the distance of the systems, plus ``within`` times what the SRA says
    beyond them, plus noise. Both annotators see the same sides.
    """
    draw = numpy.random.default_rng(seed)
    rows = []
    for item in range(pairs):
        low, high = sorted(draw.choice(3, size=2, replace=False))
        own = draw.normal(size=2)
        sra = [float(place + 0.2 * more) for place, more in zip((low, high), own, strict=True)]
        sides = [0, 1] if draw.random() < 0.5 else [1, 0]
        for annotator in ("1", "2"):
            wish = 1.5 * (high - low) + within * (own[1] - own[0]) + noise * draw.normal()
            preference = int(numpy.clip(round(wish), -4, 4)) * (1 if sides == [0, 1] else -1)
            values = (*(sra[side] for side in sides), *(SYSTEMS[(low, high)[s]] for s in sides))
            rows.append(
                dict(zip(FIELDS, (f"i{item}", annotator, preference, *values), strict=True))
            )
    return rows


def test_three_systems_are_one_analysis(tmp_path: Path) -> None:
    rows = compared(0.5, 0.0)
    found = call_json("agree", lines(tmp_path / "t.jsonl", rows))
    assert set(found["systems"]) == set(SYSTEMS)
    comparison = found["comparison"]
    for annotator in ("1", "2"):
        mine = [row for row in rows if row["annotator"] == annotator]
        x = numpy.array([row["preference"] for row in mine], dtype=float)
        d = numpy.array([row["sra_b"] - row["sra_a"] for row in mine])
        sign = numpy.array(
            [numpy.sign(SYSTEMS.index(r["system_b"]) - SYSTEMS.index(r["system_a"])) for r in mine]
        )
        shown = comparison["as_shown"][annotator]
        assert shown["r"] == pytest.approx(stats.pearsonr(x, d).statistic)
        assert shown["low"] < shown["r"] < shown["high"]
        alone = comparison["systems_alone"][annotator]
        assert alone["r"] == pytest.approx(stats.pearsonr(x, sign).statistic)
        alike = stats.pearsonr(x * sign, d * sign).statistic
        assert found["pearson"][annotator] == pytest.approx(alike)
        pair = numpy.array(
            [min(r["system_a"], r["system_b"]) + max(r["system_a"], r["system_b"]) for r in mine]
        )
        left = [
            numpy.concatenate(
                [(v * sign)[pair == p] - (v * sign)[pair == p].mean() for p in dict.fromkeys(pair)]
            )
            for v in (x, d)
        ]
        within = comparison["within"][annotator]
        assert within["r"] == pytest.approx(stats.pearsonr(*left).statistic)
        assert within["low"] < within["r"] < within["high"]
        assert within["n"] == len(mine)
    wins = {tuple(one["systems"]): one for one in found["pairs"]}
    assert set(wins) == {(a, b) for at, a in enumerate(SYSTEMS) for b in SYSTEMS[at + 1 :]}
    for (low, high), one in wins.items():
        both = [r for r in rows if {r["system_a"], r["system_b"]} == {low, high}]
        won = sum((r["preference"] > 0) == (r["system_b"] == high) for r in both if r["preference"])
        assert one["win_rate"][high]["wins"] == won
        assert 2 * one["items"] == len(both)
    total = sum(one["win_rate"]["c1_hf"]["wins"] for pair, one in wins.items() if "c1_hf" in pair)
    assert found["win_rate"]["c1_hf"]["wins"] == total


def test_a_high_r_that_the_systems_alone_explain_is_seen_as_that(tmp_path: Path) -> None:
    """As in the published judgements: r .80 as shown, .79 by the systems' identity alone."""
    found = call_json("agree", lines(tmp_path / "t.jsonl", compared(0.8, 0.0)))["comparison"]
    for annotator in ("1", "2"):
        r, alone = found["as_shown"][annotator]["r"], found["systems_alone"][annotator]["r"]
        assert r > 0.8
        assert alone > 0.8
        within = found["within"][annotator]
        assert within["low"] < 0 < within["high"]
    found = call_json("agree", lines(tmp_path / "u.jsonl", compared(0.8, 1.0)))["comparison"]
    assert all(found["within"][annotator]["low"] > 0.3 for annotator in ("1", "2"))


def test_the_direction_of_each_pair_does_not_depend_on_the_order_of_the_lines(
    tmp_path: Path,
) -> None:
    rows = compared(0.5, 0.5)
    one = call_json("agree", lines(tmp_path / "one.jsonl", rows))
    other = call_json("agree", lines(tmp_path / "other.jsonl", rows[::-1]))
    for name in ("pearson", "pearson_trimmed"):
        assert other[name] == pytest.approx(one[name])
    assert other["alpha"] == pytest.approx(one["alpha"])
    for name in ("as_shown", "systems_alone", "within"):
        for annotator in ("1", "2"):
            assert other["comparison"][name][annotator]["r"] == pytest.approx(
                one["comparison"][name][annotator]["r"]
            )


def test_sides_that_never_change_leave_nothing_for_the_systems_to_explain(tmp_path: Path) -> None:
    found = call_json("agree", flat(tmp_path / "t.csv", PEOPLE, DIFFERENCES))
    comparison = found["comparison"]
    assert comparison["as_shown"]["ann"]["r"] == found["pearson"]["ann"]
    assert comparison["systems_alone"]["ann"]["r"] is None
    assert "systems of the sides" in comparison["systems_alone"]["ann"]["why"]
    assert comparison["within"]["ann"]["r"] == pytest.approx(found["pearson"]["ann"])
    assert comparison["alpha_as_shown"]["value"] == pytest.approx(found["alpha"])


def test_an_item_shown_both_ways_has_no_alpha_as_shown(tmp_path: Path) -> None:
    rows = compared(0.5, 0.0)
    alike = call_json("agree", lines(tmp_path / "t.jsonl", rows))["comparison"]["alpha_as_shown"]
    ratings = numpy.array([row["preference"] for row in rows], dtype=float).reshape(-1, 2).T
    truth = krippendorff.alpha(ratings, level_of_measurement="interval")
    assert alike["value"] == pytest.approx(truth)
    row = rows[1]
    turned = {"preference": -row["preference"]}
    for name in ("sra", "system"):
        turned |= {f"{name}_a": row[f"{name}_b"], f"{name}_b": row[f"{name}_a"]}
    mixed = [rows[0], {**row, **turned}, *rows[2:]]
    found = call_json("agree", lines(tmp_path / "u.jsonl", mixed))["comparison"]["alpha_as_shown"]
    assert found["value"] is None
    assert "in different orders" in found["why"]


def with_dialogues(path: Path, dialogues: Iterable[object]) -> Path:
    """Write a table as :func:`flat` does, with the dialogue of each item."""
    table = pandas.read_csv(path)
    named = dict(zip(dict.fromkeys(table["item"]), dialogues, strict=True))
    table["dialogue"] = [named[item] for item in table["item"]]
    table.to_csv(path, index=False)
    return path


def test_intervals_are_over_dialogues_where_they_are_known(tmp_path: Path) -> None:
    by_item = call_json("agree", flat(tmp_path / "t.csv", PEOPLE, DIFFERENCES))
    assert by_item["interval"]["over"] == "items"
    said = call("agree", tmp_path / "t.csv")[1]
    assert "the intervals count whole items as one observation" in said
    groups = [f"d{item % 8}" for item in range(10)]
    path = with_dialogues(tmp_path / "t.csv", groups)
    found = call_json("agree", path)
    assert found["interval"]["over"] == "dialogues"
    assert found["interval"]["methods"]["share"] == METHODS["share"]
    assert "the intervals count whole dialogues as one observation" in call("agree", path)[1]
    for name in ("pearson", "alpha", "alpha_trimmed"):
        assert found[name] == by_item[name]
        assert found["intervals"][name] != by_item["intervals"][name]
    for name, given in PEOPLE.items():
        truth = correlation(given, DIFFERENCES, groups=groups)
        interval = found["intervals"]["pearson"][name]
        assert (interval["low"], interval["high"]) == pytest.approx((truth.low, truth.high))
    won = [float(value > 0) for item in zip(*PEOPLE.values(), strict=True) for value in item]
    twice = [name for name in groups for _ in PEOPLE]
    rate = rate_interval(won, [1] * 20, twice)
    interval = found["win_rate"]["tuned"]["intervals"]["rate_ties_lost"]
    assert (interval["low"], interval["high"]) == pytest.approx((rate.low, rate.high))
    few = call_json("agree", with_dialogues(tmp_path / "t.csv", [n // 2 for n in range(10)]))
    assert few["intervals"]["alpha"]["low"] is None
    assert "fewer than 8 dialogues" in few["notes"]["alpha"]


def test_items_of_one_dialogue_count_as_one_in_intervals(tmp_path: Path) -> None:
    """Copy every item within its dialogue: the copies must not narrow an interval."""
    alone = call_json("agree", flat(tmp_path / "one.csv", PEOPLE, DIFFERENCES))
    copied = flat(tmp_path / "copied.csv", {k: v * 4 for k, v in PEOPLE.items()}, DIFFERENCES * 4)
    found = call_json("agree", with_dialogues(copied, [n % 10 for n in range(40)]))
    for name in PEOPLE:
        one, other = (one["intervals"]["pearson"][name] for one in (alone, found))
        assert (one["low"], one["high"]) == pytest.approx((other["low"], other["high"]))


def test_a_dialogue_that_some_items_lack_is_refused(tmp_path: Path) -> None:
    path = flat(tmp_path / "t.csv", PEOPLE, DIFFERENCES)
    with_dialogues(path, [*"abcdefgh", "", ""])
    said = error_of("agree", path)
    assert "t.csv line 18: item 'i8' names no dialogue, and others do (2 such items)" in said
    row = {"item": "i", "annotator": "ann", "preference": 1, "sra_a": 0, "sra_b": 1}
    row |= {"system_a": "a", "system_b": "b", "dialogue": "d"}
    other = [row, {**row, "annotator": "bob", "dialogue": "e"}]
    assert "another dialogue than in" in error_of("agree", lines(tmp_path / "u.jsonl", other))
    wrong = lines(tmp_path / "u.jsonl", [{**row, "dialogue": [1]}])
    assert "column 'dialogue' must be a text" in error_of("agree", wrong)


def test_the_key_names_the_dialogues_and_one_without_them_is_read(tmp_path: Path) -> None:
    for system in ("base", "tuned"):
        chats = [chat(i, system, dialogue=f"d{i // 4}") for i in range(16)]
        lines(tmp_path / f"{system}.jsonl", chats)
    out = tmp_path / "out"
    call("export", tmp_path / "base.jsonl", tmp_path / "tuned.jsonl", "--out", out)
    path = out / "key.json"
    key = json.loads(path.read_text())
    assert key["items"]["c7"]["dialogue"] == "d1"
    sheet = fill(out / "sheet-annotator-1.csv", {f"c{i}": i % 5 - 2 for i in range(16)})
    found = call_json("agree", sheet, "--key", path)
    assert found["interval"]["over"] == "dialogues"
    assert "d1" not in sheet.read_text()
    for item in key["items"].values():
        del item["dialogue"]
    path.write_text(json.dumps(key))
    assert call_json("agree", sheet, "--key", path)["interval"]["over"] == "items"
    key["items"]["c7"]["dialogue"] = None
    path.write_text(json.dumps(key))
    assert "the key was altered" in error_of("agree", sheet, "--key", path)


def test_annotators_who_always_agree_have_an_alpha_without_an_interval(tmp_path: Path) -> None:
    given = {"ann": PEOPLE["ann"], "bob": PEOPLE["ann"]}
    found = call_json("agree", flat(tmp_path / "t.csv", given, DIFFERENCES))
    assert found["alpha"] == 1
    assert found["intervals"]["alpha"]["low"] is None
    assert "the same without any of the items" in found["notes"]["alpha"]


def test_missing_preferences_are_gaps_and_no_zeros(tmp_path: Path) -> None:
    given = {"ann": [*PEOPLE["ann"][:9], ""], "bob": ["", *PEOPLE["bob"][1:]]}
    found = call_json("agree", flat(tmp_path / "t.csv", given, DIFFERENCES))
    assert found["missing"]["preferences"] == 2
    assert found["missing"]["of"] == 20
    assert found["missing"]["places"] == [
        {"item": "i0", "annotator": "bob"},
        {"item": "i9", "annotator": "ann"},
    ]
    assert found["pearson"]["ann"] == pytest.approx(
        stats.pearsonr(PEOPLE["ann"][:9], DIFFERENCES[:9]).statistic
    )
    ratings = numpy.array([[*PEOPLE["ann"][:9], NAN], [NAN, *PEOPLE["bob"][1:]]])
    assert found["alpha"] == pytest.approx(krippendorff.alpha(ratings))
    assert found["intervals"]["alpha"]["n"] == 8
    _, said = call("agree", tmp_path / "t.csv")
    assert "preferences that are missing: 2 (i0 by bob, i9 by ann)" in said


def test_a_single_annotator_has_no_alpha(tmp_path: Path) -> None:
    found = call_json("agree", flat(tmp_path / "t.csv", {"ann": PEOPLE["ann"]}, DIFFERENCES))
    assert found["alpha"] is found["alpha_trimmed"] is None
    assert "single annotator" in found["notes"]["alpha"]
    assert found["pearson"]["ann"] is not None
    shown, said = call("agree", tmp_path / "t.csv")
    assert "alpha: a single annotator" in said
    assert "–" in shown


def test_constant_columns_have_no_r(tmp_path: Path) -> None:
    given = {"ann": [2] * 10, "bob": PEOPLE["bob"]}
    found = call_json("agree", flat(tmp_path / "t.csv", given, DIFFERENCES))
    assert found["pearson"]["ann"] is None
    assert "preferences" in found["notes"]["pearson"]["ann"]
    assert found["pearson"]["bob"] is not None
    found = call_json("agree", flat(tmp_path / "t.csv", PEOPLE, [0.5] * 10))
    assert found["pearson"] == {"ann": None, "bob": None}
    assert "SRA differences" in found["notes"]["pearson"]["bob"]
    found = call_json("agree", flat(tmp_path / "t.csv", {"a": [0] * 9, "b": [0] * 9}, range(9)))
    assert found["alpha"] is None
    assert "0/0" in found["notes"]["alpha"]
    assert found["win_rate"]["base"]["rate_ties_left_out"] is None
    assert "rate_ties_left_out" in found["notes"]["win_rate"]["base"]
    assert found["win_rate"]["base"]["rate_ties_half"] == 0.5


def test_items_without_sra_count_for_everything_else(tmp_path: Path) -> None:
    differences = [None, *DIFFERENCES[1:]]
    found = call_json("agree", flat(tmp_path / "t.csv", PEOPLE, differences))
    assert found["missing"]["items_without_sra"] == ["i0"]
    assert found["pearson"]["ann"] == pytest.approx(
        stats.pearsonr(PEOPLE["ann"][1:], DIFFERENCES[1:]).statistic
    )
    assert found["win_rate"]["tuned"]["wins"] == 10
    found = call_json("agree", flat(tmp_path / "t.csv", PEOPLE, [None] * 10))
    assert found["pearson"] == {"ann": None, "bob": None}
    assert found["alpha"] is not None
    assert found["alpha_trimmed"] is None


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("i1,ann,5,0,1,base,tuned", "t.csv line 3: preference must be a whole number"),
        ("i1,ann,-5,0,1,base,tuned", "found '-5'"),
        ("i1,ann,1.5,0,1,base,tuned", "found '1.5'"),
        ("i1,ann,good,0,1,base,tuned", "found 'good'"),
        ("i1,ann,nan,0,1,base,tuned", "found 'nan'"),
        ("i1,ann,1,x,1,base,tuned", "line 3: column 'sra_a' must be a finite number"),
        ("i1,ann,1,0,inf,base,tuned", "line 3: column 'sra_b' must be a finite number"),
        ("i0,ann,1,0,1,base,tuned", "'i0' was judged by 'ann' in t.csv line 2 already"),
        ("i0,bob,1,0,2,base,tuned", "another SRA or another dialogue than in t.csv line 2"),
        ("i0,bob,1,0,,base,tuned", "another SRA or another dialogue than in t.csv line 2"),
        ("i0,bob,1,0,1,tuned,base", "another SRA or another dialogue than in t.csv line 2"),
        (
            "i0,bob,1,0,1,base,other",
            "line 3: item 'i0' compares base and other, and in t.csv line 2 base and tuned",
        ),
        (
            "i1,ann,1,1_0,1,base,tuned",
            "column 'sra_a' must be a finite number or empty, found '1_0'",
        ),
        ("i1,ann,٣,0,1,base,tuned", "preference must be a whole number"),
        ("i1,ann,1,0,1,base,base", "both systems are called 'base'"),
        (",ann,1,0,1,base,tuned", "column 'item' must be a text"),
        ("i1,,1,0,1,base,tuned", "column 'annotator' must be a text"),
        ("i1,ann,1,0,1,base", "line 3: 6 cells under 7 columns"),
        ('i1,"ann,1,0,1,base,tuned', "t.csv line 3: not valid CSV"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, line: str, named: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(f"{','.join(FIELDS)}\ni0,ann,1,0,1,base,tuned\n{line}\n")
    assert named in error_of("agree", path)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "holds no row"),
        (",".join(FIELDS) + "\n", "holds no row"),
        ("item,annotator,preferenc\ni,a,1\n", "no column 'preference'; did you mean 'preferenc'"),
        ("item,item,x\n1,2,3\n", "column 'item' occurs twice"),
        (f"{','.join(FIELDS)}\ni0,ann,,0,1,base,tuned\n", "no preference is filled in"),
        ('{"item": "i0", "annotator": "a"}\n', "no column 'preference'"),
        ('{"item": "i0"\n', "t line 1, column"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "t"
    path.write_text(text)
    assert named in error_of("agree", path)


def test_what_spreadsheets_make_of_a_table(tmp_path: Path) -> None:
    path = flat(tmp_path / "t.csv", PEOPLE, DIFFERENCES)
    expected = call_json("agree", path)
    text = path.read_text()
    for changed in (
        "\ufeff" + text,
        text.replace("\n", "\r\n"),
        text.replace(",", ";"),
        text.replace(",", "\t"),
        text + ",,,,,,\n",
        text.replace("ann,4,", "ann, +4.0 ,"),
    ):
        path.write_bytes(changed.encode("utf-8"))
        assert call_json("agree", path) == expected
    path.write_bytes(text.replace("bob", "bób").encode("latin-1"))
    assert "is not UTF-8" in error_of("agree", path)


def test_a_judgement_lines_jsonl_null_is_a_gap(tmp_path: Path) -> None:
    row = {
        "item": 7,
        "annotator": "ann",
        "preference": None,
        "sra_a": None,
        "sra_b": 1,
        "system_a": "a",
        "system_b": "b",
    }
    path = lines(tmp_path / "t.jsonl", [row, {**row, "item": 8, "preference": 2.0}])
    found = call_json("agree", path)
    assert found["missing"]["places"] == [{"item": "7", "annotator": "ann"}]
    assert found["win_rate"]["b"]["wins"] == 1
    for bad in (True, [1], "2 or 3"):
        path = lines(tmp_path / "t.jsonl", [{**row, "preference": bad}])
        assert "preference must be" in error_of("agree", path)


# --- alpha ---

# Krippendorff, "Computing Krippendorff's alpha-reliability", example C: interval alpha 0.849.
OBSERVERS = numpy.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
        [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
    ]
)


def test_alpha_of_the_textbook_example() -> None:
    found = krippendorff_alpha(OBSERVERS)
    assert round(found.value or 0, 3) == 0.849
    assert found.n == 11


def test_alpha_by_hand() -> None:
    # Two items: (1, 2) and (3, 3). n = 4, sum 9, sum of squares 23, S = 23 - 81/4 = 2.75.
    # Within: m S_i / (m - 1) = 2 * 0.5 for the first item. alpha = 1 - 3 * 1 / (4 * 2.75).
    found = krippendorff_alpha(numpy.array([[1.0, 3.0], [2.0, 3.0]]))
    assert found.value == pytest.approx(1 - 3 / 11)


def test_the_interval_of_alpha_is_that_of_leaving_out_items() -> None:
    columns = OBSERVERS[:, :11]  # the last item has one observer
    kept = [[item for item in range(11) if item != out] for out in range(11)]
    each = [krippendorff.alpha(columns[:, rows], level_of_measurement="interval") for rows in kept]
    m = (~numpy.isnan(columns)).sum(axis=0)
    v, vv = numpy.nansum(columns, axis=0), numpy.nansum(columns**2, axis=0)
    within = (m * vv - v * v) / (m - 1)
    sums = numpy.stack([m, v, vv, within], axis=1)[kept].sum(axis=1)
    numpy.testing.assert_allclose(alpha_of_sums(sums), each)

    found = krippendorff_alpha(OBSERVERS)
    assert found.value is not None
    reach = stats.t.ppf(0.975, 10) * math.sqrt(10 * numpy.var(numpy.log(1 - numpy.array(each))))
    ends = [1 - (1 - found.value) * math.exp(sign * reach) for sign in (1, -1)]
    assert (found.low, found.high) == pytest.approx(tuple(ends))


@pytest.mark.parametrize(
    ("ratings", "why"),
    [
        ([[1.0, 2.0]], "single annotator"),
        ([[1.0, 2.0], [NAN, NAN]], "single annotator"),
        ([[1.0, NAN], [NAN, 2.0]], "no item was judged by two"),
        ([[1.0, 1.0, 4.0], [1.0, 1.0, NAN]], "0/0"),
    ],
)
def test_undefined_alphas_are_none(ratings: Any, why: str) -> None:
    found = krippendorff_alpha(numpy.array(ratings))
    assert found.value is found.low is None
    assert why in (found.why or "")


# --- The command ---


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys; from sra_fast.cli.app import app\n"
        "try: app(['annotate', 'agree', '--help'])\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'pandas', 'numpy', 'krippendorff', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "krippendorff", None)
    path = flat(tmp_path / "t.csv", PEOPLE, DIFFERENCES)
    assert "pip install 'sra_fast[pipeline]'" in error_of("agree", path)


def test_names_are_shown_as_they_are(tmp_path: Path) -> None:
    given = {"[red]ann\x1b[31m": PEOPLE["ann"], "bob": PEOPLE["bob"]}
    shown, _ = call("agree", flat(tmp_path / "t.csv", given, DIFFERENCES))
    assert "[red]ann\\x1b[31m" in shown
