"""Test the gradient of profiles by Triton kernels: on a GPU, or interpreted on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from op_cases import CASES, Case
from op_truth import worst
from sra_fast import SpanQuery, op, span_attention, span_mass
from sra_fast.kernels import profile
from sra_fast.kernels.contract import LogitRule, ProfileQuery
from sra_fast.kernels.triton_kernels import backend
from sra_fast.kernels.triton_kernels.profile_operator import (
    connected_profile,
    connected_profile_backward,
)
from sra_fast.kernels.triton_kernels.row_bounds import row_bounds
from sra_fast.kernels.triton_kernels.row_groups import row_groups

ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"

pytestmark = pytest.mark.usefixtures("unwritten_memory_is_nan")

Grouping = Callable[[int], Tensor]


def in_turn(rows: int) -> Tensor:
    """Put neighbouring rows in different groups, and some in none."""
    return torch.arange(rows, dtype=torch.int32) * 7 % 4 - 1


def in_blocks(rows: int) -> Tensor:
    """Put the first half in group 2 and the second one in group 0, as replies of a dialogue."""
    return torch.where(torch.arange(rows) < rows // 2, 2, 0).int()


def together(rows: int) -> Tensor:
    return torch.zeros(rows, dtype=torch.int32)


def nowhere(rows: int) -> Tensor:
    return torch.full((rows,), -1, dtype=torch.int32)


GROUPINGS = (in_turn, in_blocks, together)


def asking(case: Case, grouping: Grouping, *, by_head: bool) -> SpanQuery:
    """Return the case's query with its rows in groups; group 3 has none."""
    query = case.query()
    return replace(query, profile=ProfileQuery(grouping(len(query.rows)), 4, by_head))


def leaves(case: Case, dtype: torch.dtype, device: str = "cpu") -> list[Tensor]:
    """Return q, k, and the sinks if the case has any, as leaves that want a gradient."""
    q, k, _ = case.tensors(dtype, device)
    given = [q, k] if not case.sinks else [q, k, case.rule(dtype, device)["sinks"]]
    return [x.detach().requires_grad_() for x in given]


def gradients(case: Case, query: SpanQuery, given: list[Tensor], name: str) -> list[Tensor]:
    """Return the gradients of a random function of the profile, 0 where nothing depends on it."""
    rule = case.rule(given[0].dtype) | {"sinks": given[2] if case.sinks else None}
    found = span_mass(*given[:2], query.to(given[0].device), backend=name, **rule).profile
    assert found is not None
    generator = torch.Generator().manual_seed(2)
    weights = torch.randn(found.shape, generator=generator, dtype=torch.float64).to(found)
    loss = (found * weights).sum()
    if not loss.requires_grad:
        return [torch.zeros_like(leaf) for leaf in given]
    grads = torch.autograd.grad(loss, given, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(given, grads, strict=True)]


def true_gradients(case: Case, query: SpanQuery, dtype: torch.dtype) -> list[Tensor]:
    """Return the definition's gradients in float64, of the inputs rounded to ``dtype``."""
    given = [x.detach().double().requires_grad_() for x in leaves(case, dtype)]
    return gradients(case, query, given, "reference")


# A few of the grid where lengths cross tiles in another way, most with two heads: the interpreter
# is slow.
WITH_ALL_HEADS = {"packed, fewer queries than keys", "one query, sinks"}
CHOSEN = {
    "odd widths",
    "a row that is all padding",
    "nothing visible at all",
    "packed, fewer queries than keys",
    "last stride other than 1",
    "left and right padding, window, softcap and sinks",
    "one query, sinks",
    "no row",
}
GRID = [
    *(
        case if ON_GPU or case.name in WITH_ALL_HEADS else replace(case, heads=2, kv_heads=1)
        for case in CASES
        if ON_GPU or case.name in CHOSEN
    ),
    Case("several batch rows", batch=3, queries=9, keys=9, heads=2, kv_heads=1, rows="all"),
    Case("more tiles", queries=40, keys=70, window=30, heads=2, kv_heads=1, rows="all"),
]


@pytest.mark.parametrize("number", range(len(GRID)), ids=lambda number: GRID[number].name)
def test_triton_gives_the_gradient_of_the_definition(number: int) -> None:
    case = GRID[number]
    query = asking(case, GROUPINGS[number % 3], by_head=number % 2 == 0)
    found = gradients(case, query, leaves(case, torch.float32, DEVICE), "triton")
    for mine, true in zip(found, true_gradients(case, query, torch.float32), strict=True):
        assert mine.dtype == torch.float32
        assert worst(mine, true) <= 1e-5 * max(true.abs().max().item(), 1e-3)


@pytest.mark.parametrize("by_head", [True, False])
@pytest.mark.parametrize("grouping", GROUPINGS)
def test_rows_in_any_groups_have_their_gradient(grouping: Grouping, by_head: bool) -> None:
    case = Case("every row", queries=36, keys=40, heads=2, kv_heads=1, rows="all", sinks=True)
    query = asking(case, grouping, by_head=by_head)
    found = gradients(case, query, leaves(case, torch.float32, DEVICE), "triton")
    for mine, true in zip(found, true_gradients(case, query, torch.float32), strict=True):
        assert worst(mine, true) <= 1e-5 * true.abs().max().item()


def test_the_kernels_stand_beside_any_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let backend "lse" take the kernels, as it does on a card, and no block of PyTorch's."""

    def refuse(*given: Any) -> Any:
        raise AssertionError("the blocks were used where the kernels may be")

    monkeypatch.setattr(op, "trusted_kernels", lambda *of: backend)
    monkeypatch.setattr(profile, "of_rows", refuse)
    case = Case("lse", queries=20, keys=30, heads=2, sinks=True)
    query = asking(case, in_turn, by_head=True)
    found = gradients(case, query, leaves(case, torch.float32, DEVICE), "lse")
    for mine, true in zip(found, true_gradients(case, query, torch.float32), strict=True):
        assert worst(mine, true) <= 1e-5 * true.abs().max().item()


def test_rows_in_no_group_give_no_gradient() -> None:
    case = Case("no group", queries=20, keys=20, heads=2, sinks=True, rows="all")
    query = asking(case, nowhere, by_head=True)
    found = gradients(case, query, leaves(case, torch.float32, DEVICE), "triton")
    assert all(grad.eq(0).all() for grad in found)


def test_half_precision_rounds_no_more_than_its_products() -> None:
    """The means are over many heads and rows: absolute shares would vanish in float16."""
    case = Case("half", queries=40, keys=40, heads=2, rows="all", softcap=2.0)
    query = asking(case, together, by_head=False)
    found = gradients(case, query, leaves(case, torch.float16, DEVICE), "triton")
    for mine, true in zip(found, true_gradients(case, query, torch.float16), strict=True):
        error = (mine.cpu().double() - true).pow(2).mean().sqrt() / true.pow(2).mean().sqrt()
        assert error.item() <= 4 * torch.finfo(torch.float16).eps


def test_the_same_bits_in_every_run() -> None:
    case = Case("packed", segments=((0, 0, 10), (0, 10, 37)), heads=2, rows="all", sinks=True)
    query = asking(case, in_turn, by_head=True)
    given = leaves(case, torch.float16, DEVICE)
    runs = [gradients(case, query, given, "triton") for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_attention_has_the_gradient_of_its_profile_and_of_its_output_together() -> None:
    case = Case("both", queries=20, keys=20, heads=2, rows="all", window=9)
    query, found = asking(case, in_blocks, by_head=True), []
    for name, dtype in (("triton", torch.float32), ("reference", torch.float64)):
        given = [x.detach().requires_grad_() for x in case.tensors(dtype, DEVICE)]
        made = span_attention(*given, query.to(torch.device(DEVICE)), backend=name, scale=0.4)
        loss = sum(x.square().sum() for x in (made.out, made.mass, made.profile))
        found.append(torch.autograd.grad(loss, given))
    for mine, true in zip(*found, strict=True):
        assert worst(mine, true) <= 2e-5 * true.abs().max().item()


@pytest.mark.parametrize("scale", [-0.4, 0.0])
def test_scales_need_not_be_positive(scale: float) -> None:
    case = Case("scale", queries=20, keys=20, heads=2)
    query, found = asking(case, in_turn, by_head=True), []
    for name in ("triton", "reference"):
        given = leaves(case, torch.float32, DEVICE)
        made = span_mass(*given, query.to(torch.device(DEVICE)), backend=name, scale=scale).profile
        found.append(torch.autograd.grad(made.square().sum(), given))
    for mine, true in zip(*found, strict=True):
        assert worst(mine, true) <= 1e-6


def test_a_watched_profile_carries_no_gradient() -> None:
    case = Case("watched", queries=20, keys=20, heads=2)
    given = [x.requires_grad_() for x in case.tensors(torch.float32, DEVICE)]
    query = asking(case, in_turn, by_head=True).to(torch.device(DEVICE))
    found = span_attention(*given, query, backend="triton", mass_grad=False)
    assert not found.profile.requires_grad


# --- the operators ---


def flat(case: Case) -> tuple[Any, ...]:
    """Return a call's arguments as the operator ``connected_profile`` takes them."""
    given = leaves(case, torch.float32, DEVICE)
    query = asking(case, in_turn, by_head=True).to(torch.device(DEVICE))
    made = backend._layout(given[0], given[1], given[1], query, case.window)
    groups = row_groups(query, torch.float32)
    return (
        torch.rand(4, case.heads, case.keys, device=DEVICE),
        *given[:2],
        given[2] if case.sinks else None,
        torch.full((len(query.rows), case.heads), 4.0, device=DEVICE),
        made.first_key,
        made.rows,
        groups.groups,
        groups.shares,
        groups.largest,
        groups.runs,
        row_bounds(query, made, case.window),
        0.4,
        case.softcap or 0.0,
    )


@pytest.mark.parametrize("sinks", [True, False])
def test_the_operators_keep_the_rules_of_torch_library(sinks: bool) -> None:
    small = Case("small", queries=9, keys=10, heads=2, kv_heads=1, softcap=2.0, window=5)
    arguments = flat(replace(small, sinks=sinks))
    torch.library.opcheck(connected_profile, arguments)
    profile, *tensors = (x.detach() if isinstance(x, Tensor) else x for x in arguments)
    given = (*tensors[:-2], torch.rand_like(profile), *tensors[-2:])
    torch.library.opcheck(connected_profile_backward, given)


def test_a_compiled_function_stays_one_graph() -> None:
    case = Case("compiled", queries=20, keys=20, heads=2, sinks=True)
    given = leaves(case, torch.float32, DEVICE)
    query = asking(case, in_turn, by_head=False).to(torch.device(DEVICE))
    known = torch.full((len(query.rows), 2), 5.0, device=DEVICE)

    def function(q: Tensor, k: Tensor, sinks: Tensor) -> Tensor:
        rule = LogitRule(0.4, sinks=sinks)
        return 3 * backend.connected_profile_of_rows(2 * q, k, known, query, rule)

    wanted = function(*given)
    found = torch.compile(function, fullgraph=True, backend="aot_eager")(*given)
    assert worst(found.detach(), wanted.detach()) <= 1e-6
    for mine, true in zip(
        torch.autograd.grad(found.square().sum(), given),
        torch.autograd.grad(wanted.square().sum(), given),
        strict=True,
    ):
        assert worst(mine, true) <= 1e-6 * true.abs().max().item()
