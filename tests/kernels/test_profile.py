"""Test attention profiles: means of a group's rows of the map, and their gradient."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from op_cases import CASES, Case
from op_truth import worst
from sra_fast import span_attention, span_mass
from sra_fast.kernels import profile
from sra_fast.kernels.contract import ProfileQuery, SpanQuery


def asking(case: Case, *, by_head: bool = True, groups: int = 3) -> SpanQuery:
    """Return the case's query, whose rows are in some groups; one group has none."""
    query = case.query()
    numbers = torch.arange(len(query.rows), dtype=torch.int32) * 7 % (groups + 1) - 1
    return replace(query, profile=ProfileQuery(numbers, groups + 1, by_head))


def truth(case: Case, query: SpanQuery, dtype: torch.dtype) -> Any:
    q, k, v = (x.double() for x in case.tensors(dtype))
    rule = case.rule(dtype)
    if rule["sinks"] is not None:
        rule["sinks"] = rule["sinks"].double()
    return span_attention(q, k, v, query, backend="reference", **rule)


@pytest.mark.parametrize("by_head", [True, False])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_profile_is_the_mean_of_its_rows_of_the_map(case: Case, by_head: bool) -> None:
    query = asking(case, by_head=by_head)
    exact = truth(case, query, torch.float32).profile
    found = span_attention(*case.tensors(torch.float32), query, **case.rule(torch.float32))
    assert worst(found.profile, exact) <= 2e-6
    q, k, _ = case.tensors(torch.float32)
    alone = span_mass(q, k, query, **case.rule(torch.float32))
    assert worst(alone.profile, exact) <= 2e-6


@pytest.mark.parametrize("case", CASES[::5], ids=str)
def test_profiles_are_float32_whatever_the_inputs(case: Case) -> None:
    query = asking(case)
    exact = truth(case, query, torch.bfloat16).profile
    found = span_attention(*case.tensors(torch.bfloat16), query, **case.rule(torch.bfloat16))
    assert found.profile.dtype == torch.float32
    assert worst(found.profile, exact) <= 1e-4  # a bfloat16 product is off by 6e-3


ONE_ROW_OF_KEYS = [case for case in CASES if case.batch == 1 and len(case.query().rows) > 0]


@pytest.mark.parametrize("case", ONE_ROW_OF_KEYS, ids=str)
def test_profiles_agree_with_the_masses_and_sum_to_all_but_the_sinks(case: Case) -> None:
    query = case.query()
    query = replace(query, profile=ProfileQuery(torch.zeros(len(query.rows), dtype=torch.int32), 1))
    result = span_attention(*case.tensors(torch.float64), query, **case.rule(torch.float64))
    shifts = torch.arange(len(query.names))
    bits = ((query.key_labels[0, :, None] >> shifts) & 1).double()
    torch.testing.assert_close(result.profile[0] @ bits, result.mass.mean(dim=0))


@pytest.mark.parametrize("by_head", [True, False])
@pytest.mark.parametrize(
    "case", [case for case in CASES if case.keys < 100 and case.rows != "none"], ids=str
)
def test_gradients_are_those_of_autograd_through_the_map(case: Case, by_head: bool) -> None:
    query = asking(case, by_head=by_head)
    found = gradients(case, query, "auto")
    for ours, exact in zip(found, gradients(case, query, "reference"), strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-9, atol=1e-12)


def gradients(case: Case, query: SpanQuery, backend: str) -> list[torch.Tensor]:
    leaves = [x.detach().requires_grad_() for x in case.tensors(torch.float64)]
    rule = case.rule(torch.float64)
    if case.sinks:
        leaves.append(rule["sinks"].requires_grad_())
    result = span_attention(*leaves[:3], query, backend=backend, **rule)
    generator = torch.Generator().manual_seed(2)
    weights = torch.randn(result.profile.shape, generator=generator, dtype=torch.float64)
    loss = (result.profile * weights).sum()
    if not loss.requires_grad:
        return [torch.zeros_like(leaf) for leaf in leaves]
    grads = torch.autograd.grad(loss, leaves, allow_unused=True)
    return [
        torch.zeros_like(leaf) if grad is None else grad
        for leaf, grad in zip(leaves, grads, strict=True)
    ]


def test_watched_profiles_carry_no_gradient() -> None:
    case = CASES[0]
    q, k, v = (x.requires_grad_() for x in case.tensors(torch.float32))
    result = span_attention(q, k, v, asking(case), mass_grad=False, **case.rule(torch.float32))
    assert not result.profile.requires_grad
    assert result.out.requires_grad


def test_blocks_of_any_size_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    for case in (CASES[0], next(case for case in CASES if case.window and case.softcap)):
        query, rule = asking(case), case.rule(torch.float64)
        whole = span_attention(*case.tensors(torch.float64), query, **rule).profile
        monkeypatch.setattr(profile, "BLOCK_NUMBERS", 16)
        monkeypatch.setattr(profile, "ROWS_AT_ONCE", 3)
        pieces = span_attention(*case.tensors(torch.float64), query, **rule).profile
        torch.testing.assert_close(pieces, whole)
        monkeypatch.undo()


@pytest.mark.parametrize(
    ("row_groups", "groups", "message"),
    [
        ([0, 1, 2, 0, 1], 2, "row_groups: expected -1 to 1 for 2 groups, got 0 to 2"),
        ([0, -2, 0, 0, 0], 2, "got -2 to 0"),
        ([0, 1], 2, "expected one for each of the 5 rows, got 2"),
        ([0] * 5, -1, "expected a number of groups"),
    ],
)
def test_groups_that_do_not_fit_are_refused(
    row_groups: list[int], groups: int, message: str
) -> None:
    case = CASES[0]
    query = case.query()

    def ask() -> None:
        wanted = ProfileQuery(torch.tensor(row_groups, dtype=torch.int32), groups)
        asked = replace(query, rows=query.rows[:5], profile=wanted)
        span_attention(*case.tensors(torch.float32), asked)

    with pytest.raises(ValueError, match=message):
        ask()


def test_a_second_derivative_is_refused() -> None:
    q, k, v = (x.requires_grad_() for x in CASES[0].tensors(torch.float32))
    found = span_attention(q, k, v, asking(CASES[0]), backend="lse").profile
    assert found is not None
    (grad,) = torch.autograd.grad(found.square().sum(), q, create_graph=True)
    for leaf in (q, k):
        with pytest.raises(RuntimeError, match="cannot be differentiated a second time"):
            torch.autograd.grad(grad.sum() + leaf.sum(), leaf, retain_graph=True)
