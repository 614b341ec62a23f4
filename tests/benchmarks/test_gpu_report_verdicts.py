"""Test what the GPU report concludes from outcomes: verdicts, and what ``auto`` is to take."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import gpu_report
from benchmarks.gpu.harness import tensors
from benchmarks.gpu.harness.bench import Entry
from benchmarks.gpu.harness.places import FAR, KINDS, ROWS_GRADIENT
from benchmarks.gpu.harness.schedule import SECTIONS, SectionOutcome
from benchmarks.gpu.harness.sizes import FULL, QUICK
from benchmarks.gpu.report import dispatch_table, report_page, targets
from benchmarks.gpu.report.columns import TABLES
from sra_fast.kernels import dispatch
from sra_fast.kernels.contract import LogitRule
from sra_fast.kernels.measured_table import MeasuredCall, find, read
from sra_fast.kernels.providers import call_of

CARD = "NVIDIA X100 (sm_90)"
FACTS: dict[str, Any] = {
    "device": "cuda", "card": "NVIDIA X100", "dispatch_card": CARD, "quick": False,
    "commit": "abc", "date": "2026-01-01", "versions": {"torch": "2"}, "cuda": "13",
    "state": {"clocks.sm": "1980 MHz"},
}  # fmt: skip

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
        shown = {name for table in TABLES[target.section] for name in table.columns}
        assert target.field in shown, target


def test_every_section_has_tables_and_every_target_a_section() -> None:
    names = {section.name for section in SECTIONS}
    assert TABLES.keys() == names
    assert {target.section for target in targets.TARGETS} <= names


def timed(place: Entry, **ratios: float) -> Entry:
    over = {f"{name}/sdpa": ratio for name, ratio in ratios.items()}
    return {**place, "times": {}, **over}


def simulated(**changes: dict[str, float]) -> Iterator[SectionOutcome]:
    """Yield outcomes in which each kind of work has the ratios given, elsewhere cuDNN wins."""
    of_section: dict[str, list[Entry]] = {}
    for kind in dispatch_table.kinds(FULL):
        key = f"packed_{kind.work}" if kind.packed else kind.work
        ratios = changes.get(key, {"fused": 1.4, "cudnn": 1.0, "varlen": 1.9})
        for place in kind.places:
            of_section.setdefault(kind.section, []).append(timed(place, **ratios))
    for name, entries in of_section.items():
        yield SectionOutcome(name, "done", entries)
    bits = [{"what": kind, "D": d, "different": 0} for d in FULL.widths for kind in KINDS]
    bits += [{"what": what, "errors": {"out": 1e-3}} for what in FAR]
    yield SectionOutcome("same_bits", "done", bits)


def test_what_is_fastest_goes_into_the_table_and_comes_out_of_its_reader(tmp_path: Path) -> None:
    outcomes = list(simulated(
        packed_prefill={"fused": 1.1, "varlen": 1.3}, mass_grad={"fused": 1.0, "cudnn": 1.2}
    ))  # fmt: skip
    entries = dispatch_table.chosen(outcomes, FULL, "bfloat16")
    path = tmp_path / "measured.json"
    other = MeasuredCall(64, "bfloat16", False, "prefill", "lse:varlen")
    dispatch_table.write("another card", [other], path)
    dispatch_table.write(CARD, [replace(other, backend="old"), replace(other, width=96)], path)
    dispatch_table.write(CARD, entries, path)
    table = read(path)
    assert table["another card"] == [other]
    assert len(table[CARD]) == len(entries) + 1  # that of width 96 stays
    for width in (64, 128, 256):
        one = find(table[CARD], width, torch.bfloat16, False, "prefill")
        assert one == MeasuredCall(width, "bfloat16", False, "prefill", "lse:cudnn")
    for packed, work, backend in (
        (True, "prefill", "triton"),
        (False, "mass_grad", "triton"),
        (False, "training", "lse:cudnn"),
        (False, "decode", "lse:cudnn"),
    ):
        found = find(table[CARD], 80, torch.bfloat16, packed, work)
        assert found is not None
        assert found.backend == backend


@pytest.mark.parametrize("sequences", [1, 2])
def test_auto_looks_up_what_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sequences: int
) -> None:
    outcomes = list(simulated(packed_prefill={"fused": 1.0, "varlen": 1.3}))
    device = torch.device("cpu")  # the table does not care for which device it is
    dispatch_table.write("cpu", dispatch_table.chosen(outcomes, FULL, "float32"), tmp_path / "x")
    monkeypatch.setattr(dispatch, "MEASURED", read(tmp_path / "x"))
    given = tensors.attention(QUICK, device, torch.float32, 32, width=120, sequences=sequences)
    call = call_of(given.q, given.k, given.v, given.asking, LogitRule(1.0))
    found = dispatch._measured(call, "prefill")
    assert found is not None
    assert (found.width, found.backend) == (128, "lse:cudnn" if sequences == 1 else "triton")


def chosen(outcomes: list[SectionOutcome], work: str = "prefill", width: int = 128) -> str | None:
    of_work = [
        entry.backend
        for entry in dispatch_table.chosen(outcomes, FULL, "bfloat16")
        if (entry.work, entry.width, entry.packed) == (work, width, False)
    ]
    return of_work[0] if of_work else None


def test_a_kind_of_call_with_a_place_that_was_not_measured_is_left_out() -> None:
    outcomes = list(simulated())
    decode = next(one for one in outcomes if one.name == "decode")
    cut = replace(decode, entries=[{**decode.entries[0], "skipped": "x"}, *decode.entries[1:]])
    del cut.entries[0]["times"]
    outcomes[outcomes.index(decode)] = cut
    assert chosen(outcomes, "decode") is None
    assert chosen(outcomes) == "lse:cudnn"


def test_a_provider_that_was_wrong_at_one_place_is_not_taken() -> None:
    outcomes = list(simulated())
    table = next(one for one in outcomes if one.name == "providers")
    place = {"form": "causal", "D": 128, "T": 4096}
    (entry,) = [entry for entry in table.entries if place.items() <= entry.items()]
    del entry["cudnn/sdpa"]
    assert chosen(outcomes) == "triton"
    assert chosen(outcomes, width=64) == "lse:cudnn"


def test_what_another_section_found_wrong_is_not_taken() -> None:
    fused_wins = {"fused": 0.9, "cudnn": 1.0, "varlen": 1.1}
    outcomes = list(simulated(prefill=fused_wins))
    assert chosen(outcomes) == "triton"
    bits = next(one for one in outcomes if one.name == "same_bits")
    bits.entries[0]["error"] = "3 of 59 further runs differ in their bits"
    assert bits.entries[0]["D"] == 128
    assert chosen(outcomes) == "lse:cudnn"
    assert chosen(outcomes, width=64) == "triton"
    cases: list[Entry] = [
        {"what": "tests", "failures": {"test_a": "off"}},
        {"what": "the op's cases", "check": "cudnn", "failures": {"packed": "off"}},
    ]
    outcomes.append(SectionOutcome("grid", "done", cases))
    assert chosen(outcomes, width=64) == "lse:varlen"
    without_bits = [one for one in simulated(prefill=fused_wins) if one.name != "same_bits"]
    assert chosen(without_bits) == "lse:cudnn"


@pytest.mark.parametrize(
    ("what", "prefill", "mass_grad"),
    [
        ("mass alone", "lse:cudnn", "lse:cudnn"),
        (FAR[0], "lse:cudnn", "lse:cudnn"),
        (ROWS_GRADIENT, "triton", "triton"),
    ],
)
def test_kernels_that_are_not_steady_are_not_taken(what: str, prefill: str, mass_grad: str) -> None:
    outcomes = list(
        simulated(prefill={"fused": 0.9, "cudnn": 1.0}, mass_grad={"fused": 1.1, "cudnn": 1.0})
    )
    bits = next(one for one in outcomes if one.name == "same_bits")
    for entry in bits.entries:
        if entry["what"] == what:
            entry["error"] = "wrong"
    assert chosen(outcomes) == prefill
    assert chosen(outcomes, "mass_grad") == mass_grad


def test_only_a_real_run_writes_the_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpu_report, "MEASURED", tmp_path / "measured.json")
    outcomes = list(simulated())
    for facts in (FACTS | {"quick": True}, FACTS | {"device": "cpu"}):
        assert "left as it is" in gpu_report._write_dispatch(facts, outcomes)
    assert "left as it is" in gpu_report._write_dispatch(FACTS, [])
    assert not (tmp_path / "measured.json").exists()
    assert "now holds 9 kinds" in gpu_report._write_dispatch(FACTS, outcomes)
    assert set(json.loads((tmp_path / "measured.json").read_text())) == {CARD}


def test_the_reasons_of_providers_are_told_once_with_their_forms() -> None:
    entries = [
        {"form": form, "T": tokens, "unserved": {"cudnn": "it has no window"}}
        for form in ("window", "packed")
        for tokens in (1, 2)
    ]
    lines = dispatch_table.left_out(entries)
    assert lines == ["cudnn does not serve: it has no window (window, packed)"]


def test_the_report_begins_with_what_decides(tmp_path: Path) -> None:
    place = {"what": "one reply", "T": 131072, "score_ms": 12000.0, "sdpa_ms": 11900.0}
    figures = {"score/sdpa time": 1.008, "floor_ms": 9000.0, "score/floor": 1.33, "times": {}}
    outcomes = [SectionOutcome("score", "done", [place | figures])]
    verdicts = targets.judge(outcomes)
    text = report_page.as_markdown(FACTS, outcomes, verdicts, ["score.png"], ["a note"])
    first = next(line for line in text.splitlines() if line.startswith("| score"))
    assert "T = 131072" in first
    assert "1.008" in first
    assert "not met" in first
    assert text.index("## What it comes to") < text.index("## How to read it")
    assert "clocks.sm 1980 MHz" in text
    assert "a note" in text


def test_the_toy_sizes_measure_every_kind_of_call_that_the_real_ones_do() -> None:
    works = {(kind.packed, kind.work) for kind in dispatch_table.kinds(FULL)}
    assert {(kind.packed, kind.work) for kind in dispatch_table.kinds(QUICK)} == works
