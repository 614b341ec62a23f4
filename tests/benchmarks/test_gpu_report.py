"""Test the GPU report where there may be no GPU: its own logic, and every section once, tiny.

On a CPU the sections run interpreted kernels in float32. What only a GPU has (events, memory
statistics, properties) gets a stand-in with the same signature.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.gpu import gpu_report
from benchmarks.gpu.harness import bench, card, checking, failures, llama, process, tensors, timing
from benchmarks.gpu.harness.bench import QUICK, Bench, Entry
from benchmarks.gpu.harness.schedule import (
    SECTIONS,
    ReportSettings,
    Section,
    SectionOutcome,
    known_ceilings,
    run_here,
)
from benchmarks.gpu.report import dispatch_table, report_page, targets
from benchmarks.gpu.sections import (
    column_sums,
    correctness,
    decoding,
    every_kernel,
    gradients,
    prefill,
    whole_model,
)
from sra_fast import SpanAttention, SpanQuery, span_attention

ROOT = Path(__file__).resolve().parents[2]
KIND = "cuda" if torch.cuda.is_available() else "cpu"
DEVICE = torch.device(KIND)
SETTINGS = ReportSettings(KIND, quick=True)
CEILINGS = {"gemm_tflops": 1.0, "copy_gbs": 1.0}
NAMES = [section.name for section in SECTIONS]


def soon(seconds: float = 60.0) -> float:
    return time.monotonic() + seconds


def tiny(**changes: Any) -> Bench:
    sizes = replace(QUICK, **changes)
    return Bench(DEVICE, sizes, soon(), CEILINGS, lambda entries: None)


def named(name: str) -> Section:
    return next(section for section in SECTIONS if section.name == name)


@dataclass(frozen=True)
class Whole:
    """Hold one run of all sections of the report."""

    folder: Path
    outcomes: Sequence[SectionOutcome]
    printed: str


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp("report")
    facts = card.facts(KIND)
    outcomes = gpu_report.execute(
        SECTIONS,
        SETTINGS,
        soon(300),
        run_here,
        lambda so_far: gpu_report.record(facts, so_far, folder),
    )
    return Whole(folder, outcomes, gpu_report.report(facts, outcomes, folder, ["a note"]))


def test_every_section_runs(whole: Whole) -> None:
    assert [outcome.name for outcome in whole.outcomes] == NAMES
    assert report_page.troubles(whole.outcomes) == []
    assert all(outcome.good for outcome in whole.outcomes)


def test_results_are_written_as_json_table_and_pictures(whole: Whole) -> None:
    recorded = json.loads((whole.folder / "results.json").read_text())
    assert list(recorded["sections"]) == NAMES
    assert recorded["facts"]["versions"]["torch"] == torch.__version__
    assert len(recorded["targets"]) == len(targets.TARGETS)
    forward = recorded["sections"]["forward"]["entries"][0]
    assert forward["on/off"] > 0
    assert forward["times"]["on"]["rounds"] == QUICK.rounds
    text = (whole.folder / "report.md").read_text()
    assert all(section.title in text for section in SECTIONS)
    for name in ("speed.png", "ratios.png", "model.png"):
        assert name not in text or (whole.folder / name).read_bytes().startswith(b"\x89PNG")
    assert "](speed.png)" in text
    assert "](model.png)" in text
    assert set(json.loads((whole.folder / "dispatch.json").read_text())) <= {"cpu", "sm_90"}


def test_results_name_no_folder(whole: Whole) -> None:
    for path in whole.folder.iterdir():
        if path.suffix in (".json", ".md"):
            text = path.read_text()
            assert str(ROOT) not in text
            assert str(Path.home()) + "/" not in text


def test_the_printed_table_is_short_and_ends_the_report(whole: Whole) -> None:
    assert len(whole.printed.splitlines()) < 60
    lengths = [{"T": T, "on_ms": 1.0, "score_ms": 1.0} for T in range(7)]
    entries = [*lengths, *[{"error": "no"}] * 30]
    failing = [SectionOutcome(name, "failed", entries, "because") for name in NAMES]
    short = report_page.short(card.facts(KIND), failing, targets.judge(failing), ["a note"] * 2)
    assert len(short.splitlines()) < 60
    assert "forward: failed: because" in short


def test_without_matplotlib_there_are_tables_all_the_same(
    whole: Whole, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    printed = gpu_report.report(card.facts(KIND), whole.outcomes, tmp_path, [])
    assert "no pictures: ModuleNotFoundError" in printed
    assert "png" not in (tmp_path / "report.md").read_text()


def test_tiny_sizes_reach_no_target(whole: Whole) -> None:
    assert {verdict.word for verdict in targets.judge(whole.outcomes)} == {"–", "not measured"}


def test_every_kernel_is_run_for_the_memory_checker() -> None:
    dtype = torch.bfloat16 if KIND == "cuda" else torch.float32
    every_kernel.run(replace(QUICK, decode_keys=50), 37, DEVICE, dtype)


def test_a_section_that_raises_does_not_stop_the_others() -> None:
    broken = Section("broken", "", "no_such_module:run", 1)
    kept: list[int] = []
    outcomes = gpu_report.execute(
        [broken, named("ceilings")], SETTINGS, soon(), run_here, lambda o: kept.append(len(o))
    )
    assert [outcome.status for outcome in outcomes] == ["failed", "done"]
    assert "No module named" in outcomes[0].reason
    assert kept == [1, 2]
    assert set(known_ceilings(outcomes)) == {"gemm_tflops", "copy_gbs"}


def test_a_measurement_that_raises_does_not_stop_the_others() -> None:
    def measure(at: Bench, entry: Entry, seconds: float) -> None:
        if entry["T"] == 1:
            raise ValueError("/some/where/file.py is broken")
        entry["fine"] = seconds

    work = tiny()
    work.each([{"T": 0}, {"T": 1}, {"T": 2}], measure)
    assert ["fine" in entry for entry in work.entries] == [True, False, True]
    assert work.entries[1]["error"].startswith("ValueError: file.py is broken")


def test_a_lost_device_ends_the_section_and_what_was_found_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def lost(device: torch.device | None = None) -> None:
        raise RuntimeError("an illegal memory access was encountered")

    def measure(at: Bench, entry: Entry, seconds: float) -> None:
        entry["fine"] = True

    monkeypatch.setattr(torch.cuda, "synchronize", lost)
    work = replace(tiny(), device=torch.device("cuda"))
    with pytest.raises(failures.DeviceLostError, match="illegal memory access"):
        work.each([{"T": 1}, {"T": 2}], measure)
    assert work.entries == [{"T": 1, "fine": True}]


@pytest.mark.parametrize("part", ["out", "mass", "lse"])
@pytest.mark.parametrize("section", [prefill, decoding])
def test_a_wrong_result_gets_no_time(
    monkeypatch: pytest.MonkeyPatch, section: Any, part: str
) -> None:
    def wrong(*args: Any, **kwargs: Any) -> SpanAttention:
        result = span_attention(*args, **kwargs)
        return replace(result, **{part: getattr(result, part) * 1.05})

    monkeypatch.setattr(section, "span_attention", wrong)
    work = tiny(prefill=(48,), decode_batches=(1,))
    (section.run if section is decoding else section.run_fused)(work)
    (entry,) = work.entries
    assert f"{part} off by" in entry["error"]
    assert not [name for name in entry if "ms" in name or "/" in name]


@pytest.mark.parametrize("value", [torch.nan, 0.0])
def test_what_a_kernel_leaves_unwritten_is_seen(value: float) -> None:
    given = tensors.attention(QUICK, DEVICE, torch.float32, 48)
    exact = checking.exact_rows(given.q, given.k, given.v, given.asking)
    result = span_attention(given.q, given.k, given.v, given.asking, backend="reference")
    checking.check(result, given.asking, exact, None, {})
    result.out[0, 0, -1] = value
    with pytest.raises(failures.WrongResultError, match="out off by"):
        checking.check(result, given.asking, exact, None, {})


def test_wrong_gradients_get_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*args: Any, backend: Any, **kwargs: Any) -> SpanAttention:
        result = span_attention(*args, backend=backend, **kwargs)
        return replace(result, mass=result.mass * (1.05 if backend == "triton" else 1.0))

    monkeypatch.setattr(gradients, "span_attention", wrong)
    work = tiny()
    gradients.run(work)
    assert all("error" in entry for entry in work.entries)
    assert "no time counts" in work.entries[-1]["error"]
    assert "with_ms" not in work.entries[-1]


def test_the_exact_rows_are_those_of_the_reference() -> None:
    sizes = replace(QUICK, heads=4, kv_heads=2, width=16)
    for queries in (None, 3):
        given = tensors.attention(sizes, DEVICE, torch.float64, 40, batch=2, queries=queries)
        exact = checking.exact_rows(given.q, given.k, given.v, given.asking)
        wanted = span_attention(given.q, given.k, given.v, given.asking, backend="reference")
        rows = checking.rows_of(wanted.out, given.asking)
        torch.testing.assert_close(exact.out, rows)
        torch.testing.assert_close(exact.mass, wanted.mass)
        torch.testing.assert_close(exact.lse, checking.rows_of(wanted.lse, given.asking))
        assert checking.relative(exact.out, rows) < 1e-14


def test_calls_take_turns_and_a_ratio_is_that_of_the_rounds() -> None:
    order: list[str] = []

    def failing() -> None:
        raise RuntimeError("not here")

    calls = {"a": lambda: order.append("a"), "b": lambda: order.append("b"), "c": failing}
    turns = timing.take_turns(calls, torch.device("cpu"), 10.0, most=3)
    assert "".join(order) == "aa" + "bb" + "ab" * 3
    assert "not here" in turns.failed["c"]
    assert turns.seconds("c") is None
    assert turns.ratio("a", "c") is None
    with pytest.raises(RuntimeError, match="c: RuntimeError: not here"):
        turns.required("a", "c")

    def samples(*seconds: float) -> list[timing.Sample]:
        return [timing.Sample(each, 0.0) for each in seconds]

    turns = timing.TurnTimes({"a": samples(1, 2, 9), "b": samples(1, 4, 3)}, {})
    assert turns.ratio("a", "b") == 1.0
    assert turns.ratio("b", "a") == 1.0
    assert turns.seconds("a") == 2


class StandInEvent:
    """Offer as much of ``torch.cuda.Event`` as the report uses."""

    def __init__(self, enable_timing: bool = False) -> None:
        assert enable_timing

    def record(self) -> None:
        self.at = time.perf_counter()

    def synchronize(self) -> None:
        assert self.at

    def elapsed_time(self, end: StandInEvent) -> float:
        return (end.at - self.at) * 1e3


@pytest.mark.skipif(KIND == "cuda", reason="the real ones are there")
def test_on_a_gpu_calls_are_timed_between_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", StandInEvent)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(timing, "_lead", lambda device: (torch.ones(2), torch.empty(2)))
    entry: Entry = {}
    calls = {"nap": lambda: time.sleep(0.002)}
    timing.take_turns(calls, torch.device("cuda"), 1.0, most=3).record(entry)
    assert entry["nap_ms"] >= 2
    assert entry["times"]["nap"]["host_ms"] >= 2


@pytest.mark.skipif(KIND == "cuda", reason="the real ones are there")
def test_on_a_gpu_memory_is_what_a_call_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("synchronize", "empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda *device: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 3 * 10**9)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 5 * 10**9)
    entry = whole_model._memory("score", lambda: None, torch.device("cuda"))
    entry |= whole_model._memory("sdpa", lambda: None, torch.device("cuda"))
    whole_model._memory_ratios(entry, "sdpa")
    assert (entry["score_peak_gb"], entry["score_total_gb"]) == (2.0, 5.0)
    assert entry["score/sdpa memory"] == 1.0


@pytest.mark.skipif(KIND == "cuda", reason="the real ones are there")
def test_a_cards_facts_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    properties = SimpleNamespace(major=9, minor=0, multi_processor_count=132, total_memory=10**11)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    facts = card.facts("cuda")
    assert (facts["capability"], facts["memory_gb"]) == ("9.0", 100.0)
    assert card.slug(facts["card"]) == "h200"
    assert card.slug("NVIDIA GeForce RTX 4090") == "geforce-rtx-4090"
    assert gpu_report._folder_name(facts, None) == f"h200-{facts['date']}"


def test_time_that_a_section_leaves_goes_to_the_later_ones() -> None:
    given: list[float] = []

    def quick_run(
        section: Section, settings: ReportSettings, ends: float, known: Any
    ) -> SectionOutcome:
        given.append(ends - time.monotonic())
        return SectionOutcome(section.name, "done")

    shares = [Section(name, "", "", share) for name, share in (("a", 30), ("b", 10), ("c", 20))]
    gpu_report.execute(shares, SETTINGS, soon(120), quick_run, lambda outcomes: None)
    assert given == pytest.approx([60, 40, 120], abs=2)


def test_without_time_sections_are_skipped_and_that_is_said() -> None:
    def never(*_: Any) -> SectionOutcome:
        raise AssertionError

    outcomes = gpu_report.execute(SECTIONS, SETTINGS, soon(1), never, lambda outcomes: None)
    assert {outcome.status for outcome in outcomes} == {"skipped"}
    assert "out of time" in outcomes[0].reason
    assert not outcomes[0].good
    late = Bench(DEVICE, QUICK, soon(0), {}, lambda entries: None)
    late.each([{"T": 1}], lambda *_: pytest.fail("was run"))
    assert late.entries == [{"T": 1, "skipped": "out of time"}]
    assert not SectionOutcome("late", "done", late.entries).good


TARGET = targets.Target("x", "y", "s", "r", ({"T": 1}, {"T": 2}), "at most", 1.02)


@pytest.mark.parametrize(
    ("ratios", "sense", "bound", "word", "worst"),
    [
        ((1.0, 1.02), "at most", 1.02, "met", 1.02),
        ((1.0, 1.03), "at most", 1.02, "not met", 1.03),
        ((1.0, None), "at most", 1.02, "not measured", 1.0),
        ((1.5, None), "at most", 1.02, "not met", 1.5),
        ((None, None), "at most", 1.02, "not measured", None),
        ((0.7, 0.6), "at least", 0.6, "met", 0.6),
        ((0.7, 0.5), "at least", 0.6, "not met", 0.5),
        ((0.7, "nan"), "at least", 0.6, "not measured", 0.7),
        ((0.7, float("nan")), "at least", 0.6, "not met", None),
        ((3.0, None), "at most", None, "–", 3.0),
        ((None, None), "at most", None, "not measured", None),
    ],
)
def test_a_target_is_met_only_where_every_place_was_measured(
    ratios: tuple[Any, Any], sense: Any, bound: float | None, word: str, worst: float | None
) -> None:
    entries = [{"T": 1, "other": 9.0}, {"T": 3, "r": 99.0}]
    entries += [{"T": at, "r": ratio} for at, ratio in enumerate(ratios, 1) if ratio is not None]
    outcomes = [
        SectionOutcome("s", "done", entries),
        SectionOutcome("t", "done", [{"T": 1, "r": 50.0}]),
    ]
    (verdict,) = targets.judge(outcomes, [replace(TARGET, sense=sense, bound=bound)])
    assert verdict.word == word
    assert worst is None or verdict.worst == worst


def test_every_target_names_a_figure_that_its_section_shows() -> None:
    for target in targets.TARGETS:
        assert target.field in report_page.COLUMNS[target.section].split(", ")


def test_backends_are_chosen_by_what_fits_and_is_fastest(tmp_path: Path) -> None:
    def place(work: str, ratio: float | None, **more: Any) -> Entry:
        common = {"architecture": "sm_90", "work": work, "triton/lse": ratio, "fastest": "x"}
        return {"T": 1, "B": 1, **common, **more}

    entries = [
        place("prefill", 0.5),
        place("prefill", 1.5),
        place("decode", 3.0),
        place("mass_grad", None, unfit={"triton": "wrong: out off by 1"}),
    ]
    wanted = {"sm_90": {"prefill": "triton", "decode": "lse", "mass_grad": "lse"}}
    assert dispatch_table.chosen(entries) == wanted
    assert len(dispatch_table.unfit(entries)) == 1
    unmeasured = [*entries, {"work": "decode", "error": "out of memory"}]
    assert "decode" not in dispatch_table.chosen(unmeasured)["sm_90"]
    path = tmp_path / "measured.json"
    path.write_text('{"sm_80": {"decode": "lse"}, "sm_90": {"decode": "triton"}}')
    dispatch_table.merge({"sm_90": {"decode": "lse"}}, path)
    assert json.loads(path.read_text()) == {
        "sm_80": {"decode": "lse"},
        "sm_90": {"decode": "lse"},
    }


def eager_column_sums(
    query: Tensor, key: Tensor, *, reduction: str, is_causal: bool, scale: float | None = None
) -> Tensor:
    """Return what ``flash_colreduce`` 0.2.2 returns, ``[B, H, N]`` in the inputs' dtype."""
    assert query.shape[1] == key.shape[1]
    assert (reduction, is_causal) == ("sum", True)
    (m, width), n = query.shape[2:], key.shape[2]
    logits = query @ key.transpose(2, 3) / width**0.5
    hidden = torch.ones(m, n, dtype=torch.bool, device=query.device).triu(n - m + 1)
    return logits.masked_fill(hidden, -torch.inf).softmax(-1).sum(dim=2)


@pytest.mark.parametrize("factor", [1.0, 1.1])
def test_column_sums_are_compared_before_they_are_timed_against(
    monkeypatch: pytest.MonkeyPatch, factor: float
) -> None:
    package = SimpleNamespace(
        flash_colreduce=lambda *args, **kwargs: factor * eager_column_sums(*args, **kwargs)
    )
    monkeypatch.setitem(sys.modules, "flash_colreduce", package)
    work = tiny()
    column_sums.run(work)
    (entry,) = work.entries
    assert "error" not in entry
    assert ("rows' columns/epilogue" in entry) == (factor == 1.0)
    assert ("absent" in entry) == (factor != 1.0)


def test_maps_that_do_not_fit_are_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole_model, "free_bytes", lambda device: 10**5)
    work = tiny()
    for tokens in QUICK.eager_lengths:
        entry: Entry = {"beside": "maps", "T": tokens}
        whole_model._beside_maps(None, [], work, entry, 1.0)
        assert entry["absent"].startswith("does not fit: needs")
        work.entries.append(entry)
    ends = targets.maps_end([SectionOutcome("model", "done", work.entries)])
    assert ends.startswith(f"at T = {QUICK.eager_lengths[0]}: does not fit")


def test_maps_that_die_are_reported_with_their_length(monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(*_: Any) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(whole_model, "_memory", dies)
    died: list[int] = []
    entry: Entry = {"beside": "maps", "T": 64}
    whole_model._beside_maps(None, died, tiny(), entry, 1.0)
    assert "dies: OutOfMemoryError: CUDA out of memory" in entry["absent"]
    assert died == [64]


def test_a_length_of_the_model_that_takes_too_long_is_skipped() -> None:
    late = Bench(DEVICE, QUICK, soon(5), {}, lambda entries: None)
    entry: Entry = {"beside": "SDPA", "T": 96}
    whole_model._beside_sdpa(None, [(64, 2.0)], late, entry)
    assert "out of time: wants 1" in entry["skipped"]


def test_the_model_is_a_llama_as_transformers_builds_it() -> None:
    built = llama.build(llama.SHAPES["tiny"], DEVICE, torch.float32)
    rebuilt = type(built)(built.config).to(DEVICE)
    rebuilt.load_state_dict(built.state_dict())
    ids = llama.batch(llama.SHAPES["tiny"], QUICK, 40)["input_ids"].to(DEVICE)
    states = rebuilt.eval().model(ids, use_cache=False).last_hidden_state
    assert torch.equal(llama.plain_forward(built, ids)(), states)
    big = llama.SHAPES[bench.FULL.model]
    assert llama.flops(big, 131072) == pytest.approx(2 * 7e9 * 131072 + 32 * 1.41e14, rel=0.02)


def test_the_outcomes_of_tests_are_read_as_pytest_prints_them() -> None:
    plain = (
        "tests/a.py::test_x[odd widths, values of 64] PASSED          [ 25%]\n"
        "tests/a.py::test_y FAILED                                    [ 50%]\n"
        "tests/a.py::test_z SKIPPED (no)                              [ 75%]\n"
    )
    workers = (
        "tests/a.py::test_x[odd widths, values of 64] \n"
        "[gw0] [ 33%] PASSED tests/a.py::test_x[odd widths, values of 64] \n"
        "[gw1] [ 66%] FAILED tests/a.py::test_y \n"
        "[gw1] [100%] SKIPPED tests/a.py::test_z \n"
    )
    end = "FAILED tests/a.py::test_y - AssertionError: off by 3\n"
    for text in (plain, workers):
        counts, failed = correctness.read_outcomes(text + end)
        assert counts == {"passed": 1, "failed_tests": 1, "skipped_tests": 1}
        assert failed == {"tests/a.py::test_y": "AssertionError: off by 3"}


def test_what_went_wrong_is_told_without_folders() -> None:
    assert failures.plain("in /home/someone/x y/a.py and C:\\b\\c.py\n 1/2") == (
        "in x y/a.py and c.py 1/2"
    )
    assert len(failures.plain("x" * 10_000)) < 700
    assert failures.last_lines("one\n\ntwo /a/b\n", 1) == "two b"


def test_json_knows_no_nan_and_is_written_whole(tmp_path: Path) -> None:
    process.write({"a": (1.0, float("nan")), "b": torch.float32}, tmp_path / "x.json")
    assert json.loads((tmp_path / "x.json").read_text()) == {
        "a": [1.0, "nan"],
        "b": "torch.float32",
    }
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


@pytest.mark.parametrize(("grace", "status"), [(0.2, "stopped"), (60.0, "failed")])
def test_a_process_that_hangs_or_dies_is_ended_and_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, grace: float, status: str
) -> None:
    """Put a stand-in in the section process's place, which sleeps or ends at once."""
    stand_in = tmp_path / "python"
    waits = "sleep 100" if status == "stopped" else "echo Segmentation fault; exit 3"
    stand_in.write_text(f"#!/bin/sh\n{waits}\n")
    stand_in.chmod(0o755)
    monkeypatch.setattr(process, "GRACE", grace)
    monkeypatch.setattr(sys, "executable", str(stand_in))
    start = time.monotonic()
    outcome = process.run_apart(named("ceilings"), SETTINGS, time.monotonic(), {})
    assert outcome.status == status
    assert time.monotonic() - start < 20
    expected = "over its time" if status == "stopped" else "status 3: Segmentation fault"
    assert expected in outcome.reason


def test_the_command_runs_sections_in_processes_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--quick", "--device", KIND, "--only", "ceilings", "--out", str(tmp_path / "out")]
    assert gpu_report.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "dense bf16 product" in printed
    assert "nothing here is a measurement" in printed
    recorded = json.loads((tmp_path / "out" / "results.json").read_text())
    assert recorded["sections"]["ceilings"]["status"] == "done"
    assert (tmp_path / "out" / "report.md").exists()


@pytest.mark.skipif(KIND == "cuda", reason="there is a GPU")
def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert gpu_report.main(["--out", str(tmp_path / "out")]) == 2
    assert "no GPU" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_library_is_importable_where_it_was_not_installed(tmp_path: Path) -> None:
    """Import without ``site``, which hides every installation of this project."""
    packages = {str(Path(module.__file__).parents[1]) for module in (torch, pytest)}
    code = (
        "import sra_fast.kernels.dispatch, sra_fast.kernels.triton_kernels\n"
        "print(sra_fast.__file__, sra_fast.kernels.dispatch.MEASURED is not None)"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        cwd=ROOT,
        env={"PYTHONPATH": os.pathsep.join(packages), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    package, measured = done.stdout.split()
    assert (Path(package), measured) == (ROOT / "sra_fast" / "__init__.py", "True")


def test_queries_ask_for_the_last_rows_of_every_batch_row() -> None:
    given = tensors.attention(QUICK, DEVICE, torch.float32, 30, batch=2)
    assert isinstance(given.asking, SpanQuery)
    assert given.asking.rows.tolist() == [*range(22, 30), *range(52, 60)]
    assert int(given.asking.key_labels.sum()) == 2 * QUICK.span
    assert len(given.silent.rows) == 0
    assert float(given.q.std()) == pytest.approx(1.0, abs=0.1)
