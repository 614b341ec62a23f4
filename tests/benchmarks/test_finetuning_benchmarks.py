"""Test that the training benchmarks run in tiny sizes, compare before timing, and keep no text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tiny_chat_model import save_tiny_model

pytest.importorskip("datasets", reason="needs the package datasets (extra 'train')")
pytest.importorskip("peft", reason="needs the package peft (extra 'train')")

from benchmarks.finetuning import cost, esconv_sweep, steps
from benchmarks.finetuning.steps import WAYS, Stepped, Training, ratios
from benchmarks.finetuning.sweep import ratio_interval
from benchmarks.gpu.harness.bench import Bench
from benchmarks.gpu.harness.failures import WrongResultError
from benchmarks.gpu.harness.sizes import QUICK
from benchmarks.gpu.sections import training_steps
from benchmarks.measuring.cases import ModelCase, Shape, build_batch, build_model

CASE = ModelCase(Shape("tiny", 2, 64, 128, 4, 2, 16, 100), 48, response=8)
STRATEGIES = ("Question", "Information", "Self-disclosure")


def dialogue(number: int) -> dict[str, Any]:
    turns = [("seeker", f"Seeker {number} says that it was a long and heavy day.")]
    for strategy in STRATEGIES:
        turns += [
            ("supporter", f"Supporter {number} answers in the manner of {strategy}."),
            ("seeker", f"And seeker {number} goes on about {strategy} for a while."),
        ]
    names = iter(STRATEGIES)
    return {
        "situation": f"situation {number}",
        "emotion_type": "sadness",
        "problem_type": "work",
        "dialog": [
            {
                "speaker": speaker,
                "annotation": {"strategy": next(names)} if speaker == "supporter" else {},
                "content": content,
            }
            for speaker, content in turns
        ],
    }


def test_every_weight_is_trained_scored_again_and_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dialogues = [dialogue(number) for number in range(14)]
    file = tmp_path / "ESConv.json"
    file.write_text(json.dumps(dialogues), encoding="utf-8")
    command = [str(file), "--model", str(save_tiny_model(tmp_path / "model")), "--steps", "3"]
    command += ["--weights", "1", "--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]
    assert esconv_sweep.main(command) == 0
    report = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert report.strip() in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {
        "report.md",
        "results.json",
        "sweep.png",
        "curves-0.png",
    }
    recorded = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    runs = recorded["runs"]
    assert [run["weight"] for run in runs] == [0.0, 1.0]
    counts = recorded["conversations"]
    assert set(counts["training"]["strategies"]) == set(STRATEGIES[1:])  # the first comes too soon
    for run in runs:
        assert run["rescored"] == pytest.approx(run["result"]["after"]["sra"], rel=1e-5)
        assert len(run["scores"]) == counts["held-out"]["conversations"]
        assert run["log"]["training"]["step"] == [1, 2, 3]
        assert None not in run["log"]["training"]["sra"]
        assert f"| {run['rescored']:.3e} |" in report
    assert runs[1]["rescored"] > runs[0]["rescored"]
    written = "".join(
        path.read_text(encoding="utf-8")
        for path in (tmp_path / "out").iterdir()
        if path.suffix != ".png"
    )
    assert "eeker" not in written
    assert str(tmp_path) not in written

    begun = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("outcome.json")}
    assert esconv_sweep.main(command) == 0  # nothing is left to do
    assert all(path.stat().st_mtime_ns == time for path, time in begun.items())


def test_all_ways_compute_the_same_losses_and_sra() -> None:
    training = Training(build_model(CASE), build_batch(CASE), 4, checkpointing=True)
    done = {way: training.run(way, 3) for way in WAYS}
    assert all(len(stepped.seconds) == 2 for stepped in done.values())
    losses = [stepped.loss for stepped in done.values()]
    assert losses == pytest.approx([losses[0]] * 4, rel=1e-5)
    assert done["plain"].sra is None
    measured = [done[way].sra for way in ("callback", "regulariser", "maps")]
    assert measured == pytest.approx([measured[0]] * 3, rel=1e-5)
    training.unload()


def test_the_first_step_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    now, lengths = [0.0], iter([5.0, 2.0, 3.0])
    whole = steps.ReplyTrainer.training_step

    def lasting(self: Any, *args: Any, **kwargs: Any) -> Any:
        now[0] += next(lengths)
        return whole(self, *args, **kwargs)

    monkeypatch.setattr(steps.ReplyTrainer, "training_step", lasting)
    monkeypatch.setattr(steps.time, "perf_counter", lambda: now[0])
    training = Training(build_model(CASE), build_batch(CASE), 4, checkpointing=False)
    assert training.run("callback", 3).seconds == (2.0, 3.0)


def test_a_way_that_is_wrong_gets_no_ratio() -> None:
    right = {way: [Stepped((1.0, 1.0), 2.0, None if way == "plain" else 0.5)] for way in WAYS}
    row = cost._row(CASE, right, dict.fromkeys(WAYS, 10))
    assert row.right
    assert "| SRACallback | 1.00 | 1.000 | 0 | 1.000 |" in cost.as_markdown([row], FACTS)
    for wrong in (Stepped((1.0, 1.0), 2.1, 0.5), Stepped((1.0, 1.0), 2.0, 0.51)):
        row = cost._row(CASE, {**right, "maps": [wrong]}, dict.fromkeys(WAYS, 10))
        assert not row.right
        assert "| SRACallback" not in cost.as_markdown([row], FACTS)


FACTS = {"cpu": "a", "cores": 1, "threads": 1, "torch": "2", "transformers": "5", "commit": "x"}


def test_a_ratio_is_the_median_over_rounds() -> None:
    plain = [Stepped((seconds,), 1.0, None) for seconds in (1.0, 10.0, 2.0)]
    watched = [Stepped((seconds,), 1.0, 0.5) for seconds in (1.1, 10.0, 2.6)]
    assert ratios({"plain": plain, "callback": watched})["callback"] == pytest.approx(1.1)


def test_the_section_of_the_gpu_report(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    bench = Bench(torch.device("cpu"), QUICK, time.monotonic() + 60, {}, lambda entries: None)
    training_steps.run(bench)
    assert [entry["T"] for entry in bench.entries] == list(QUICK.training_lengths)
    for entry in bench.entries:
        assert "error" not in entry, entry
        assert entry["callback/plain time"] > 0
        assert entry["regulariser/plain time"] > 0
    monkeypatch.setattr(training_steps, "SRA_TOLERANCE", -1.0)
    with pytest.raises(WrongResultError, match="SRA of the two ways off by"):
        training_steps._measure(
            Training(build_model(CASE), build_batch(CASE), 4, checkpointing=True), bench, {}, 0.0
        )


def test_the_interval_is_of_dialogues() -> None:
    base, dialogues = [1.0, 1.0, 2.0, 2.0] * 4, [n // 2 for n in range(16)]
    assert ratio_interval([2 * one for one in base], base, dialogues) == (None, None)  # all alike
    scores = [3.0, 1.0, 2.0, 2.0] * 4
    low, high = ratio_interval(scores, base, dialogues)
    assert 0 < (low or 0) < 32 / 24 < (high or 0)
    assert ratio_interval(scores, base, [n // 4 for n in range(16)]) == (None, None)  # too few
