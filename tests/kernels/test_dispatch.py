"""Test what ``backend="auto"`` and ``"lse"`` take, and how the kernels are launched."""

from __future__ import annotations

import importlib.metadata
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from kernel_stand_ins import flash_3_module, leave
from op_cases import CASES
from sra_fast import SpanQuery, span_attention
from sra_fast.kernels import dispatch, lse
from sra_fast.kernels.contract import LogitRule
from sra_fast.kernels.measured_table import MeasuredCall
from sra_fast.kernels.providers import AttentionCall, cudnn, varlen
from sra_fast.kernels.triton_kernels import backend, configurations, tuning
from sra_fast.kernels.triton_kernels.configurations import Kernel

PLAIN = LogitRule(1.0)
CARD = "NVIDIA H100 80GB HBM3 (sm_90)"


class OnCard:
    """Offer as much of a CUDA tensor ``[1, 4, L, 64]`` as the choice of a backend looks at."""

    def __init__(self, length: int, dtype: torch.dtype, training: bool) -> None:
        self.shape = torch.Size((1, 4, length, 64))
        self.device = torch.device("cuda", 0)
        self.dtype = dtype
        self.requires_grad = training

    def stride(self) -> tuple[int, ...]:
        return (4 * self.shape[2] * 64, 64, 256, 1)

    def storage_offset(self) -> int:
        return 0


def call(
    *,
    queries: int = 64,
    keys: int = 64,
    dtype: torch.dtype = torch.bfloat16,
    training: bool = False,
    packed: bool = False,
    rows: int = 0,
    rule: LogitRule = PLAIN,
) -> Any:
    """Return a call on the card, of usual tensors and one whole sequence if nothing is said."""
    segments = [[0, 0, keys // 2], [0, keys // 2, keys]] if packed else [[0, 0, keys]]
    query = SpanQuery(
        torch.zeros(1, keys, dtype=torch.int32),
        torch.arange(rows),
        torch.tensor(segments, dtype=torch.int32),
        ("span",),
    )
    q: Any = OnCard(queries, dtype, training)
    k: Any = OnCard(keys, dtype, training)
    grad = training or (rule.sinks is not None and rule.sinks.requires_grad)
    return AttentionCall(q, k, k, query, rule, grad)


def auto(mass_grad: bool = False, **of_call: Any) -> str:
    """Return what ``auto`` takes for a call on the card."""
    one = call(**of_call)
    return dispatch.fastest(one.q, one.k, one.v, one.query, one.rule, mass_grad=mass_grad)


def as_lse(**of_call: Any) -> str:
    """Return the provider that ``lse`` takes for a call on the card."""
    return dispatch.best_provider(call(**of_call)).name


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int, int], None]]:
    """Pretend that there is an H100 with PyTorch's own kernels; call it for another capability."""

    def become(major: int, minor: int) -> None:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (major, minor))
        configurations.architecture.cache_clear()

    become(9, 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: CARD.split(" (")[0])
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: True)
    monkeypatch.setattr(backend, "INTERPRETED", False)
    monkeypatch.setattr(cudnn, "allowed", lambda *tensors: True)
    monkeypatch.setattr(dispatch, "verdict", lambda *of: None)
    monkeypatch.setattr(dispatch, "fences_missing", lambda: False)
    monkeypatch.setattr(dispatch, "_WARNED", set())
    leave()
    yield become
    configurations.architecture.cache_clear()
    monkeypatch.undo()
    leave()


def measured(monkeypatch: pytest.MonkeyPatch, backend: str, work: Any = "prefill") -> None:
    """Let the table say what was fastest on the card at a width of 128, for unpacked bfloat16."""
    entry = MeasuredCall(128, "bfloat16", False, work, backend)
    monkeypatch.setattr(dispatch, "MEASURED", {CARD: [entry]})


def test_a_cpu_takes_its_own_flash_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = CASES[0].tensors(torch.float32)
    assert dispatch.fastest(q, k, v, CASES[0].query(), PLAIN, mass_grad=False) == "lse"
    asked = []
    monkeypatch.setattr(lse, "attention", lambda *given: asked.append(given))
    span_attention(q, k, v, CASES[0].query())
    assert len(asked) == 1


SINKS = LogitRule(1.0, sinks=torch.zeros(4))


@pytest.mark.usefixtures("card")
@pytest.mark.parametrize(
    ("taken", "of_call"),
    [
        ("lse:cudnn", {}),
        ("lse:cudnn", {"training": True}),
        ("lse:cudnn", {"queries": 32}),
        ("lse:cudnn", {"rule": SINKS}),
        ("lse:cudnn", {"packed": True, "queries": 600, "keys": 600}),
        ("triton", {"packed": True}),
        ("triton", {"packed": True, "queries": 600, "keys": 600, "training": True}),
        ("triton", {"queries": 32, "training": True}),
        ("triton", {"rule": LogitRule(1.0, window=7)}),
        ("triton", {"rule": LogitRule(1.0, softcap=7.0)}),
        ("triton", {"rule": SINKS, "training": True}),
        ("triton", {"dtype": torch.float32}),
        ("triton", {"queries": 1, "keys": 5000}),
        ("lse:blocks", {"dtype": torch.float64}),
    ],
)
def test_without_a_record_reasoning_decides(taken: str, of_call: Any) -> None:
    assert auto(**of_call) == taken
    assert as_lse(**of_call) == taken.removeprefix("lse:").replace("triton", "fused")


@pytest.mark.usefixtures("card")
def test_masses_alone_go_to_our_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    x: Any = OnCard(64, torch.bfloat16, False)
    assert dispatch.fastest_mass(x, x) == "triton"
    monkeypatch.setattr(dispatch, "triton_backend", lambda: None)
    assert dispatch.fastest_mass(x, x) == "lse"


@pytest.mark.usefixtures("card")
def test_the_gradient_of_few_rows_goes_beside_the_platforms_and_of_many_into_ours() -> None:
    assert auto(mass_grad=True, training=True, rows=16) == "lse:cudnn"
    assert auto(mass_grad=True, training=True, rows=17) == "triton"
    assert auto(mass_grad=True, training=True, rows=1, rule=SINKS) == "triton"


@pytest.mark.usefixtures("card")
def test_what_was_measured_of_few_rows_says_nothing_of_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measured(monkeypatch, "lse:varlen", "mass_grad")
    assert auto(mass_grad=True, training=True, rows=16) == "lse:varlen"
    assert auto(mass_grad=True, training=True, rows=17) == "triton"


def test_older_cards_take_flash_attention_2_and_what_it_lacks_goes_to_ours(card: Any) -> None:
    card(8, 0)
    assert auto() == "lse:varlen"
    assert auto(packed=True) == "lse:varlen"
    assert auto(rule=LogitRule(1.0, softcap=7.0)) == "triton"
    assert auto(mass_grad=True, training=True, rows=1) == "triton"


@pytest.mark.usefixtures("card")
def test_where_triton_leaves_out_fences_a_provider_comes_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dispatch, "fences_missing", lambda: True)
    assert auto(packed=True) == "lse:varlen"
    assert auto(rule=LogitRule(1.0, softcap=7.0)) == "triton"  # it is not refused
    assert auto(queries=1, keys=5000) == "triton"


@pytest.mark.parametrize(("version", "missing"), [("3.6.0", True), ("3.7.1", False)])
def test_fences_are_missing_before_triton_3_7(
    version: str, missing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    dispatch.fences_missing.cache_clear()
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    assert dispatch.fences_missing() is missing
    dispatch.fences_missing.cache_clear()


@pytest.mark.usefixtures("card")
def test_flash_attention_2_never_decodes_over_long_keys_unasked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dispatch, "triton_backend", lambda: None)
    assert as_lse(queries=1, keys=5000) == "blocks"
    assert as_lse(queries=40, keys=5000) == "cudnn"
    assert dispatch.reason_against("varlen", call(queries=1, keys=5000)) is None  # if asked by name


@pytest.mark.usefixtures("card")
def test_an_installed_flash_attention_3_comes_first_and_splits_keys(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "flash_attn_interface", flash_3_module())
    leave()
    assert auto() == "lse:flash_3"
    assert auto(rule=LogitRule(1.0, window=7, softcap=3.0)) == "lse:flash_3"
    assert auto(queries=1, keys=5000) == "lse:flash_3"


@pytest.mark.usefixtures("card")
def test_an_activated_implementation_is_taken_and_flash_attention_2_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.nn.attention, "current_flash_attention_impl", lambda: "FA3")
    assert auto(packed=True) == "lse:flash_3"
    assert "activated FA3 in its place" in str(dispatch.reason_against("varlen", call()))
    assert "has no softcap" in str(
        dispatch.reason_against("flash_3", call(rule=LogitRule(1.0, softcap=2.0)))
    )
    assert auto(queries=1, keys=5000) == "triton"  # varlen_attn is not known to split there


@pytest.mark.usefixtures("card")
def test_what_was_measured_decides_by_kind_of_work(monkeypatch: pytest.MonkeyPatch) -> None:
    measured(monkeypatch, "lse:varlen")
    assert auto() == "lse:varlen"
    assert as_lse() == "varlen"
    assert auto(training=True) == "lse:cudnn"  # was not measured
    assert auto(packed=True) == "triton"
    assert auto(dtype=torch.float16) == "lse:cudnn"
    measured(monkeypatch, "triton")
    assert auto() == "triton"
    assert as_lse() == "cudnn"


@pytest.mark.usefixtures("card")
@pytest.mark.parametrize(
    "of_call", [{"rule": LogitRule(1.0, softcap=30.0)}, {"rule": LogitRule(1.0, window=5)}]
)
def test_a_record_does_not_decide_what_its_winner_cannot_do(
    of_call: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(monkeypatch, "lse:cudnn")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # that is no failure of cuDNN's
        assert auto(**of_call) == "triton"


@pytest.mark.usefixtures("card")
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("flash_3", "neither installed"),
        ("flash_9", "there is no such provider"),
        ("varlen", "has no scale, window_size"),
    ],
)
def test_a_measured_provider_that_is_missing_is_left_out_with_one_warning(
    name: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(monkeypatch, f"lse:{name}")
    monkeypatch.setattr(varlen, "lacking", lambda: "varlen_attn has no scale, window_size")
    with pytest.warns(UserWarning, match=f'"lse:{name}" is left out: .*{says}') as caught:
        assert auto() == "lse:cudnn"
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert auto() == "lse:cudnn"


@pytest.mark.usefixtures("card")
def test_what_fails_its_check_is_left_out_with_one_warning_and_an_error_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wrong = "its check on whole rows failed: to base 2"
    monkeypatch.setattr(
        dispatch, "verdict", lambda provider, *of: wrong if provider.name == "cudnn" else None
    )
    with pytest.warns(UserWarning, match='"lse:cudnn" is left out: .* to base 2') as caught:
        assert auto() == "triton"
    assert auto() == "triton"
    assert len(caught) == 1
    with pytest.raises(ValueError, match=r'"lse:cudnn" .* does not serve this call: .* to base 2'):
        dispatch.provider_by_name("cudnn", call())


@pytest.mark.usefixtures("card")
def test_what_is_not_installed_is_no_reason_to_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        auto()
    with pytest.raises(ValueError, match=r"FlashAttention 4.*neither installed.*nor activated"):
        dispatch.provider_by_name("flash_4", call())


@pytest.mark.usefixtures("card")
@pytest.mark.parametrize("works", [False, True])
def test_a_package_that_cannot_be_used_is_named(
    works: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = flash_3_module()
    if works:
        del module.flash_attn_varlen_func
    else:
        module.flash_attn_func = lambda q, k, v, causal=False: None
    monkeypatch.setitem(sys.modules, "flash_attn_interface", module)
    leave()
    with pytest.warns(UserWarning, match=r'"lse:flash_3" is left out: .* is too old'):
        assert auto() == "lse:cudnn"


def test_what_the_kernels_do_not_serve_goes_elsewhere(card: Any) -> None:
    card(7, 5)
    old: Any = OnCard(64, torch.bfloat16, False)
    assert "compute capability 8.0 or newer, got 7.5" in str(backend.unserved(old, old))
    assert auto(mass_grad=True) == "lse:cudnn"  # PyTorch was let to allow it
    assert auto(packed=True, mass_grad=True) == "lse:blocks"


@pytest.mark.usefixtures("card")
def test_chips_that_no_kernel_ever_ran_on_are_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert auto() == "lse:blocks"
    x: Any = OnCard(64, torch.bfloat16, False)
    assert dispatch.trusted_kernels(x, x) is None
    for name in ("cudnn", "varlen", "flash_3", "flash_4", "flex"):
        assert "not on ROCm" in str(dispatch.reason_against(name, call()))
    chip = type("Chip", (), {"gcnArchName": "gfx1100"})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: chip)
    assert "gfx942 of AMD's chips, got gfx1100" in str(backend.unserved(x, x))


@pytest.mark.usefixtures("card")
def test_the_choice_is_made_once_for_all_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    one = call()
    asked: list[str] = []
    serves = dispatch.PROVIDERS["cudnn"].serves
    monkeypatch.setitem(
        dispatch.PROVIDERS,
        "cudnn",
        replace(
            dispatch.PROVIDERS["cudnn"], serves=lambda one: (asked.append("cudnn"), serves(one))[1]
        ),
    )
    for _ in range(3):
        arguments = (one.q, one.k, one.v, one.query, one.rule)
        assert dispatch.fastest(*arguments, mass_grad=False) == "lse:cudnn"
        dispatch.provider_by_name("cudnn", one)
    assert len(asked) == 1


@pytest.mark.usefixtures("card")
def test_the_choice_is_made_inside_a_compiled_graph() -> None:
    dispatch.triton_backend()
    one = call()

    def function(x: torch.Tensor) -> torch.Tensor:
        taken = dispatch.fastest(one.q, one.k, one.v, one.query, one.rule, mass_grad=False)
        return x + 1 if taken == "triton" else x

    assert torch.equal(function(torch.zeros(2)), torch.zeros(2))  # outside it is cuDNN
    compiled = torch.compile(function, fullgraph=True, backend="eager")
    assert torch.equal(compiled(torch.zeros(2)), torch.ones(2))


def test_kernels_that_are_compiled_want_a_cuda_device(monkeypatch: pytest.MonkeyPatch) -> None:
    q, _, v = CASES[0].tensors(torch.float32)
    monkeypatch.setattr(backend, "INTERPRETED", False)
    assert "a CUDA device (or TRITON_INTERPRET=1, for tests), got cpu" in str(
        backend.unserved(q, v)
    )


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
