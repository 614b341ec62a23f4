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
from benchmarks.gpu.harness import card, checking, failures, llama, process, tensors, timing
from benchmarks.gpu.harness.bench import Bench, Entry
from benchmarks.gpu.harness.schedule import (
    SECTIONS,
    ReportSettings,
    SectionOutcome,
    run_here,
)
from benchmarks.gpu.harness.sizes import FULL, QUICK
from benchmarks.gpu.report import report_page, targets
from benchmarks.gpu.sections import column_sums
from sra_fast import SpanQuery, span_attention

ROOT = Path(__file__).resolve().parents[2]
KIND = "cuda" if torch.cuda.is_available() else "cpu"
DEVICE = torch.device(KIND)
SETTINGS = ReportSettings(KIND, quick=True)
CEILINGS = {"gemm_tflops": 1.0, "copy_gbs": 1.0}
FACTS = card.facts(KIND) | {"quick": True, "code": "0"}
NAMES = [section.name for section in SECTIONS]


def soon(seconds: float = 60.0) -> float:
    return time.monotonic() + seconds


def tiny(**changes: Any) -> Bench:
    sizes = replace(QUICK, **changes)
    return Bench(DEVICE, sizes, soon(), CEILINGS, lambda entries: None)


@dataclass(frozen=True)
class Whole:
    """Hold one run of all sections of the report."""

    folder: Path
    outcomes: Sequence[SectionOutcome]
    printed: str


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp("report")
    facts = FACTS
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
    cost = recorded["sections"]["mass"]["entries"][0]
    assert cost["triton on/off"] > 0
    assert cost["times"]["triton on"]["rounds"] == QUICK.rounds
    text = (whole.folder / "report.md").read_text()
    assert all(section.title in text for section in SECTIONS)
    for name in ("score.png", "ratios.png", "providers.png"):
        assert name not in text or (whole.folder / name).read_bytes().startswith(b"\x89PNG")
    assert "](score.png)" in text
    assert "](providers.png)" in text
    dispatch = json.loads((whole.folder / "dispatch.json").read_text())
    kinds = {(one["packed"], one["work"]) for one in dispatch[FACTS["dispatch_card"]]}
    works = ("prefill", "decode", "training", "mass_grad")
    assert kinds == {(True, "prefill"), *((False, work) for work in works)}
    assert text.index("What it comes to") < text.index("score.png") < text.index("How to read it")


def test_the_printed_table_is_short_and_ends_the_report(whole: Whole) -> None:
    assert len(whole.printed.splitlines()) < 60
    lengths = [{"T": T, "score/sdpa time": 1.0, "fastest/sdpa": 1.0} for T in range(30)]
    entries = [*lengths, *[{"error": "no"}] * 30]
    failing = [SectionOutcome(name, "failed", entries, "because") for name in NAMES]
    short = report_page.short(FACTS, failing, targets.judge(failing), ["a note"] * 2)
    assert len(short.splitlines()) < 60
    assert "facts: failed: because" in short


def test_results_name_no_folder(whole: Whole) -> None:
    for path in whole.folder.iterdir():
        if path.suffix in (".json", ".md"):
            text = path.read_text()
            assert str(ROOT) not in text
            assert str(Path.home()) + "/" not in text


def test_without_matplotlib_there_are_tables_all_the_same(
    whole: Whole, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    printed = gpu_report.report(FACTS, whole.outcomes, tmp_path, [])
    assert "no pictures: ModuleNotFoundError" in printed
    assert "png" not in (tmp_path / "report.md").read_text()


def test_tiny_sizes_reach_no_target(whole: Whole) -> None:
    assert {verdict.word for verdict in targets.judge(whole.outcomes)} == {"–", "not measured"}


@pytest.mark.parametrize("value", [torch.nan, 0.0])
def test_what_a_kernel_leaves_unwritten_is_seen(value: float) -> None:
    given = tensors.attention(QUICK, DEVICE, torch.float32, 48)
    exact = checking.exact_rows(given.q, given.k, given.v, given.asking)
    result = span_attention(given.q, given.k, given.v, given.asking, backend="reference")
    checking.check(result, given.asking, exact, {})
    result.out[0, 0, -1] = value
    with pytest.raises(failures.WrongResultError, match="out off by"):
        checking.check(result, given.asking, exact, {})


def test_the_exact_rows_are_those_of_the_reference() -> None:
    sizes = replace(QUICK, heads=4, kv_heads=2, width=16)
    for form, shape in (
        ("causal", {"batch": 2}),
        ("causal", {"batch": 2, "queries": 3}),
        ("packed", {"sequences": 4}),
        ("window", {}),
        ("softcap", {}),
        ("causal", {"half": True}),
    ):
        given = tensors.attention(sizes, DEVICE, torch.float64, 40, **shape)
        rule = tensors.rule_of(sizes, form, 16)
        exact = checking.exact_rows(given.q, given.k, given.v, given.asking, rule)
        limits = {"window": rule.window, "softcap": rule.softcap, "backend": "reference"}
        wanted = span_attention(given.q, given.k, given.v, given.asking, **limits)
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
def test_a_cards_facts_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    properties = SimpleNamespace(major=9, minor=0, multi_processor_count=132, total_memory=10**11)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    facts = card.facts("cuda")
    assert (facts["capability"], facts["memory_gb"]) == ("9.0", 100.0)
    assert card.slug(facts["card"]) == "h200"
    assert card.slug("NVIDIA GeForce RTX 4090") == "geforce-rtx-4090"
    assert gpu_report._folder_name(facts, None) == f"h200-{facts['date']}"


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
    entry, *of_gradients = work.entries
    assert all("error" not in one for one in work.entries)
    assert [max(one["errors"].values()) < 1e-5 for one in of_gradients] == [True, True]
    assert of_gradients[1]["blocks/kernels"] > 0
    assert ("rows' columns/epilogue" in entry) == (factor == 1.0)
    assert ("rows' columns/profile" in entry) == (factor == 1.0)
    assert entry["errors"]["profile"] < 1e-5
    assert ("absent" in entry) == (factor != 1.0)


def test_the_model_is_a_llama_as_transformers_builds_it() -> None:
    built = llama.build(llama.SHAPES["tiny"], DEVICE, torch.float32)
    rebuilt = type(built)(built.config).to(DEVICE)
    rebuilt.load_state_dict(built.state_dict())
    ids = llama.batch(llama.SHAPES["tiny"], QUICK, 40)["input_ids"].to(DEVICE)
    states = rebuilt.eval().model(ids, use_cache=False).last_hidden_state
    assert torch.equal(llama.plain_forward(built, ids)(), states)
    big = llama.SHAPES[FULL.model]
    assert llama.flops(big, 131072) == pytest.approx(2 * 7e9 * 131072 + 32 * 1.41e14, rel=0.02)


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
