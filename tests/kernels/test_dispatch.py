"""Test which backend ``backend="auto"`` takes, and how the kernels are launched."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from op_cases import CASES
from sra_fast import span_attention
from sra_fast.kernels import dispatch, flash_cuda, lse
from sra_fast.kernels.contract import LogitRule
from sra_fast.kernels.triton_kernels import backend, configurations, tuning
from sra_fast.kernels.triton_kernels.configurations import Kernel

PLAIN = LogitRule(1.0)


class OnCard:
    """Offer as much of a CUDA tensor as the choice of a backend looks at."""

    def __init__(
        self, queries: int = 64, dtype: torch.dtype = torch.bfloat16, training: bool = False
    ) -> None:
        self.shape = (1, 4, queries, 64)
        self.device = torch.device("cuda", 0)
        self.dtype = dtype
        self.requires_grad = training


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Pretend that there is a card of compute capability 9.0."""
    monkeypatch.setattr(backend, "INTERPRETED", False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    for check in ("_unfit_device", "_unfit_torch"):
        monkeypatch.setattr(flash_cuda, check, lambda *of: None)
    configurations.architecture.cache_clear()
    yield
    configurations.architecture.cache_clear()


def test_a_cpu_takes_its_own_flash_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = CASES[0].tensors(torch.float32)
    assert dispatch.fastest(q, k, v, PLAIN, mass_grad=False) == "lse"
    asked = []
    monkeypatch.setattr(lse, "attention", lambda *given: asked.append(given))
    span_attention(q, k, v, CASES[0].query())
    assert len(asked) == 1


def auto(rule: LogitRule, mass_grad: bool = False, **of_card: Any) -> str:
    """Return what ``auto`` takes on the card for usual tensors changed by ``of_card``."""
    x: Any = OnCard(**of_card)
    return dispatch.fastest(x, x, x, rule, mass_grad=mass_grad)


@pytest.mark.usefixtures("card")
def test_a_card_without_a_record_takes_the_fused_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "MEASURED", {"sm_86": {"prefill": "lse"}})
    assert auto(PLAIN) == "triton"


@pytest.mark.usefixtures("card")
def test_what_was_measured_decides_by_kind_of_work(monkeypatch: pytest.MonkeyPatch) -> None:
    record = {"sm_90": {"prefill": "lse", "decode": "triton", "mass_grad": "triton"}}
    monkeypatch.setattr(dispatch, "MEASURED", record)
    assert auto(PLAIN) == "lse"
    assert auto(PLAIN, mass_grad=True) == "triton"
    assert auto(PLAIN, training=True) == "triton"  # was not measured
    assert auto(PLAIN, queries=1) == "triton"


@pytest.mark.usefixtures("card")
@pytest.mark.parametrize(
    ("rule", "of_card"),
    [(LogitRule(1.0, softcap=30.0), {}), (LogitRule(1.0), {"dtype": torch.float32})],
)
def test_a_record_does_not_decide_what_its_winner_cannot_do(
    rule: LogitRule, of_card: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "MEASURED", {"sm_90": {"prefill": "lse"}})
    assert auto(rule, **of_card) == "triton"


@pytest.mark.usefixtures("card")
def test_what_the_kernels_do_not_serve_goes_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    assert auto(PLAIN, dtype=torch.float64) == "lse"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (7, 5))
    old: Any = OnCard()
    assert "compute capability 8.0 or newer, got 7.5" in str(backend.unserved(old, old))
    assert auto(PLAIN, mass_grad=True) == "lse"


@pytest.mark.usefixtures("card")
def test_chips_that_no_kernel_ever_ran_on_are_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert auto(PLAIN) == "lse"
    x: Any = OnCard()
    assert dispatch.trusted_kernels(x, x) is None
    chip = type("Chip", (), {"gcnArchName": "gfx1100"})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: chip)
    assert "gfx942 of AMD's chips, got gfx1100" in str(backend.unserved(x, x))


@pytest.mark.usefixtures("card")
def test_without_triton_a_card_takes_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "triton_backend", lambda: None)
    assert auto(PLAIN) == "lse"


@pytest.mark.usefixtures("card")
def test_the_choice_is_made_inside_a_compiled_graph() -> None:
    dispatch.triton_backend()

    def function(x: torch.Tensor) -> torch.Tensor:
        return x + 1 if auto(PLAIN) == "triton" else x

    compiled = torch.compile(function, fullgraph=True, backend="eager")
    assert torch.equal(compiled(torch.zeros(2)), torch.ones(2))


def test_kernels_that_are_compiled_want_a_cuda_device(monkeypatch: pytest.MonkeyPatch) -> None:
    q, _, v = CASES[0].tensors(torch.float32)
    monkeypatch.setattr(backend, "INTERPRETED", False)
    assert "a CUDA device (or TRITON_INTERPRET=1, for tests), got cpu" in str(
        backend.unserved(q, v)
    )


def test_the_record_names_kinds_of_work_and_backends_that_exist() -> None:
    for of_card in dispatch.MEASURED.values():
        assert set(of_card) <= {"prefill", "decode", "training", "mass_grad"}
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
    chosen = configurations.TABLE["sm_90"][Kernel.FORWARD][128, 2]
    near = tuning.neighbours(chosen)
    assert near[0] == chosen
    assert len(near) == len(set(near)) > 8
    assert all(min(one.block_m, one.block_n) >= 16 and one.stages >= 1 for one in near)


def test_interpreted_tiles_are_small_for_every_kernel() -> None:
    assert set(configurations.INTERPRETED) == set(Kernel)
