"""Test every provider of attention over the op's grid, with stand-ins for what needs a card.

A stand-in returns output and logsumexp in the form of what it stands for, so what is tested is all
that is made of it: layouts, grouped heads, alignment of masks, padding, packing, merging and sinks.
FlexAttention is itself, without its gradient, which PyTorch has on cards only.
"""

from __future__ import annotations

import functools
import importlib.util
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import flex_attention as torch_flex

from kernel_stand_ins import Card, leave, pretend
from op_cases import CASES, EMPTY_CASES, Case
from op_truth import gradients, plain_pytorch, truth, worst
from sra_fast import span_attention
from sra_fast.kernels import dispatch
from sra_fast.kernels.contract import LogitRule
from sra_fast.kernels.providers import PROVIDERS, call_of, cudnn, devices

PLATFORM = tuple(name for name, provider in PROVIDERS.items() if provider.platform)
LONG_PACKED = Case("long packed rows", queries=200, keys=200, segments=((0, 0, 60), (0, 60, 200)))
GRID = (
    *(case for case in CASES if case.queries < 400),
    LONG_PACKED,
    Case("long padded rows", batch=2, queries=150, keys=150, segments=((0, 9, 150), (1, 0, 139))),
    replace(LONG_PACKED, name="long packed rows, sinks", sinks=True),
    Case("head width 80", width=80, value_width=80),
    Case("head width 128", width=128, value_width=128, queries=20, keys=20),
    Case("head width 256", width=256, value_width=256, queries=20, keys=20),
)


@pytest.fixture(scope="module", autouse=True)
def everything() -> Iterator[Card]:
    """Let the CPU pass for a card of compute capability 9.0 on which everything is installed."""
    with pytest.MonkeyPatch.context() as patches:
        yield pretend(patches)
    leave()


@pytest.fixture
def card(everything: Card, monkeypatch: pytest.MonkeyPatch) -> Iterator[Card]:
    """Return that card, to be changed for one test; what was found out about it is forgotten."""
    yield replace(everything, monkeypatch=monkeypatch)
    monkeypatch.undo()
    leave()


def served(name: str, case: Case) -> bool:
    """Return whether a provider is to serve a case without a gradient, as documented."""
    windowed = case.window is not None and case.window < case.keys
    whole = case.query().segments.tolist() == [[b, 0, case.keys] for b in range(case.batch)]
    width = max(case.width, case.value_width)
    if name == "cudnn":
        longest = max((end - start for _, start, end in case.query().segments.tolist()), default=0)
        packed = case.queries == case.keys and longest > 128
        single = case.keys == 1 or (whole and case.keys - case.queries == 1 < case.queries)
        aligned = case.width % 8 == case.value_width % 8 == 0
        plain = case.softcap is None and not windowed
        return plain and aligned and not single and (whole or packed or case.segments == ())
    if name == "varlen":
        return case.softcap is None
    if name == "flash_4":
        return width <= 128
    return min(case.width, case.value_width) >= 16 if name == "flex" else True


def reason(name: str, case: Case, *, grad: bool = False) -> str | None:
    inputs = [x.requires_grad_(grad) for x in case.tensors(torch.float16)]
    rule = LogitRule(**case.rule(torch.float16))
    return dispatch.reason_against(name, call_of(*inputs, case.query(), rule))


@pytest.mark.parametrize("case", GRID, ids=str)
@pytest.mark.parametrize("name", PLATFORM)
def test_a_provider_serves_the_definition_or_says_why_not(name: str, case: Case) -> None:
    dtype = torch.float16
    inputs, rule = case.tensors(dtype), case.rule(dtype)
    found_reason = reason(name, case)
    assert (found_reason is None) == served(name, case), found_reason
    if found_reason is not None:
        with pytest.raises(ValueError, match=f'backend "lse:{name}"') as error:
            span_attention(*inputs, case.query(), backend=f"lse:{name}", **rule)
        assert found_reason in str(error.value)
        return
    found = span_attention(*inputs, case.query(), backend=f"lse:{name}", **rule)
    wanted = truth(case, inputs, rule)
    half = plain_pytorch(case, inputs, rule)[0]
    _, mass, lse = plain_pytorch(case, tuple(x.float() for x in inputs), case.rule(torch.float32))
    assert worst(found.out, wanted.out) <= 2 * worst(half, wanted.out) + 1e-4
    # A few roundings of a logit in float32.
    floor = 4e-7 * (1 + wanted.lse.nan_to_num(0.0, neginf=0.0).abs().max().item())
    assert worst(found.mass, wanted.mass) <= 4 * worst(mass, wanted.mass) + floor
    assert worst(found.lse, wanted.lse) <= 4 * worst(lse, wanted.lse) + floor
    assert (found.out.dtype, found.lse.dtype) == (dtype, torch.float32)
    assert not found.lse.requires_grad


def named(*names: str) -> tuple[Case, ...]:
    return tuple(case for case in CASES if case.name in names)


DIFFERENTIATED = named(
    "one key head",
    "values wider than keys",
    "odd widths",
    "two whole rows",
    "packed with gaps",
    "a row that is all padding",
    "nothing visible at all",
    "fewer queries than keys",
    "packed, fewer queries than keys",
    "last stride other than 1",
    "left and right padding, window",
    "packed, softcap",
)


@pytest.mark.parametrize("case", DIFFERENTIATED, ids=str)
@pytest.mark.parametrize("name", [name for name in PLATFORM if name != "flex"])
def test_the_gradient_of_what_is_served_is_that_of_the_definition(name: str, case: Case) -> None:
    if reason(name, case, grad=True) is not None:
        with pytest.raises(ValueError, match="does not serve this call"):
            gradients(case, torch.float16, f"lse:{name}")
        return
    compare_gradients(name, case)


def compare_gradients(name: str, case: Case) -> None:
    found = gradients(case, torch.float16, f"lse:{name}")
    wanted = gradients(case, torch.float64, "reference")
    for mine, true in zip(found, wanted, strict=True):
        error = (mine.double() - true).pow(2).mean().sqrt()
        assert error <= 4e-3 * true.pow(2).mean().sqrt() + 1e-6


@pytest.mark.parametrize("name", ["fused", "blocks", "cpu_flash"])
def test_the_projects_own_providers_serve_the_definition(name: str) -> None:
    hard = ("one query, sinks", "packed with gaps", "packed, window, softcap and sinks")
    for case in named(*hard) if name == "fused" else DIFFERENTIATED + named(*hard):
        inputs, rule = case.tensors(torch.float32), case.rule(torch.float32)
        if name == "cpu_flash" and case.softcap is not None:
            assert reason(name, case) == "it has no softcap"
            continue
        found = span_attention(*inputs, case.query(), backend=f"lse:{name}", **rule)
        wanted = truth(case, inputs, rule)
        plain = plain_pytorch(case, inputs, rule)
        exact = (wanted.out, wanted.mass, wanted.lse)
        for mine, true, usual in zip((found.out, found.mass, found.lse), exact, plain, strict=True):
            assert worst(mine, true) <= 4 * worst(usual, true) + 2e-6, case


@pytest.mark.parametrize("name", list(PROVIDERS))
@pytest.mark.parametrize("case", EMPTY_CASES, ids=str)
def test_nothing_in_gives_nothing_out(name: str, case: Case) -> None:
    found = span_attention(*case.tensors(torch.float16), case.query(), backend=f"lse:{name}")
    assert found.out.shape == (case.batch, case.heads, case.queries, case.value_width)


def test_sinks_without_a_gradient_come_afterwards_and_leave_unseen_rows_alone() -> None:
    case = Case("all padding", batch=2, segments=((0, 0, 37),), sinks=True)
    found = span_attention(
        *case.tensors(torch.float16), case.query(), backend="lse:varlen", **case.rule(torch.float16)
    )
    assert found.lse[1].isneginf().all()
    assert not found.out[1].any()


@pytest.mark.parametrize("name", PLATFORM)
def test_what_rescales_by_a_logsumexp_has_no_gradient(name: str) -> None:
    case = Case("sinks", sinks=True)
    assert reason(name, case, grad=True) == "its logsumexp carries no gradient, which sinks need"
    assert "merged by logsumexps" in str(reason("cudnn", Case("few", queries=5), grad=True))


@pytest.mark.parametrize(
    ("name", "capability", "says"),
    [
        ("cudnn", (8, 0), "packed or padded rows on compute capability 9 and 10"),
        ("flash_3", (10, 0), "compute capability 9.x, not 10.0"),
        ("flash_4", (8, 9), "compute capability 9.x or 10.x, not 8.9"),
        ("varlen", (7, 5), "compute capability 8.0, not 7.5"),
        ("flex", (7, 5), "compute capability 8.0, not 7.5"),
    ],
)
def test_a_card_that_does_not_do_is_named(
    name: str, capability: tuple[int, int], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "capability", lambda device: capability)
    assert says in str(reason(name, LONG_PACKED))


@pytest.mark.parametrize("name", PLATFORM)
def test_a_negative_scale_and_a_wrong_dtype_are_named(name: str) -> None:
    case = Case("plain")
    q, k, v = case.tensors(torch.float64)
    rule = LogitRule(0.4)
    assert "torch.float64" in str(PROVIDERS[name].serves(call_of(q, k, v, case.query(), rule)))
    if name != "flex":
        half = [x.half() for x in (q, k, v)]
        negative = call_of(*half, case.query(), LogitRule(-1.0))
        assert "positive scales only" in str(PROVIDERS[name].serves(negative))


def test_cudnn_follows_pytorchs_own_refusal_and_determinism(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = Case("plain")
    monkeypatch.setattr(cudnn, "allowed", lambda *tensors: False)
    assert "can_use_cudnn_attention" in str(reason("cudnn", case))
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    assert "not deterministic" in str(reason("cudnn", case))


def without_operators(monkeypatch: pytest.MonkeyPatch, *kept: str) -> None:
    """Let PyTorch have none of cuDNN's operators but these."""
    operators = SimpleNamespace(**{name: getattr(torch.ops.aten, name) for name in kept})
    monkeypatch.setattr(torch.ops, "aten", operators)


def test_a_torch_without_cudnns_operators_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    without_operators(monkeypatch)
    lacks = f"torch {torch.__version__} has no _scaled_dot_product_cudnn_attention"
    assert PROVIDERS["cudnn"].missing() == lacks
    assert reason("cudnn", Case("plain")) == lacks


def test_without_the_packed_operator_cudnn_serves_whole_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    without_operators(monkeypatch, "_scaled_dot_product_cudnn_attention")
    assert "has no _cudnn_attention_forward for packed" in str(reason("cudnn", LONG_PACKED))
    assert reason("cudnn", Case("plain")) is None


@pytest.mark.parametrize(
    ("says", "lacking"),
    [
        ("needs the package triton, which is not installed", "triton"),
        ("torch.compile does not work here", "dynamo"),
        (f"FlexAttention of torch {torch.__version__} has no AuxRequest", "lse"),
    ],
)
def test_what_flex_attention_lacks_is_named(
    says: str, lacking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if lacking == "triton":
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    elif lacking == "dynamo":
        monkeypatch.setattr("torch._dynamo.eval_frame.is_dynamo_supported", lambda: False)
    else:
        monkeypatch.delattr(torch_flex, "AuxRequest")
    case = Case("plain")
    with pytest.raises(ValueError, match=f'"lse:flex" .*{re.escape(says)}'):
        span_attention(*case.tensors(torch.float16), case.query(), backend="lse:flex")


def test_a_decoding_call_lets_flash_attention_3_split_the_keys(card: Card) -> None:
    module = sys.modules["flash_attn_interface"]
    asked: list[int] = []
    inner = module.flash_attn_func

    @functools.wraps(inner)
    def watched(*tensors: Tensor, num_splits: int, **options: Any) -> Any:
        asked.append(num_splits)
        return inner(*tensors, num_splits=num_splits, **options)

    card.monkeypatch.setattr(module, "flash_attn_func", watched)
    for queries in (1, 37):
        case = Case("few", queries=queries)
        inputs = case.tensors(torch.float16)
        span_attention(*inputs, case.query(), backend="lse:flash_3")
    assert asked[-2:] == [0, 1]


def test_what_a_version_does_not_take_is_not_handed_over(card: Card) -> None:
    module = sys.modules["flash_attn_interface"]
    inner = module.flash_attn_func

    def older(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        softmax_scale: float,
        causal: bool,
        window_size: tuple[int, int],
        softcap: float = 0.0,
    ) -> Any:
        given = (softmax_scale, causal, window_size, softcap)
        return inner(q, k, v, *given, return_attn_probs=True)

    case = Case("plain")
    inputs = case.tensors(torch.float16)
    new = span_attention(*inputs, case.query(), backend="lse:flash_3")
    card.monkeypatch.setattr(module, "flash_attn_func", older)
    old = span_attention(*inputs, case.query(), backend="lse:flash_3")
    assert torch.equal(old.out, new.out)
    assert torch.equal(old.lse, new.lse)
