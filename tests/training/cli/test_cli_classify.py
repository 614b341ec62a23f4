"""Test what ``sra-fast classify`` writes and prints, and how it fails."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sra_fast.cli.app import app
from sra_fast.training.pipeline.classifiers import PLAIN_REPLIES
from tiny_chat_model import talk, write_jsonl

ANSI = re.compile(r"\x1b\[[0-9;]*m")
HELD_OUT = Path(__file__).parents[2] / "support" / "plain_replies.jsonl"


def call(*arguments: object, status: int = 0) -> tuple[str, str]:
    """Return standard output and standard error of a command that ends with ``status``."""
    words = ["classify", *(str(one) for one in arguments)]
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, words)
    assert result.exit_code == status, result.output
    assert "Traceback" not in result.output
    return ANSI.sub("", result.stdout), ANSI.sub("", result.stderr)


def call_json(*arguments: object, status: int = 0) -> dict[str, Any]:
    parsed = json.loads(call(*arguments, "--json", status=status)[0])
    assert isinstance(parsed, dict)
    return parsed


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return twenty training replies of each of four strategies."""
    lines = PLAIN_REPLIES.read_text(encoding="utf-8").splitlines()
    kept = [line for i in (0, 2, 5, 14) for line in lines[60 * i : 60 * i + 20]]
    path = tmp_path_factory.mktemp("data") / "few.jsonl"
    path.write_text("\n".join(kept) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def trained(few: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("out") / "classifier"
    return out, call_json("train", few, "--out", out)


def test_train_writes_the_classifier_and_its_report(trained: tuple[Path, dict[str, Any]]) -> None:
    out, result = trained
    assert {path.name for path in out.iterdir()} == {
        "classifier.json",
        "vocabulary.json",
        "weights.safetensors",
        "report.json",
        "report.md",
        "confusion.png",
        "ngrams.csv",
        "trained_on.json",
        "run.json",
    }
    report = json.loads((out / "report.json").read_text())
    assert result == {"command": "classify train", "out": str(out), **report}
    assert report["held_out"]["responses"] == 16
    assert [fold["responses"] for fold in report["folds"]] == [20] * 4
    together = report["all_folds"]
    assert sum(map(sum, together["confusion"])) == together["responses"] == 80
    assert together["accuracy"] > 2 * together["uniform"] == 0.5
    assert f"accuracy {together['accuracy']:.1%}" in (out / "report.md").read_text()
    assert (out / "confusion.png").read_bytes().startswith(b"\x89PNG")
    with (out / "ngrams.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["strategy"] for row in rows} == set(together["classes"])
    assert all(float(row["coefficient"]) > 0 for row in rows)


def test_predict_measures_next_to_chance(
    trained: tuple[Path, dict[str, Any]], few: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "predicted.jsonl"
    result = call_json("predict", few, "--classifier", trained[0], "--out", out)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) == result["responses"] == 80
    for row in rows:
        assert row["probability"] == max(row["probabilities"].values())
        assert row["probabilities"][row["predicted"]] == row["probability"]
        assert sum(row["probabilities"].values()) == pytest.approx(1)
    right = sum(row["strategy"] == row["predicted"] for row in rows) / 80
    measured = result["quality"]
    assert measured["accuracy"] == right
    assert measured["low"] < right <= measured["high"] <= 1
    assert (measured["majority"], measured["uniform"]) == (0.25, 0.25)


def test_predict_says_what_it_could_not_measure(tmp_path: Path) -> None:
    lines = [
        {"response": "Hi there, how are you?", "id": "a"},
        {"response": "What happened?", "strategy": "Question"},
        {"response": "Many people feel like that.", "strategy": "Normalize Experiences"},
    ]
    out = tmp_path / "p.jsonl"
    arguments = ("predict", write_jsonl(tmp_path / "x.jsonl", lines), "--classifier", "plain")
    shown, said = call(*arguments, "--out", out)
    assert "100.0% of 1 responses right" in shown
    assert "1 of 3 responses name no strategy" in said
    assert "1 responses name 'Question', which the classifier does not know" in said
    assert "chance: 100.0% by the most frequent strategy, 6.7% by guessing" in said
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["id"] for row in rows] == ["a", "1", "2"]
    assert "strategy" not in rows[0]
    before = out.read_bytes()
    assert "--force" in call_json(*arguments, "--out", out, status=1)["error"]
    result = call_json(*arguments, "--out", out, "--force")
    assert (result["unlabelled"], result["outside"]) == (1, {"Question": 1})
    assert out.read_bytes() == before


def test_predict_without_strategies_measures_nothing(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "x.jsonl", [{"response": "Hello!"}])
    out = tmp_path / "p.jsonl"
    assert call_json("predict", file, "--classifier", "plain", "--out", out)["quality"] is None


@pytest.mark.parametrize("command", ["train", "predict"])
@pytest.mark.parametrize(
    ("records", "says"),
    [
        ([talk("a"), talk("b"), talk("a")], "(x.jsonl line 3): field 'id' is also that of"),
        ([{"response": "Hi", "id": "a"}] * 2, "x.jsonl line 2: id 'a' is also that of x.jsonl"),
        ([{"response": "Hi"}, {"response": "Oh", "id": "0"}], "line 2: id '0' is also that of"),
        (
            [{"response": "Hi"}, talk("a")],
            "one is a conversation (with 'messages') and the other a",
        ),
        ([{"dialog": []}], "x.jsonl line 1: unknown field 'dialog'"),
        ([{"response": "Hi", "strategy": 5}], "field 'strategy' must be a string"),
    ],
    ids=["conversations", "responses", "by number", "mixed", "ESConv", "a number"],
)
def test_bad_files_are_named(
    tmp_path: Path, command: str, records: list[dict[str, Any]], says: str
) -> None:
    file, out = write_jsonl(tmp_path / "x.jsonl", records), tmp_path / "out"
    more = ("--classifier", "plain") if command == "predict" else ()
    assert says in call_json(command, file, "--out", out, *more, status=1)["error"]
    assert not out.exists()


def test_predict_takes_conversations(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "c.jsonl", [talk("c1"), talk("c2", dialogue="d")])
    out = tmp_path / "p.jsonl"
    result = call_json("predict", file, "--classifier", "plain", "--out", out)
    assert result["quality"]["responses"] == 2


def test_settings_are_given_by_name(few: Path, tmp_path: Path) -> None:
    paper = ("--set", "ngrams=[2,3]", "--set", "stop_words=false", "--set", "min_responses=1")
    result = call_json("train", few, "--out", tmp_path / "c", "--folds", 0, *paper)
    assert result["settings"]["ngrams"] == [2, 3]
    assert result["settings"]["stop_words"] is False
    assert result["all_folds"] is None
    wrong = call_json("train", few, "--out", tmp_path / "d", "--set", "ngram=1", status=1)
    assert "did you mean 'ngrams'" in wrong["error"]
    call("train", few, "--out", tmp_path / "d", "--set", "c", status=2)
    call("train", few, "--out", tmp_path / "d", "--set", "c=1", "--set", "c=2", status=2)
    call("train", few, "--out", tmp_path / "d", "--model", "roberta-large", status=2)


def test_own_strategies_and_wrong_ones(few: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.json"
    own.write_text(json.dumps({"Greet": "Say hello.", "Ask": "Ask something."}))
    lines = [
        {"response": text, "strategy": name}
        for text, name in (("Hello you", "Greet"), ("What is it?", "Ask")) * 10
    ]
    file = write_jsonl(tmp_path / "own.jsonl", lines)
    done = call_json("train", file, "--strategies", own, "--out", tmp_path / "c")
    assert done["all_folds"]["accuracy"] == 1
    error = call_json("train", file, "--out", tmp_path / "d", status=1)["error"]
    assert "own.jsonl line 1" in error
    assert "--strategies" in error
    assert not (tmp_path / "d").exists()
    missing = call_json(
        "predict", few, "--classifier", tmp_path / "no", "--out", tmp_path / "p", status=1
    )
    assert "holds no classifier" in missing["error"]


def test_the_same_training_again_trains_nothing_and_another_needs_force(
    trained: tuple[Path, dict[str, Any]], few: Path, tmp_path: Path
) -> None:
    out, result = trained
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    said = call("train", few, "--out", out)[1]
    assert "this classifier was trained before; nothing is trained" in said
    assert call_json("train", few, "--out", out) == result
    error = call_json("train", few, "--out", out, "--folds", 0, status=1)["error"]
    assert "its setting 'folds' is 4, and now it is 0" in error
    assert "(--out, --force)" in error
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    other = tmp_path / "other"
    shutil.copytree(out, other)
    assert call_json("train", few, "--out", other, "--folds", 0, "--force")["all_folds"] is None


def test_responses_that_were_learnt_from_are_counted(
    tmp_path: Path, few: Path, trained: tuple[Path, dict[str, Any]]
) -> None:
    lines = [
        *few.read_text("utf-8").splitlines()[:3],
        *HELD_OUT.read_text("utf-8").splitlines()[:4],
    ]
    records = [{**json.loads(line), "id": str(number)} for number, line in enumerate(lines)]
    file = write_jsonl(tmp_path / "both.jsonl", records)
    given = ["predict", file, "--force", "--out", tmp_path / "p.jsonl", "--classifier"]
    assert call_json(*given, trained[0])["learnt"] == 3
    assert call_json(*given, "plain")["learnt"] == 3
    assert "3 of 7 responses are among those" in call(*given, trained[0])[1]
    (trained[0] / "trained_on.json").rename(tmp_path / "gone.json")
    try:
        assert call_json(*given, trained[0])["learnt"] == 0
    finally:
        (tmp_path / "gone.json").rename(trained[0] / "trained_on.json")


def test_a_missing_package_is_named(tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules['sklearn'] = None\n"
        "from sra_fast.cli.app import app\n"
        f"app(['classify', 'predict', {str(HELD_OUT)!r}, '--classifier', 'plain', "
        f"'--out', {str(tmp_path / 'p.jsonl')!r}])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 1
    assert "'scikit-learn' is missing: pip install 'sra_fast[pipeline]'" in done.stderr


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys; from sra_fast.cli.app import app\n"
        "try: app(['classify', 'train', '--help'])\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'transformers', 'sklearn', 'numpy', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)
