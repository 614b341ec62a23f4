"""Test the steering study as a whole: its settings, its folder and its command."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sra_fast.chat.strategies import DEFAULT_STRATEGIES
from sra_fast.cli.app import app
from sra_fast.files.models import find_model
from sra_fast.files.run_folder import RunFolderError
from sra_fast.training.pipeline.steering.steer_study import STEERED_LINES, SteerStudy, run_study
from sra_fast.training.pipeline.steering.study_dialogues import StudyError
from sra_fast.training.pipeline.steering.study_records import read_records
from sra_fast.training.pipeline.steering.study_settings import cut, study_settings
from study_material import record, three_dialogues
from tiny_chat_model import save_tiny_model


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return three_dialogues(tmp_path_factory.mktemp("dialogues"))


def study(tiny: Path, file: Path, out: Path, **changes: Any) -> SteerStudy:
    """Return a study of the strategy at one bias, changed as said."""
    model = find_model(str(tiny))
    given = SteerStudy(file, out, model, DEFAULT_STRATEGIES, biases=(2.0,), shares=())
    return replace(given, **{"parts": ("strategy",), **changes})


def test_groups_hold_every_layer_and_head_once() -> None:
    assert cut(range(7), 3) == [(0, 1), (2, 3, 4), (5, 6)]
    assert cut([4], 5) == [(4,)]
    names = [one.name for one in study_settings(range(30), 9)]
    assert len(set(names)) == len(names) == 1 + 13 + 13 + 2 * (5 + 3)
    layers = [one.layers for one in study_settings(range(30), 9) if one.layers and one.bias == 2]
    assert [layer for group in layers for layer in group] == list(range(30))


def test_a_study_that_was_killed_ends_as_an_unbroken_one(
    tiny: Path, file: Path, tmp_path: Path
) -> None:
    parts = ("strategy", "control")
    whole = run_study(study(tiny, file, tmp_path / "whole", parts=parts))
    lines = (tmp_path / "whole" / STEERED_LINES).read_bytes()
    assert len(lines.splitlines()) == 3 * 3 + 2 * 2  # one situation is too short for a control
    broken = tmp_path / "broken"
    seen = []

    def killed(what: str, done: int, total: int) -> None:
        seen.append(done)
        if sum(seen) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_study(study(tiny, file, broken, parts=parts), killed)
    with (broken / STEERED_LINES).open("ab") as cut_line:
        cut_line.write(b'{"dialogue": "three')
    run_study(study(tiny, file, broken, dialogues=2))
    again = run_study(study(tiny, file, broken, parts=parts))
    assert read_records(broken / STEERED_LINES, 3) == read_records(
        tmp_path / "whole" / STEERED_LINES, 3
    )
    assert sorted(again["files"]) == sorted(whole["files"])
    by_name = [{one["setting"]: one for one in found["settings"]} for found in (whole, again)]
    for name, one in by_name[0].items():
        assert by_name[1][name]["figures"]["per_token"]["value"] == pytest.approx(
            one["figures"]["per_token"]["value"], abs=1e-12
        )


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / STEERED_LINES
    whole = vars(record([[-1.0], [-2.0]], [0]))
    line = json.dumps(whole)
    apart: tuple[dict[str, Any], ...] = (
        {"log_p": [[-1.0], [-2.0], [-3.0]]},
        {"log_p": [[-1.0], []]},
        {"log_p": [[-1.0], [math.nan]]},
        {"log_p": [["a"], [-2.0]]},
        {"own": [2]},
        {"own": ["Question"]},
        {"tokens": [0]},
        {"turns": []},
    )
    changed = [json.dumps({**whole, **change}) for change in apart]
    for damaged in (line[:-9], '{"dialogue": "a"}', "3", *changed):
        path.write_text(f"{line}\n{damaged}\n", encoding="utf-8")
        with pytest.raises(StudyError, match="line 2 is damaged"):
            read_records(path, 2)


def test_a_dialogue_beyond_the_context_is_named(file: Path, tmp_path: Path) -> None:
    short = save_tiny_model(tmp_path / "short", context=100)
    with pytest.raises(StudyError, match=r"dialogue 'three-\d': \d+ tokens, .* reaches to 100"):
        run_study(study(short, file, tmp_path / "out", dialogues=1))


def test_other_settings_are_refused(tiny: Path, file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_study(study(tiny, file, out, dialogues=1, biases=()))
    with pytest.raises(RunFolderError, match="seed"):
        run_study(study(tiny, file, out, seed=7))


def test_the_command_writes_the_report(tiny: Path, file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["steer-study", str(file), "--model", str(tiny), "--out", str(out), "--json"]
    done = CliRunner().invoke(app, [*command, "--dialogues", "1", "--parts", "groups"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert {one["part"] for one in found["settings"]} == {None, "groups"}
    report = (out / "report.md").read_text(encoding="utf-8")
    assert "layers 0, bias 2" in report
    assert "groups.png" in report
    headings = [line for line in report.splitlines() if line.startswith("| setting")]
    assert len(headings) == 3
    for words in ("advantage", "own first", "shuffled", "change by steering", "above control"):
        assert any(words in line for line in headings)
        assert f"*{words}*" in report  # which says what the words mean
    assert (out / "groups.png").stat().st_size > 1000
    wrong = CliRunner().invoke(app, [*command, "--parts", "layers"])
    assert wrong.exit_code == 2
    assert "layers" in wrong.output
