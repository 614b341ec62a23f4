"""Test how a run of the GPU report goes on: shares of time, crashes, hangs, and a second run."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import gpu_report
from benchmarks.gpu.harness import process, resuming
from benchmarks.gpu.harness.bench import ENDED, Bench, Entry
from benchmarks.gpu.harness.schedule import (
    SECTIONS,
    ReportSettings,
    Section,
    SectionOutcome,
    SectionTask,
    known_ceilings,
    run_here,
)
from benchmarks.gpu.harness.sizes import QUICK

KIND = "cuda" if torch.cuda.is_available() else "cpu"
SETTINGS = ReportSettings(KIND, quick=True)
NAMES = [section.name for section in SECTIONS]
CEILINGS = next(section for section in SECTIONS if section.name == "ceilings")


def soon(seconds: float = 60.0) -> float:
    return time.monotonic() + seconds


def test_time_that_a_section_leaves_goes_to_the_later_ones() -> None:
    given: list[float] = []

    def quick_run(task: SectionTask) -> SectionOutcome:
        given.append(task.ends - time.monotonic())
        return SectionOutcome(task.section.name, "done")

    shares = [Section(name, "", "", share) for name, share in (("a", 30), ("b", 10), ("c", 20))]
    gpu_report.execute(shares, SETTINGS, soon(120), quick_run, lambda outcomes: None)
    assert given == pytest.approx([60, 40, 120], abs=5)


def test_without_time_sections_are_skipped_and_that_is_said() -> None:
    def never(task: SectionTask) -> SectionOutcome:
        raise AssertionError

    outcomes = gpu_report.execute(SECTIONS, SETTINGS, soon(1), never, lambda outcomes: None)
    assert {outcome.status for outcome in outcomes} == {"skipped"}
    assert "out of time" in outcomes[0].reason
    assert not outcomes[0].good
    late = Bench(torch.device(KIND), QUICK, soon(0), {}, lambda entries: None)
    late.each([{"T": 1}], lambda *_: pytest.fail("was run"))
    assert late.entries == [{"T": 1, "skipped": "out of time"}]
    assert not SectionOutcome("late", "done", late.entries).good


def test_all_shares_fit_into_nine_minutes() -> None:
    assert gpu_report.SECONDS == 540
    assert sum(section.share for section in SECTIONS) <= 540
    assert NAMES[:3] == ["facts", "ceilings", "score"]  # what decides most comes first


def test_a_section_that_raises_does_not_stop_the_others() -> None:
    broken = Section("broken", "", "no_such_module:run", 1)
    kept: list[int] = []
    outcomes = gpu_report.execute(
        [broken, CEILINGS], SETTINGS, soon(), run_here, lambda o: kept.append(len(o))
    )
    assert [outcome.status for outcome in outcomes] == ["failed", "done"]
    assert "No module named" in outcomes[0].reason
    assert kept == [1, 2]
    assert set(known_ceilings(outcomes)) == {"gemm_tflops", "copy_gbs"}


def stand_in(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    """Put a Python script in the place of the interpreter that runs a section.

    It finds the file of its results as ``path``, what is in there as ``held``, and the entries
    known before as ``entries``.
    """
    begin = (
        f"#!{sys.executable} -S\n"
        "import json, os, pathlib, signal, sys, time\n"
        "path = pathlib.Path(sys.argv[sys.argv.index('--result') + 1])\n"
        "held = json.loads(path.read_text())\n"
        "entries = held['entries']\n"
        "def save(status='running'):\n"
        "    path.write_text(json.dumps({**held, 'entries': entries, 'status': status}))\n"
    )
    program = folder / "python"
    program.write_text(begin + script)
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))


def apart(folder: Path, seconds: float = 60.0, known: Sequence[Entry] = ()) -> SectionOutcome:
    task = SectionTask(CEILINGS, SETTINGS, soon(seconds), {}, known)
    return process.run_apart(task, folder / "x.partial.json")


def test_a_section_that_crashes_goes_on_after_the_place_of_the_crash(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = f"""
for T in (1, 2, 3):
    if any(entry["T"] == T for entry in entries):
        continue
    entries.append({{"T": T, "error": {ENDED!r}}})
    save()
    if T == 2:
        print("an illegal memory access", flush=True)
        os.kill(os.getpid(), signal.SIGSEGV)
    entries[-1] = {{"T": T, "figure": 1.0}}
save("done")
"""
    stand_in(monkeypatch, tmp_path, script)
    outcome = apart(tmp_path, known=[{"T": 1, "figure": 7.0}])
    first, second, third = outcome.entries
    assert outcome.status == "done"
    assert not outcome.good
    assert first == {"T": 1, "figure": 7.0}
    assert second["T"] == 2
    assert second["error"].startswith(f"{ENDED}: its process ended with status -11: an illegal")
    assert third == {"T": 3, "figure": 1.0}


def test_a_section_that_crashes_at_once_is_not_begun_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    counter = tmp_path / "runs"
    stand_in(
        monkeypatch, tmp_path, f"open({str(counter)!r}, 'a').write('x'); sys.exit('no module y')"
    )
    outcome = apart(tmp_path)
    assert outcome.status == "failed"
    assert "status 1: no module y" in outcome.reason
    assert counter.read_text() == "x"


def test_a_section_that_hangs_is_ended_and_what_it_found_stays(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stand_in(
        monkeypatch, tmp_path, "entries.append({'T': 1, 'figure': 2.0})\nsave()\ntime.sleep(100)"
    )
    monkeypatch.setattr(process, "GRACE", 1.5)
    start = time.monotonic()
    outcome = apart(tmp_path, seconds=0.0)
    assert time.monotonic() - start < 50
    assert outcome.status == "stopped"
    assert "over its time" in outcome.reason
    assert outcome.entries == [{"T": 1, "figure": 2.0}]


class Recorded:
    """Stand in for the processes of sections: note what is asked, and answer from a table."""

    def __init__(self, answers: Mapping[str, SectionOutcome]) -> None:
        self.answers = answers
        self.asked: dict[str, Sequence[Entry]] = {}

    def __call__(self, task: SectionTask, partial: Path) -> SectionOutcome:
        name = task.section.name
        self.asked[name] = task.known
        return self.answers.get(name, SectionOutcome(name, "done"))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., tuple[int, Recorded]]:
    """Run the whole command into one folder, with stand-ins for the sections' processes."""

    def command(*more: str, **answers: SectionOutcome) -> tuple[int, Recorded]:
        recorded = Recorded(answers)
        monkeypatch.setattr(gpu_report, "run_apart", recorded)
        arguments = ["--quick", "--device", KIND, "--out", str(tmp_path / "out"), *more]
        return gpu_report.main(arguments), recorded

    return command


Run = Callable[..., tuple[int, Recorded]]
GOOD, WRONG = {"T": 1, "figure": 1.0}, {"T": 2, "error": "off by 3"}


def test_a_second_run_does_what_is_missing_or_was_not_good(run: Run, tmp_path: Path) -> None:
    status, recorded = run(
        facts=SectionOutcome("facts", "failed", [GOOD, WRONG], "because"),
        decode=SectionOutcome("decode", "skipped", [], "out of time"),
    )
    assert status == 1
    assert list(recorded.asked) == NAMES
    status, recorded = run(facts=SectionOutcome("facts", "done", [GOOD, {"T": 2, "figure": 5.0}]))
    assert status == 0
    assert recorded.asked == {"facts": [GOOD], "decode": []}
    held = json.loads((tmp_path / "out" / "results.json").read_text())
    assert list(held["sections"]) == NAMES
    assert held["sections"]["facts"]["entries"][1]["figure"] == 5.0
    assert run()[1].asked == {}


def test_only_the_sections_named_are_run_and_the_others_stay(run: Run, tmp_path: Path) -> None:
    run("--only", "ceilings")
    _, recorded = run("--only", "ceilings", "decode")
    assert list(recorded.asked) == ["decode"]
    held = json.loads((tmp_path / "out" / "results.json").read_text())
    assert list(held["sections"]) == ["ceilings", "decode"]


def test_a_run_that_was_killed_goes_on_with_what_its_section_had_found(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def killed(task: SectionTask, partial: Path) -> SectionOutcome:
        found = SectionOutcome(task.section.name, "running", [GOOD, {"T": 2, "error": ENDED}])
        process.write(asdict(found), partial)
        raise KeyboardInterrupt

    arguments = ["--quick", "--device", KIND, "--out", str(tmp_path / "out")]
    monkeypatch.setattr(gpu_report, "run_apart", killed)
    with pytest.raises(KeyboardInterrupt):
        gpu_report.main(arguments)
    _, recorded = run()
    assert recorded.asked["facts"] == [GOOD]
    assert not list((tmp_path / "out").glob("*.partial.json"))


@pytest.mark.parametrize("fact", resuming.IDENTITY)
def test_the_report_of_something_else_is_not_continued(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], fact: str
) -> None:
    run()
    results = tmp_path / "out" / "results.json"
    held = json.loads(results.read_text())
    held["facts"][fact] = "another"
    results.write_text(json.dumps(held))
    status, recorded = run()
    assert (status, recorded.asked) == (2, {})
    message = capsys.readouterr().err
    assert f"{resuming.IDENTITY[fact]} differ (another there, " in message
    assert "name another folder, or delete this one" in message
    assert json.loads(results.read_text()) == held


@pytest.mark.parametrize("text", ["{", "[]", '{"facts": {}, "sections": {"a": {"x": 1}}}'])
def test_a_folder_with_other_results_is_refused(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "results.json").write_text(text)
    assert run()[0] == 2
    assert "is no result of this report" in capsys.readouterr().err


def test_the_codes_digest_changes_with_any_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "a.py").write_text("a = 1\n")
    monkeypatch.setattr(resuming, "ROOT", tmp_path)
    before = resuming.code_digest()
    (tmp_path / "kernels" / "a.py").write_text("a = 2\n")
    assert resuming.code_digest() != before


def test_the_command_runs_sections_in_processes_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--quick", "--device", KIND, "--only", "ceilings", "--out", str(tmp_path / "out")]
    assert gpu_report.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "nothing here is a measurement" in printed
    recorded = json.loads((tmp_path / "out" / "results.json").read_text())
    assert recorded["sections"]["ceilings"]["status"] == "done"
    assert (tmp_path / "out" / "report.md").exists()


@pytest.mark.skipif(KIND == "cuda", reason="there is a GPU")
def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert gpu_report.main(["--out", str(tmp_path / "out")]) == 2
    assert "no GPU" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
