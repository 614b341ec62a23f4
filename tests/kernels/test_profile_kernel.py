"""Test the profile kernel against the definition in float64: on a GPU, or interpreted on a CPU."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from op_cases import CASES, Case
from op_truth import worst
from sra_fast import SpanQuery, span_attention, span_mass
from sra_fast.kernels.contract import LogitRule, ProfileQuery
from sra_fast.kernels.triton_kernels import backend, key_profile
from sra_fast.kernels.triton_kernels.profile_operator import profile_of_lse

ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"
DTYPES = (torch.float32, torch.float16, *((torch.bfloat16,) if ON_GPU else ()))
GRID = [
    *[case for case in CASES if case.queries <= 100][::2],
    Case("rows of several batches in one group", batch=5, queries=9, keys=9, rows="all"),
    Case("many key heads", heads=12, kv_heads=6, queries=20, keys=50, rows="all"),
]

pytestmark = pytest.mark.usefixtures("unwritten_memory_is_nan")


def asking(case: Case, *, by_head: bool) -> SpanQuery:
    """Return the case's query, whose rows are in some groups; one group has none."""
    query = case.query()
    numbers = torch.arange(len(query.rows), dtype=torch.int32) * 7 % 4 - 1
    return replace(query, profile=ProfileQuery(numbers, 4, by_head))


@pytest.mark.parametrize("number", range(len(GRID)), ids=lambda number: GRID[number].name)
def test_profiles_are_those_of_the_definition(number: int) -> None:
    case, dtype, by_head = GRID[number], DTYPES[number % len(DTYPES)], number % 4 < 2
    query, rule = asking(case, by_head=by_head), case.rule(dtype, DEVICE)
    inputs = case.tensors(dtype, DEVICE)
    exact = {
        name: value.double() if isinstance(value, torch.Tensor) else value
        for name, value in rule.items()
    }
    wide = [x.double() for x in inputs]
    wanted = span_attention(*wide, query, backend="reference", **exact).profile
    found = span_attention(*inputs, query, backend="triton", mass_grad=False, **rule)
    assert found.profile.dtype == torch.float32
    floor = 2e-6 if dtype == torch.float32 else 1e-5
    assert worst(found.profile, wanted) <= floor
    alone = span_mass(*inputs[:2], query, backend="triton", **rule)
    assert worst(alone.profile, wanted) <= floor


def test_heads_are_split_over_programs_without_changing_the_mean(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = Case("many key heads", heads=12, kv_heads=6, queries=20, keys=50, rows="all")
    query, rule = asking(case, by_head=False), case.rule(torch.float32, DEVICE)
    inputs = case.tensors(torch.float32, DEVICE)
    found = []
    for programs in (1, 10, 10_000):
        monkeypatch.setattr(key_profile, "PROGRAMS", programs)
        found.append(span_mass(*inputs[:2], query, backend="triton", **rule).profile)
    for other in found[1:]:
        torch.testing.assert_close(found[0], other)


def test_the_same_bits_every_time() -> None:
    case = Case("every row", queries=60, keys=60, rows="all")
    query, rule = asking(case, by_head=False), case.rule(torch.float32, DEVICE)
    inputs = case.tensors(torch.float32, DEVICE)[:2]
    first, second = (span_mass(*inputs, query, backend="triton", **rule).profile for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("by_head", [True, False])
def test_the_operator_keeps_the_contract_of_torch_library(by_head: bool) -> None:
    case = Case("every row", queries=20, keys=20, rows="all")
    query = asking(case, by_head=by_head).to(torch.device(DEVICE))
    q, k, _ = case.tensors(torch.float32, DEVICE)
    lse = span_mass(q, k, query, scale=0.4).lse
    made = backend._layout(q, k, k, query, None)
    order = key_profile.row_order(query)
    arguments: tuple[Any, ...] = (q, k, lse, made.first_key, made.rows, order.slots, order.starts)
    torch.library.opcheck(profile_of_lse, (*arguments, by_head, 0.4, 0.0))


def test_a_negative_scale_is_served() -> None:
    case = Case("every row", queries=20, keys=20, rows="all")
    query = asking(case, by_head=True)
    q, k, _ = case.tensors(torch.float32, DEVICE)
    wanted = span_mass(q, k, query, scale=-0.3, backend="reference").profile
    found = span_mass(q, k, query, scale=-0.3, backend="triton").profile
    torch.testing.assert_close(found, wanted)
    assert LogitRule(-0.3).scale < 0
