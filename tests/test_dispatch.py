"""What ``backend="auto"`` takes, and how the kernels are launched."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from op_cases import CASES
from sra_fast import span_attention
from sra_fast.kernels import dispatch, lse
from sra_fast.kernels.triton_kernels import backend, configurations, tuning
from sra_fast.kernels.triton_kernels.configurations import Configuration, Kernel


class OnCard:
    """As much of a CUDA tensor as the choice looks at."""

    def __init__(self, queries: int = 64, dtype: torch.dtype = torch.bfloat16) -> None:
        self.shape = (1, 4, queries, 64)
        self.device = torch.device("cuda", 0)
        self.dtype = dtype


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Stands for a card of compute capability 9.0."""
    monkeypatch.setattr(backend, "INTERPRETED", False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    configurations.architecture.cache_clear()
    yield
    configurations.architecture.cache_clear()


def test_a_cpu_takes_its_own_flash_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = CASES[0].tensors(torch.float32)
    assert dispatch.fastest(q, v, mass_grad=False) == "lse"
    asked = []
    monkeypatch.setattr(lse, "attention", lambda *given: asked.append(given))
    span_attention(q, k, v, CASES[0].query())
    assert len(asked) == 1


@pytest.mark.usefixtures("card")
def test_a_card_without_a_record_takes_the_fused_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "measured", dict)
    given: Any = OnCard()
    assert dispatch.fastest(given, given, mass_grad=False) == "triton"


@pytest.mark.usefixtures("card")
def test_what_was_measured_decides_by_kind_of_work(monkeypatch: pytest.MonkeyPatch) -> None:
    record = {"sm_90": {"prefill": "lse", "decode": "triton", "mass_grad": "triton"}}
    monkeypatch.setattr(dispatch, "measured", lambda: record)
    many: Any = OnCard()
    few: Any = OnCard(queries=1)
    assert dispatch.fastest(many, many, mass_grad=False) == "lse"
    assert dispatch.fastest(many, many, mass_grad=True) == "triton"
    assert dispatch.fastest(few, few, mass_grad=False) == "triton"


@pytest.mark.usefixtures("card")
def test_what_the_kernels_do_not_serve_goes_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    double: Any = OnCard(dtype=torch.float64)
    assert dispatch.fastest(double, double, mass_grad=False) == "lse"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (7, 5))
    old: Any = OnCard()
    assert "compute capability 8.0 or newer, got 7.5" in str(backend.unserved(old, old))
    assert dispatch.fastest(old, old, mass_grad=True) == "lse"


def test_kernels_that_are_compiled_want_a_cuda_device(monkeypatch: pytest.MonkeyPatch) -> None:
    q, _, v = CASES[0].tensors(torch.float32)
    monkeypatch.setattr(backend, "INTERPRETED", False)
    assert "a CUDA device (or TRITON_INTERPRET=1, for tests), got cpu" in str(
        backend.unserved(q, v)
    )


def test_the_record_names_kinds_of_work_and_backends_that_exist() -> None:
    for of_card in dispatch.measured().values():
        assert set(of_card) <= {"prefill", "decode", "mass_grad"}
        assert set(of_card.values()) <= {"lse", "triton"}


def test_tuning_is_an_opt_in_keyed_on_bucketed_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    launches: list[dict[str, Any]] = []

    class Tuned:
        def __getitem__(self, grid: Any) -> Any:
            return lambda *given, **constants: launches.append(
                {"grid": grid({"BLOCK_M": 32, "BLOCK_N": 16}), **constants}
            )

    monkeypatch.setenv(tuning.OPT_IN, "1")
    monkeypatch.setattr(tuning, "autotuned", lambda function, chosen: Tuned())
    for case in CASES[:1]:
        span_attention(*case.tensors(torch.float32), case.query(), backend="triton")
    assert [launch["length_bucket"] for launch in launches] == [6]  # 37 keys: up to 64
    assert launches[0]["grid"] == (2 * 4,)  # two tiles of 32 queries, four heads
    assert "BLOCK_M" not in launches[0]
    assert "length_bucket" in tuning.KEY


def test_tuning_tries_the_tables_choice_and_its_neighbours() -> None:
    chosen = Configuration(128, 64, 8, 3)
    near = tuning.neighbours(chosen)
    assert chosen in near
    assert len(near) == len(set(near)) > 8
    assert all(min(one.block_m, one.block_n) >= 16 and one.stages >= 1 for one in near)


def test_interpreted_tiles_are_small_for_every_kernel() -> None:
    assert set(configurations.INTERPRETED) == set(Kernel)
