"""Test that the CPU benchmark checks alternatives before it times them, and times no wrong one."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.cpu import compare, floor, measure, measure_all, record
from benchmarks.cpu.compare import ComparedCase, Known
from benchmarks.cpu.measure_all import full_plan
from benchmarks.measuring import alternatives, machine, peak_memory
from benchmarks.measuring.alternatives import ALTERNATIVES, AlternativeAnswer
from benchmarks.measuring.cases import ModelCase, Shape, build_batch, build_model

TINY = Shape("tiny", 3, 48, 96, 4, 2, 12, 100)
CASE = ModelCase(TINY, 64, response=16)
NARROW = replace(CASE, dtype="bfloat16")
PAIRS = {"a": 1, "b": 1, "c": 2}
BUILT = functools.cache(build_model)
HERE = compare.Meter(measure.memory_here, measure.pairs_here)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Build models once, leave malloc as it is, and use one thread: more only cost time here."""
    monkeypatch.setattr(measure, "build_model", BUILT)
    monkeypatch.setattr(peak_memory, "give_freed_tensors_back", lambda: None)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def run(
    case: ModelCase = CASE, keys: Sequence[str] = "abcd", known: Known | None = None
) -> ComparedCase:
    return compare.compare(case, keys, PAIRS, known or Known(), meter=HERE)


def replace_run(monkeypatch: pytest.MonkeyPatch, key: str, function: Any) -> None:
    monkeypatch.setitem(ALTERNATIVES, key, replace(ALTERNATIVES[key], run=function))


def off_by(part: float, key: str) -> Any:
    def wrong(model: Any, batch: Any) -> AlternativeAnswer:
        answer = ALTERNATIVES_AS_THEY_ARE[key].run(model, batch)
        scale = 1.0 + part
        return AlternativeAnswer(
            None if answer.scores is None else answer.scores * scale,
            None if answer.hidden is None else answer.hidden * scale,
        )

    return wrong


ALTERNATIVES_AS_THEY_ARE = dict(ALTERNATIVES)


def test_the_alternatives_agree_and_get_times_and_ratios() -> None:
    cells = run().cells
    assert [cell.status for cell in cells.values()] == ["ok"] * 4, cells
    assert all(cell.seconds and cell.seconds > 0 for cell in cells.values())
    assert all(cells[key].time_ratio for key in "abc")
    assert [cells[key].pairs for key in "abcd"] == [1, 1, 2, 2]


def test_the_maps_are_uneven_enough_to_tell_a_wrong_row_or_key() -> None:
    model, batch = build_model(CASE), build_batch(CASE)
    right = alternatives.hooked_maps(model, batch).scores
    for mask in ("strategy_mask", "response_mask"):
        moved = {**batch, mask: batch[mask].roll(-1, dims=1)}
        wrong = alternatives.hooked_maps(model, moved).scores
        assert right is not None
        assert wrong is not None
        assert float((wrong - right).norm() / right.norm()) > 1e-3


def test_the_model_is_a_llama_as_transformers_builds_it() -> None:
    model = build_model(CASE)
    rebuilt = type(model)(model.config)
    rebuilt.load_state_dict(model.state_dict())
    ids = build_batch(CASE)["input_ids"]
    with torch.no_grad():
        assert torch.equal(model(ids).logits, rebuilt.eval()(ids).logits)
    assert torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)


def test_a_model_attends_as_before_afterwards() -> None:
    model, batch = build_model(CASE), build_batch(CASE)
    before = model.config._attn_implementation
    for alternative in ALTERNATIVES.values():
        alternative.run(model, batch)
        assert model.config._attn_implementation == before


@pytest.mark.parametrize("key", "abcd")
def test_a_wrong_alternative_stands_alone_and_gets_no_time(
    monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    replace_run(monkeypatch, key, off_by(3e-4, key))
    cells = run().cells
    assert {k for k, cell in cells.items() if cell.status == "WRONG"} == {key}
    wrong = cells[key]
    assert (wrong.seconds, wrong.peak_bytes, wrong.time_ratio) == (None, None, None)
    if key == "d":
        assert all(cell.time_ratio is None for cell in cells.values())


def test_an_alternative_that_is_wrong_once_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = iter(range(1000))

    def sometimes(model: Any, batch: Any) -> AlternativeAnswer:
        return off_by(1e-3 if next(calls) == 3 else 0.0, "d")(model, batch)

    replace_run(monkeypatch, "d", sometimes)
    assert run().cells["d"].status == "WRONG"


def test_nan_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    replace_run(monkeypatch, "d", off_by(float("nan"), "d"))
    assert run(keys="bcd").cells["d"].status == "WRONG"


def test_two_that_differ_are_both_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    replace_run(monkeypatch, "b", off_by(1e-3, "b"))
    assert {cell.status for cell in run(keys="bcd").cells.values()} == {"WRONG"}


def test_bfloat16_is_checked_by_float32_and_by_eagers_own_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = Known()
    assert run(NARROW, "bcd", known).cells["d"].status == "unchecked"
    run(CASE, "abcd", known)
    assert {cell.status for cell in run(NARROW, "bcd", known).cells.values()} == {"ok"}
    (errors,) = known.eager_errors[TINY.name].values()
    assert 1e-5 < errors["scores"] < 0.1
    # Where eager was not run, its error at a shorter length counts.
    longer = replace(NARROW, tokens=96)
    run(replace(CASE, tokens=96), "bcd", known)
    assert run(longer, "cd", known).cells["d"].status == "ok"
    replace_run(monkeypatch, "d", off_by(4 * errors["scores"] + 1e-3, "d"))
    assert run(longer, "cd", known).cells["d"].status == "WRONG"


def test_what_does_not_fit_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "available_bytes", lambda: 20 * machine.GIB)

    def never(case: ModelCase, key: str, *count: int) -> measure.Measured:
        raise AssertionError(f"{key} was run")

    case = next(p.case for p in full_plan(False) if p.case.tokens == 8192)
    cell = compare.compare(case, "a", PAIRS, Known(), meter=compare.Meter(never, never)).cells["a"]
    assert (cell.status, cell.seconds) == ("does not fit", None)
    assert cell.peak_bytes is not None
    assert cell.peak_bytes > 30 * 9 * 8192**2 * 4


def test_a_fresh_process_measures_memory_and_brings_answers_back() -> None:
    memory = measure.memory_fresh(CASE, "d")
    assert memory.peak_bytes is not None
    assert 0 < memory.peak_bytes < 200e6
    pairs = measure.pairs_fresh(CASE, "c", 2).pairs
    assert [(x.key, ours.key) for x, ours in pairs] == [("c", "d")] * 2
    here = measure.memory_here(CASE, "d").answers("d")[0].scores
    fresh = memory.answers("d")[0].scores
    assert here is not None
    assert fresh is not None
    torch.testing.assert_close(fresh, here, rtol=1e-6, atol=0)


def test_the_memory_of_the_two_that_are_close_is_measured_several_times() -> None:
    asked = []

    def counting(case: ModelCase, key: str) -> measure.Measured:
        asked.append(key)
        done = measure.memory_here(case, key)
        return replace(done, peak_bytes=10 ** (6 + asked.count(key)))

    row = compare.compare(CASE, "abcd", PAIRS, Known(), 3, replace(HERE, memory=counting))
    assert "".join(asked) == "abcccddd"
    assert [cell.peak_bytes for cell in row.cells.values()] == [10**7, 10**7, 10**8, 10**8]


def test_a_slow_call_with_maps_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "SLOW", 0.0)
    timed = []

    def counting(case: ModelCase, key: str, count: int) -> measure.Measured:
        timed.append(key)
        return measure.pairs_here(case, key, count)

    cells = compare.compare(CASE, "abcd", PAIRS, Known(), 1, replace(HERE, pairs=counting)).cells
    assert timed == ["c"]
    assert [cell.pairs for cell in cells.values()] == [1, 1, 2, 2]
    assert all(cells[key].time_ratio for key in "abc")


def test_the_score_is_held_to_its_floor_in_pairs_and_in_first_calls() -> None:
    found = floor.time_to_floor(CASE, 3, HERE)
    assert found.pairs == 3
    assert found.middle[0] <= found.ratio <= found.middle[1]
    assert found.processor_ratio > 0
    peaks = iter([10, 11, 30, 60, 20, 12, 99])

    def counting(case: ModelCase, key: str) -> measure.Measured:
        return replace(measure.memory_here(case, key), first_peak_bytes=next(peaks))

    held = floor.first_call_memory(CASE, 3, replace(HERE, memory=counting))
    assert (held.floor_bytes, held.score_bytes, held.ratio) == (20, 12, 0.6)


@pytest.mark.parametrize("key", "bcd")
def test_a_floor_is_not_given_where_an_answer_is_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], key: str
) -> None:
    replace_run(monkeypatch, key, off_by(1e-3, key))
    with pytest.raises(floor.WrongAnswerError, match="is not what the others computed"):
        floor.time_to_floor(CASE, 1, HERE)
    with pytest.raises(floor.WrongAnswerError, match="is not what the others computed"):
        floor.first_call_memory(CASE, 1, HERE)
    monkeypatch.setattr(floor, "report", lambda pairs: floor.time_to_floor(CASE, pairs, HERE))
    assert measure_all.main(["--floor", "--pairs", "1"]) == 1
    assert "is not what the others computed" in capsys.readouterr().err


def test_a_first_call_is_measured_apart_from_the_second() -> None:
    peaks = [measure.memory_here(CASE, key) for key in "bd"]
    assert peaks[0].first_peak_bytes == peaks[0].peak_bytes  # with maps there is one call
    assert peaks[1].first_peak_bytes is not None
    assert len(peaks[1].runs) == 2


def test_a_process_that_fails_is_reported() -> None:
    broken = replace(CASE, dtype="no such dtype")  # type: ignore[arg-type]
    cells = compare.compare(broken, "d", PAIRS, Known()).cells
    assert cells["d"].status == "failed"
    assert "no such dtype" in cells["d"].note


def test_results_are_written_as_json_table_and_picture(tmp_path: Path) -> None:
    known = Known()
    rows = [run(CASE, "abcd", known), run(replace(CASE, tokens=96), "bcd", known)]
    misfit = compare.ComparedAlternative("does not fit", peak_bytes=75 * 10**9, note="needs 75 GB")
    wrong = compare.ComparedAlternative("WRONG", note="scores off by 1.0e-01 (at most 1.0e-05)")
    rows[1] = ComparedCase(rows[1].case, {**rows[1].cells, "a": misfit, "d": wrong})
    paths = record.write(rows, machine.facts(), tmp_path / "results")
    recorded = json.loads(paths[0].read_text())
    assert recorded["rows"][0]["tokens"] == 64
    assert recorded["rows"][1]["cells"]["d"]["seconds"] is None
    table = paths[1].read_text()
    assert "does not fit (75.0 GB)" in table
    assert "**WRONG**" in table
    assert "scores off by 1.0e-01" in table
    assert torch.__version__ in table
    assert paths[2].read_bytes().startswith(b"\x89PNG")


def test_a_picture_of_nothing_right_is_still_a_picture(tmp_path: Path) -> None:
    wrong = {key: compare.ComparedAlternative("WRONG", note="off") for key in "abcd"}
    record.write([ComparedCase(CASE, wrong)], machine.facts(), tmp_path)
    assert (tmp_path / "cpu.png").read_bytes().startswith(b"\x89PNG")


def test_the_facts_name_no_folder() -> None:
    facts = json.dumps(machine.facts())
    assert str(Path.home()) not in facts
    assert str(Path(__file__).resolve().parents[2]) not in facts


def test_bfloat16_comes_after_its_float32_and_after_an_eager_run() -> None:
    plan = full_plan(True)
    seen: set[tuple[str, int]] = set()
    eager_seen: set[str] = set()
    for planned in plan:
        name = planned.case.shape.name
        if planned.case.dtype == "float32":
            seen.add((name, planned.case.tokens))
            continue
        assert (name, planned.case.tokens) in seen
        eager_seen |= {name} if "b" in planned.keys else set()
        assert name in eager_seen
    assert any(planned.case.dtype == "bfloat16" for planned in plan)
    assert all(planned.case.dtype == "float32" for planned in full_plan(False))


def test_a_failed_run_leaves_the_recorded_results_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    failed = ComparedCase(
        CASE, {key: compare.ComparedAlternative("failed", note="killed") for key in "abcd"}
    )
    monkeypatch.setattr(measure_all, "execute", lambda plan: [failed])
    assert measure_all.main(["--out", str(tmp_path / "results")]) == 1
    assert not (tmp_path / "results").exists()
