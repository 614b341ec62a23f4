"""Test which calls go straight to the kernels, and how little they do before."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.host.call_cost import CALLS, arguments, without_launches
from sra_fast import span_attention, span_mass
from sra_fast.kernels.contract import LogitRule
from sra_fast.kernels.triton_kernels import backend, kernel_calls

OPERATORS = ("fused_attention", "fused_mass", "span_mass_of_lse")
MOST_CALLS = 70  # Python functions, up to two launches included


def forbidden(*_: Any) -> None:
    raise AssertionError("by way of torch.library")


@pytest.mark.parametrize("name", CALLS)
def test_a_call_does_little_before_its_launches(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v, query = arguments(*CALLS[name])
    for operator in OPERATORS:
        monkeypatch.setattr(backend, operator, forbidden)
    calls: list[str] = []

    def counted(frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            calls.append(frame.f_code.co_name)

    with torch.no_grad(), without_launches() as grids:
        span_attention(q, k, v, query, backend="triton")
        known, first = set(query._derived), len(grids)
        sys.setprofile(counted)
        try:
            span_attention(q, k, v, query, backend="triton")
        finally:
            sys.setprofile(None)
    assert len(grids) == 2 * first > 0
    assert set(query._derived) == known, "something was worked out a second time"
    assert len(calls) <= MOST_CALLS, calls


def test_masses_alone_and_of_a_logsumexp_go_straight_too(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, _, query = arguments(3, 40)
    for operator in OPERATORS:
        monkeypatch.setattr(backend, operator, forbidden)
    with torch.no_grad(), without_launches() as grids:
        span_mass(q, k, query, backend="triton")
        backend.mass_of_lse(q, k, torch.zeros(q.shape[:3]), query, LogitRule(1.0))
    assert grids


class Watching(TorchDispatchMode):
    """A mode that keeps the names of all operators that run under it."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def test_whoever_watches_operators_sees_the_call() -> None:
    q, k, v, query = arguments(1, 20)
    with torch.no_grad(), without_launches(), Watching() as watching:
        span_attention(q, k, v, query, backend="triton")
    assert "sra_fast.fused_attention.default" in watching.names


class Own(Tensor):
    """A class of tensors of somebody else's."""


def test_only_plain_tensors_without_gradients_go_straight() -> None:
    x = torch.ones(2)
    leaf = torch.ones(2, requires_grad=True)
    assert kernel_calls.runs_straight(x, x, None)
    assert kernel_calls.runs_straight(nn.Parameter(x, requires_grad=False))
    assert not kernel_calls.runs_straight(x, leaf)
    assert not kernel_calls.runs_straight(x.as_subclass(Own))
    with torch.no_grad():
        assert kernel_calls.runs_straight(x, leaf)
    with FakeTensorMode():
        assert not kernel_calls.runs_straight(x)
        fake = torch.ones(2)
    assert not kernel_calls.runs_straight(fake)
