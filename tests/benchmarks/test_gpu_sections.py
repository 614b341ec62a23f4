"""Test that the sections of the GPU report give no time to a result that is wrong."""

from __future__ import annotations

import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks.gpu.harness import (
    exact_scores,
    failures,
    llama,
    opponents,
    process,
    profiled,
    sharing_tests,
)
from benchmarks.gpu.harness.bench import ENDED, Bench, Entry
from benchmarks.gpu.harness.places import HALF, MANY, ONE, SPAN
from benchmarks.gpu.harness.schedule import SectionOutcome
from benchmarks.gpu.harness.sizes import QUICK
from benchmarks.gpu.report.targets import maps_end
from benchmarks.gpu.sections import (
    correctness,
    decoding,
    every_kernel,
    gradients,
    mass_cost,
    model_scores,
    profile_gradients,
    provider_table,
    same_bits,
    score_parts,
)
from benchmarks.measuring.cases import Shape
from sra_fast import SpanAttention, score, span_attention
from sra_fast.kernels.triton_kernels import backend as triton_backend

KIND = "cuda" if torch.cuda.is_available() else "cpu"
DEVICE = torch.device(KIND)
DTYPE = torch.bfloat16 if KIND == "cuda" else torch.float32
CEILINGS = {"gemm_tflops": 1.0, "copy_gbs": 1.0}
TINY = llama.SHAPES["tiny"]


def tiny(seconds: float = 60.0, **changes: Any) -> Bench:
    sizes = replace(QUICK, **changes)
    return Bench(DEVICE, sizes, time.monotonic() + seconds, CEILINGS, lambda entries: None)


def figures(entry: Entry) -> list[str]:
    return [name for name in entry if "_ms" in name or "/" in name or "tflops" in name]


@pytest.mark.parametrize("part", ["out", "mass", "lse"])
def test_a_wrong_provider_gets_no_time_and_the_others_do(
    monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    def wrong(*args: Any, backend: str, **kwargs: Any) -> SpanAttention:
        result = span_attention(*args, backend=backend, **kwargs)
        factor = 1.05 if backend == "triton" else 1.0
        return replace(result, **{part: getattr(result, part) * factor})

    monkeypatch.setattr(opponents, "span_attention", wrong)
    work = tiny(forms=("causal",), decode_batches=(1,))
    (decoding if part == "mass" else provider_table).run(work)
    (entry,) = work.entries
    assert f"{part} off by" in entry["wrong"]["fused"]
    assert entry["error"].startswith("fused: ")
    assert "fused_ms" not in entry
    assert entry["cpu_flash/sdpa"] > 0
    assert entry["fastest"] == "cpu_flash"


def test_a_wrong_mass_is_not_timed_against_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*args: Any, **kwargs: Any) -> SpanAttention:
        result = span_attention(*args, **kwargs)
        return replace(result, mass=result.mass * 1.05)

    monkeypatch.setattr(mass_cost, "span_attention", wrong)
    work = tiny(half=())
    mass_cost.run(work)
    (entry,) = work.entries
    assert entry["what"] == SPAN
    assert "mass off by" in entry["error"]
    assert figures(entry) == []


def test_wrong_gradients_get_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*args: Any, backend: str, **kwargs: Any) -> SpanAttention:
        result = span_attention(*args, backend=backend, **kwargs)
        return replace(result, mass=result.mass * (1.05 if backend == "triton" else 1.0))

    monkeypatch.setattr(gradients, "span_attention", wrong)
    work = tiny()
    gradients.run(work)
    checks = {e["check"].split()[-1]: e for e in work.entries if "check" in e}
    assert "of the mass off by" in checks["fused"]["error"]
    assert "error" not in checks["cpu_flash"]
    for entry in work.entries[len(checks) :]:
        assert "fused_ms" not in entry
        assert entry["fastest"] == "cpu_flash"


def test_a_wrong_gradient_of_the_profile_gets_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    right = triton_backend.connected_profile_of_rows
    monkeypatch.setattr(
        triton_backend, "connected_profile_of_rows", lambda *given: 1.05 * right(*given)
    )
    work = tiny()
    profile_gradients.run(work)
    assert len(work.entries) == 2
    for entry in work.entries:
        assert "profile's dq off by" in entry["error"]
        assert figures(entry) == []


def test_a_step_whose_gradients_differ_from_the_others_is_not_timed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    work = tiny()
    work.entries = [{"check": gradients.CHECKED + "cpu_flash", "T": 20}]
    step = gradients.Leaves.step
    monkeypatch.setattr(gradients.Leaves, "step", lambda *a, **k: [2 * x for x in step(*a, **k)])
    entry: Entry = {"work": "training", "T": 20}
    gradients._measure(work, entry, 1.0)
    assert "cpu_flash dq off by" in entry["error"]
    assert "cpu_flash/sdpa" not in entry


@pytest.mark.parametrize("what", [ONE, MANY, HALF])
def test_a_score_is_compared_with_sdpas_masses_before_it_is_timed(
    monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    scored = model_scores.ModelUnderTest(TINY, llama.build(TINY, DEVICE, DTYPE))
    work, entry = tiny(), {"what": what, "T": 32}
    model_scores._beside_sdpa(scored, work, entry, 1.0)
    assert entry["errors"]["masses of rows"] < 1e-3
    assert entry["score/sdpa time"] > 0

    def by_one_row(*args: Any, **kwargs: Any) -> Any:
        result = score(*args, **kwargs)
        rolled = None if result.row_masses is None else result.row_masses.roll(1, dims=0)
        return replace(result, row_masses=rolled)

    monkeypatch.setattr(model_scores, "score", by_one_row)
    entry = {"what": what, "T": 32}
    with pytest.raises(failures.WrongResultError, match="masses of rows off by"):
        model_scores._beside_sdpa(scored, work, entry, 1.0)
    assert figures(entry) == []


def test_the_rows_of_replies_are_in_the_order_of_the_result() -> None:
    mask = torch.tensor([0, 0, 1, 1, 0, 2, 2, 2])
    assert exact_scores.response_rows(mask).tolist() == [1, 2, 3, 4, 5, 6, 7]


def test_prompts_have_the_replies_and_the_span_asked_for() -> None:
    many = llama.batch(TINY, QUICK, 64, replies=4)["response_mask"][0]
    assert many.unique().tolist() == [0, 1, 2, 3, 4]
    assert many[:32].eq(0).all()
    assert many[-1] == 4
    half = llama.batch(TINY, QUICK, 64, half=True)
    assert half["strategy_mask"][0].tolist() == [True] * 32 + [False] * 32
    assert half["response_mask"][0].tolist() == [0] + [1] * 63


def test_a_score_is_split_into_parts() -> None:
    model = llama.build(TINY, DEVICE, DTYPE)
    one, many = (llama.batch(TINY, QUICK, 32, replies=n) for n in (1, 3))
    score(model, one)
    entry: Entry = {}
    score_parts.split(model, one, many, tiny(), entry)
    for part in ("planning", "reduction", "forward"):
        assert entry[f"{part}_ms"] > 0
        assert entry[f"{part}_ms of many"] > 0


def test_launches_of_a_score_are_held_against_those_of_the_forward_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    launches = iter([82, 85, 80])
    monkeypatch.setattr(score_parts, "watch", lambda call, device: call())
    monkeypatch.setattr(
        score_parts, "host_work", lambda events: profiled.HostWork(next(launches), 1, 1, 64)
    )
    entry: Entry = {}
    one, many = (llama.batch(TINY, QUICK, 32, replies=n) for n in (1, 3))
    score_parts.count(llama.build(TINY, DEVICE, DTYPE), one, many, tiny(), entry)
    assert entry["more launches a layer"] == 1.0
    assert entry["score of many launches"] == 85
    assert entry["sdpa bytes to host"] == 64


def event(cat: str, name: str, ts: float, **args: int) -> dict[str, Any]:
    return {"cat": cat, "name": name, "ts": ts, "dur": 1.0, "args": args}


def test_launches_waits_and_bytes_are_counted_inside_the_call_only() -> None:
    events = [
        event("cuda_runtime", "cudaLaunchKernel", 5),
        {"cat": "user_annotation", "name": profiled.CALL, "ts": 10, "dur": 80},
        event("cuda_runtime", "cudaLaunchKernel", 11),
        event("cuda_runtime", "cudaLaunchKernelExC", 12),
        event("cuda_driver", "cuLaunchKernelEx", 13),
        event("cuda_runtime", "cudaMemcpyAsync", 14),
        event("cuda_runtime", "cudaStreamSynchronize", 15),
        event("gpu_memcpy", "Memcpy DtoH (Device -> Pageable)", 95, bytes=4096),
        event("gpu_memcpy", "Memcpy HtoD (Pageable -> Device)", 96, bytes=64),
        event("cuda_runtime", "cudaDeviceSynchronize", 99),
        event("kernel", "short", 20) | {"dur": 2.0},
        event("kernel", "long", 30) | {"dur": 5.0},
        {"name": "a counter without category", "ts": 1},
    ]
    found = profiled.host_work(events)
    assert found == profiled.HostWork(launches=3, syncs=1, copies_to_host=1, bytes_to_host=4096)
    assert found.fields("score")["score bytes to host"] == 4096
    assert profiled.kernels(events, torch.device("cuda")) == ["long", "short"]


@pytest.mark.skipif(KIND == "cuda", reason="the real ones are there")
def test_on_a_gpu_memory_is_what_a_call_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 3 * 10**9)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 5 * 10**9)
    memory = llama.PeakMemory(torch.device("cuda"))
    assert memory.watched("score", lambda: 7)() == 7
    entry = memory.fields() | {"sdpa_peak_gb": 2.0, "sdpa_total_gb": 5.0}
    model_scores._memory_ratios(entry, "sdpa")
    assert (entry["score_peak_gb"], entry["score_total_gb"]) == (2.0, 5.0)
    assert entry["score/sdpa memory"] == 1.0


def test_different_bits_are_counted_and_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = iter([0.0, 0.0, -0.0, 1.0, 0.0])  # the bits of −0 are not those of 0
    monkeypatch.setattr(
        same_bits, "_kind", lambda *given: lambda: [torch.full((2, 3), next(runs)).T]
    )
    entry: Entry = {"what": "mass alone", "D": 16, "T": 20}
    with pytest.raises(failures.WrongResultError, match="2 of 4 further runs differ"):
        same_bits._repeat(tiny(repeats=5), entry, 1.0)
    assert (entry["runs"], entry["different"]) == (5, 2)


def test_the_checks_of_offsets_reach_as_far_as_they_say() -> None:
    work = tiny(offsets=5000)
    q, _, _, query = same_bits._far_rows(work)
    assert q.numel() > 5000
    assert int(query.rows.min()) >= (q.shape[0] - 1) * q.shape[2]
    q, k, v, _ = same_bits._far_strides(work)
    for x in (q, k, v):
        assert x.stride(2) * (x.shape[2] - 1) >= 5000
        assert not x.isnan().any()


def test_maps_that_do_not_fit_are_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_scores, "free_bytes", lambda device: 10**3)
    work, scored = tiny(), model_scores.ModelUnderTest(TINY, None)
    places = [{"beside": "maps", "T": tokens} for tokens in QUICK.eager_lengths]
    work.each(places, lambda *given: model_scores._beside_maps(scored, *given))
    assert work.entries[0]["absent"].startswith("does not fit: needs")
    assert work.entries[1]["absent"] == "a shorter length did not fit"
    ends = maps_end([SectionOutcome("score", "done", work.entries)])
    assert ends.startswith(f"at T = {QUICK.eager_lengths[0]}: does not fit")


def test_maps_that_die_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(*_: Any) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(model_scores.alternatives, "whole_maps", dies)
    entry: Entry = {"beside": "maps", "T": 32}
    model_scores._beside_maps(model_scores.ModelUnderTest(TINY, None), tiny(), entry, 1.0)
    assert "dies: OutOfMemoryError: CUDA out of memory" in entry["absent"]


def test_a_length_of_the_model_that_takes_too_long_is_skipped() -> None:
    late = tiny(seconds=5)
    late.entries = [{"what": ONE, "T": 64, "score_ms": 2000.0, "sdpa_ms": 1000.0}]
    entry: Entry = {"what": ONE, "T": 96}
    model_scores._beside_sdpa(model_scores.ModelUnderTest(TINY, None), late, entry, 1.0)
    assert "out of time: wants 1" in entry["skipped"]


def test_every_kernel_is_run_for_the_memory_checker() -> None:
    every_kernel.run(replace(QUICK, decode_keys=(30,)), 21, DEVICE, DTYPE)


def test_the_outcomes_of_tests_are_read_as_pytest_prints_them() -> None:
    text = (
        "tests/a.py::test_x[odd widths, values of 64] PASSED          [ 25%]\n"
        "tests/a.py::test_y FAILED                                    [ 50%]\n"
        "tests/a.py::test_z SKIPPED (no)                              [ 75%]\n"
        "FAILED tests/a.py::test_y - AssertionError: off by 3\n"
    )
    counts, failed = correctness.read_outcomes(text)
    assert counts == {"passed": 1, "failed_tests": 1, "skipped_tests": 1}
    assert failed == {"tests/a.py::test_y": "AssertionError: off by 3"}


def test_the_tests_that_run_on_a_card_are_there_and_are_shared_out() -> None:
    assert all((process.ROOT / "tests" / name).exists() for name in correctness.TESTS)
    kept: list[list[int]] = []
    config = SimpleNamespace(hook=SimpleNamespace(pytest_deselected=lambda items: None))
    for number in range(3):
        items = list(range(10))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(sharing_tests.SHARE, f"{number}/3")
            sharing_tests.pytest_collection_modifyitems(config, items)
        kept.append(items)
    assert sorted(item for items in kept for item in items) == list(range(10))
    assert max(map(len, kept)) - min(map(len, kept)) <= 1


def test_a_measurement_that_raises_does_not_stop_the_others() -> None:
    def measure(at: Bench, entry: Entry, seconds: float) -> None:
        if entry["T"] == 1:
            raise ValueError("/some/where/file.py is broken")
        entry["fine"] = seconds

    work = tiny()
    work.each([{"T": 0}, {"T": 1}, {"T": 2}], measure)
    assert ["fine" in entry for entry in work.entries] == [True, False, True]
    assert work.entries[1]["error"].startswith("ValueError: file.py is broken")


def test_the_record_says_where_a_process_was_when_it_ended() -> None:
    saved: list[list[Entry]] = []

    def measure(at: Bench, entry: Entry, seconds: float) -> None:
        entry["seen"] = saved[-1][-1]["error"]

    work = tiny()
    work.save = lambda entries: saved.append([dict(entry) for entry in entries])
    work.known = [{"T": 1, "figure": 3.0}]
    work.each([{"T": 0}, {"T": 1}, {"T": 1, "D": 2}], measure)
    assert work.entries == [
        {"T": 0, "seen": ENDED},
        {"T": 1, "figure": 3.0},
        {"T": 1, "D": 2, "seen": ENDED},
    ]
    assert saved[-1] == work.entries


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


def test_the_floor_of_a_forward_pass_counts_products_and_attention() -> None:
    shape = Shape("x", layers=2, hidden=8, intermediate=16, heads=2, kv_heads=1, head_width=4,
                  vocabulary=9)  # fmt: skip
    weights = 8 * (2 + 1 + 1 + 2) * 4 + 3 * 8 * 16
    attention = 4 * 4 * 2 * 10**2 / 2
    assert llama.flops(shape, 10) == 2 * (2 * 10 * weights + attention)
    twice = llama.flops(shape, 10, products=2.0, attention=3.0)
    assert twice == 2 * (2 * 2 * 10 * weights + 3 * attention)
