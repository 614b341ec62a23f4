"""Test that a kernel whose logsumexp has another form is found out before it is used."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import kernel_stand_ins as stand_ins
from kernel_stand_ins import Card, leave, pretend
from op_cases import CASES, Case
from sra_fast import span_attention
from sra_fast.kernels.contract import LogitRule
from sra_fast.kernels.providers import PROVIDERS, Provider, call_of, lse_check

PLATFORM = tuple(name for name, provider in PROVIDERS.items() if provider.platform)
CPU = torch.device("cpu")
Change = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

# What a version of a kernel may return instead: [.., Hq, M] in, the same shape out.
WRONG: dict[str, Change] = {
    "to base 2": lambda out, lse: (out, lse / math.log(2.0)),
    "laid out [B, M, Hq]": lambda out, lse: (out, lse.transpose(-1, -2).reshape(lse.shape)),
    "not the natural one": lambda out, lse: (out, lse - 0.25),
    "the output is not": lambda out, lse: (out.flip(-1), lse),
    "expected": lambda out, lse: (out, lse[..., :1]),
    "unwritten": lambda out, lse: (out, torch.full_like(lse, torch.nan)),
}


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[Card]:
    yield pretend(monkeypatch)
    monkeypatch.undo()
    leave()


def changed(name: str, change: Change) -> Provider:
    """Return a provider whose results are changed, as those of another version might be."""
    provider = PROVIDERS[name]
    return replace(provider, attend=lambda call: change(*provider.attend(call)))


@pytest.mark.parametrize("name", PLATFORM)
def test_each_provider_passes_its_check_in_both_dtypes(name: str, card: Card) -> None:
    for dtype in (torch.float16, torch.bfloat16):
        assert lse_check.verdict(PROVIDERS[name], CPU, dtype) is None


@pytest.mark.parametrize("says", WRONG)
@pytest.mark.parametrize("name", PLATFORM)
def test_a_wrong_form_is_found_and_said(name: str, says: str, card: Card) -> None:
    wrong = changed(name, WRONG[says])
    found = lse_check.verdict(wrong, CPU, torch.bfloat16)
    assert found is not None
    assert found.startswith("its check on whole rows failed")
    assert (says if says != "unwritten" else "not the natural one") in found


def test_a_wrong_kernel_is_never_used_and_an_error_by_name(card: Card) -> None:
    def base_2(*given: Any, **options: Any) -> Any:
        out, lse, *rest = stand_ins.cudnn_dense(*given, **options)
        return out, lse / math.log(2.0), *rest

    card.put("cudnn", base_2)
    case = CASES[0]
    with pytest.raises(ValueError, match=r'"lse:cudnn" .*whole rows failed: .* to base 2'):
        span_attention(*case.tensors(torch.float16), case.query(), backend="lse:cudnn")


@pytest.mark.parametrize(
    ("place", "turned", "name"),
    [
        ("cudnn", lambda out, lse, *rest: (out, lse.transpose(1, 2), *rest), "cudnn"),
        ("cudnn packed", lambda out, lse, *rest: (out, lse.transpose(0, 1), *rest), "cudnn"),
        ("varlen", lambda out, lse: (out, lse.transpose(0, 1)), "varlen"),
    ],
)
def test_a_kernel_that_turns_its_logsumexp_is_found_by_its_shape(
    place: str, turned: Callable[..., Any], name: str, card: Card
) -> None:
    kernels: dict[str, Callable[..., Any]] = {
        "cudnn": stand_ins.cudnn_dense,
        "cudnn packed": stand_ins.cudnn_packed,
        "varlen": stand_ins.varlen_2_13,
    }
    real = kernels[place]

    @functools.wraps(real)
    def other(*given: Any, **options: Any) -> Any:
        return turned(*real(*given, **options))

    card.put(place, other)
    found = lse_check.verdict(PROVIDERS[name], CPU, torch.float16)
    assert found is not None
    assert "logsumexp has shape" in found


@pytest.mark.parametrize("wrong", ["top-left masks", "heads grouped the other way"])
def test_masks_and_heads_are_checked_too(wrong: str, card: Card) -> None:
    @functools.wraps(stand_ins.varlen_2_13)
    def other(q: Tensor, k: Tensor, v: Tensor, *given: Any, **options: Any) -> Any:
        if wrong == "heads grouped the other way":
            k, v = k.flip(1), v.flip(1)
        elif len(q) < len(k):
            options["window_size"] = (-1, -1)
        return stand_ins.varlen_2_13(q, k, v, *given, **options)

    card.put("varlen", other)
    found = str(lse_check.verdict(PROVIDERS["varlen"], CPU, torch.float16))
    assert "failed" in found
    assert ("fewer queries than keys" in found) == (wrong == "top-left masks")


def test_a_kernel_that_fails_is_left_out_with_its_error(card: Card) -> None:
    def broken(*given: Any, **options: Any) -> Any:
        raise RuntimeError("no execution plan")

    card.put("cudnn", broken)
    found = lse_check.verdict(PROVIDERS["cudnn"], CPU, torch.float16)
    assert "RuntimeError: no execution plan" in str(found)


def test_a_kernel_is_checked_once_per_device_and_dtype(card: Card) -> None:
    asked: list[torch.dtype] = []

    def watched(out: Tensor, lse: Tensor) -> tuple[Tensor, Tensor]:
        asked.append(out.dtype)
        return out, lse

    provider = changed("varlen", watched)
    state = torch.get_rng_state()
    for _ in range(2):
        assert lse_check.verdict(provider, CPU, torch.float16) is None
    once = len(asked)
    assert lse_check.verdict(provider, CPU, torch.bfloat16) is None
    assert len(asked) == 2 * once > 0
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("where", ["compiled", "captured", "of shapes alone"])
def test_nothing_is_checked_inside_a_graph(
    where: str, card: Card, monkeypatch: pytest.MonkeyPatch
) -> None:
    if where == "compiled":
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    elif where == "captured":
        monkeypatch.setattr(lse_check, "is_capturing", lambda device: True)
    shapes = FakeTensorMode() if where == "of shapes alone" else nullcontext()
    provider = changed("varlen", lambda out, lse: pytest.fail("it was called"))
    with shapes:
        assert lse_check.verdict(provider, CPU, torch.float16) == lse_check.UNCHECKED
    monkeypatch.undo()
    pretend(monkeypatch)
    assert lse_check.verdict(PROVIDERS["varlen"], CPU, torch.float16) is None  # it is asked again


def test_what_was_checked_before_is_used_inside_a_graph(
    card: Card, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert lse_check.verdict(PROVIDERS["varlen"], CPU, torch.float16) is None
    monkeypatch.setattr(lse_check, "is_capturing", lambda device: True)
    assert lse_check.verdict(PROVIDERS["varlen"], CPU, torch.float16) is None


def test_what_fails_in_packed_rows_still_serves_whole_ones(card: Card) -> None:
    def broken(*given: Any, **options: Any) -> Any:
        raise RuntimeError("no execution plan")

    card.put("cudnn packed", broken)
    whole = CASES[0]
    packed = Case("packed", queries=200, keys=200, segments=((0, 0, 60), (0, 60, 200)))
    span_attention(*whole.tensors(torch.float16), whole.query(), backend="lse:cudnn")
    with pytest.raises(ValueError, match=r"padded rows failed: .*no execution plan"):
        span_attention(*packed.tensors(torch.float16), packed.query(), backend="lse:cudnn")


@pytest.mark.parametrize(
    ("probes", "case"),
    [
        ("whole rows", Case("plain")),
        ("whole rows", Case("plain", window=400)),
        ("padded rows, packed rows", Case("padded", segments=((0, 3, 37),))),
        ("whole rows, fewer queries than keys", Case("few", queries=5)),
        ("whole rows, fewer queries than keys, one query", Case("one", queries=1)),
        ("whole rows, a window, a softcap", Case("both", window=5, softcap=2.0)),
    ],
)
def test_what_a_call_relies_on_is_checked(probes: str, case: Case) -> None:
    q, k, v = case.tensors(torch.float16)
    call = call_of(q, k, v, case.query(), LogitRule(**case.rule(torch.float16)))
    assert ", ".join(probe.name for probe in lse_check.probes_of(call)) == probes
