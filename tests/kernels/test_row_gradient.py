"""Test the gradient of the mass from the rows asked for, with another kernel's logsumexp.

By blocks on the CPU, and by Triton kernels: on a GPU, or interpreted. Both are given the logsumexp
of the definition, and compared with its autograd in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from op_cases import CASES, Case
from op_truth import gradients, truth, worst
from sra_fast import SpanQuery, span_attention, span_mass
from sra_fast.kernels import lse, mass, row_blocks
from sra_fast.kernels.contract import LogitRule, accumulation_dtype
from sra_fast.kernels.plan import plan
from sra_fast.kernels.triton_kernels import backend
from sra_fast.kernels.triton_kernels.layout import layout
from sra_fast.kernels.triton_kernels.row_bounds import row_bounds
from sra_fast.kernels.triton_kernels.row_operators import (
    connected_mass,
    connected_mass_backward,
)

Way = Callable[[Tensor, Tensor, Tensor, SpanQuery, LogitRule], Tensor]
ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"

pytestmark = pytest.mark.usefixtures("unwritten_memory_is_nan")


def by_blocks(q: Tensor, k: Tensor, lse: Tensor, query: SpanQuery, rule: LogitRule) -> Tensor:
    sequences = plan(query, q.shape[0], q.shape[2], k.shape[2])
    return mass.of_rows(q, k, lse, query, sequences, rule)


def by_triton(q: Tensor, k: Tensor, lse: Tensor, query: SpanQuery, rule: LogitRule) -> Tensor:
    device = torch.device(DEVICE)
    q, k, lse = q.to(device), k.to(device), lse.to(device)
    sinks = None if rule.sinks is None else rule.sinks.to(device)
    rule = replace(rule, sinks=sinks)
    return backend.mass_of_rows(q, k, lse, query.to(device), rule).cpu()


WAYS: dict[str, Way] = {"blocks": by_blocks, "triton": by_triton}
each_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


def leaves(case: Case, dtype: torch.dtype) -> list[Tensor]:
    """Return q, k and the sinks, if the case has any, as leaves that want a gradient."""
    q, k, _ = case.tensors(dtype)
    given = [q, k] if not case.sinks else [q, k, case.rule(dtype)["sinks"]]
    return [x.detach().requires_grad_() for x in given]


def rule_of(case: Case, given: list[Tensor]) -> LogitRule:
    rule = case.rule(given[0].dtype) | {"sinks": given[2] if case.sinks else None}
    return LogitRule(**rule)


def mass_by(way: Way, case: Case, given: list[Tensor]) -> Tensor:
    """Return the mass that ``way`` makes of ``leaves`` and the definition's logsumexp."""
    with torch.no_grad():
        q, k = given[:2]
        exact = truth(case, (q, k, case.tensors(q.dtype)[2]), vars(rule_of(case, given)))
    known = exact.lse.to(accumulation_dtype(q.dtype))
    return way(q, k, known, case.query(), rule_of(case, given))


def of_mass(found: Tensor, given: list[Tensor]) -> list[Tensor]:
    """Return the gradients of a random function of the mass, 0 where nothing depends on it."""
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(found.shape, generator=generator, dtype=torch.float64).to(found.dtype)
    if not found.requires_grad:
        return [torch.zeros_like(x) for x in given]
    grads = torch.autograd.grad((found * weights).sum(), given, allow_unused=True)
    return [
        torch.zeros_like(x) if grad is None else grad for x, grad in zip(given, grads, strict=True)
    ]


def true_gradients(case: Case, dtype: torch.dtype) -> list[Tensor]:
    """Return the definition's gradients in float64, of the inputs rounded to ``dtype``."""
    given = [x.detach().double().requires_grad_() for x in leaves(case, dtype)]
    v = case.tensors(dtype)[2].double()
    rule = vars(rule_of(case, given))
    found = span_attention(*given[:2], v, case.query(), backend="reference", **rule).mass
    return of_mass(found, given)


def check(way: Way, case: Case, dtype: torch.dtype, tolerance: float) -> None:
    given = leaves(case, dtype)
    found = of_mass(mass_by(way, case, given), given)
    for mine, true in zip(found, true_gradients(case, dtype), strict=True):
        assert mine.dtype == dtype
        assert worst(mine, true) <= tolerance * max(1.0, true.abs().amax().item())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_blocks_give_the_gradient_of_the_definition(case: Case) -> None:
    check(by_blocks, case, torch.float32, 1e-5)


# A few of the grid where lengths cross tiles in another way: the interpreter is slow.
CHOSEN = {
    "one key head",
    "odd widths",
    "left and right padding",
    "packed with gaps",
    "a row that is all padding",
    "nothing visible at all",
    "packed, fewer queries than keys",
    "an empty span",
    "overlapping spans",
    "last stride other than 1",
    "left and right padding, window, softcap and sinks",
    "fewer queries than keys, sinks",
}
GRID = [
    *(case for case in CASES if ON_GPU or case.name in CHOSEN),
    Case("rows of several batch rows in one tile", batch=4, queries=9, keys=9, rows="all"),
    Case("more tiles", queries=70, keys=100, window=30, heads=2, rows="all"),
    Case("head width 96", width=96, heads=2, kv_heads=1),
]


@pytest.mark.parametrize("case", GRID, ids=str)
def test_triton_gives_the_gradient_of_the_definition(case: Case) -> None:
    check(by_triton, case, torch.float32, 2e-5)


@each_way
@pytest.mark.parametrize(
    "case", [CASES[0], Case("softcap", softcap=2.0, window=9, sinks=True, keys=45)], ids=str
)
def test_half_precision_rounds_no_more_than_its_products(case: Case, way: Way) -> None:
    given = leaves(case, torch.float16)
    found = of_mass(mass_by(way, case, given), given)
    for mine, true in zip(found, true_gradients(case, torch.float16), strict=True):
        error = (mine.double() - true).pow(2).mean().sqrt() / true.pow(2).mean().sqrt()
        assert error.item() <= 4 * torch.finfo(torch.float16).eps


GRADCHECKED = [
    Case("capped, with a window", softcap=1.5, window=3, rows="all"),
    Case("capped, with sinks", softcap=1.5, sinks=True),
    Case("sinks and a window", sinks=True, window=3, rows="all"),
    Case("packed", segments=((0, 0, 3), (0, 3, 6)), spans="overlapping"),
    Case("fewer queries than keys", queries=4, rows="all"),
]


# Float64 is for the interpreter, and the kernels' tanh is good to 1e-10 only.
BY_TRITON = [] if ON_GPU else [case for case in GRADCHECKED if case.softcap is None]


@pytest.mark.parametrize(
    ("way", "case"),
    [
        *(pytest.param(by_blocks, case, id=f"blocks-{case}") for case in GRADCHECKED),
        *(pytest.param(by_triton, case, id=f"triton-{case}") for case in BY_TRITON),
    ],
)
def test_gradcheck(way: Way, case: Case) -> None:
    """The logsumexp is recomputed at every point: its change is in the gradient, too."""
    case = replace(case, heads=4, kv_heads=2, queries=min(case.queries, 6), keys=6, width=4)

    def function(*given: Tensor) -> Tensor:
        return mass_by(way, case, list(given))

    assert torch.autograd.gradcheck(function, leaves(case, torch.float64), fast_mode=True)


@each_way
def test_no_row_asked_for_gives_no_gradient(way: Way) -> None:
    case = Case("no row", rows="none", sinks=True)
    given = leaves(case, torch.float32)
    found = mass_by(way, case, given)
    assert found.shape == (0, 4, 3)
    assert all(grad.eq(0).all() for grad in of_mass(found, given))


@each_way
def test_no_span_gives_no_gradient(way: Way) -> None:
    case = Case("no span", sinks=True)
    query = replace(case.query(), key_labels=torch.zeros(1, 37, dtype=torch.int32), names=())
    given = leaves(case, torch.float32)
    found = way(*given[:2], torch.zeros(1, 4, 37), query, rule_of(case, given))
    assert found.shape == (len(query.rows), 4, 0)
    assert all(grad.eq(0).all() for grad in of_mass(found, given))


def test_only_the_rows_asked_for_and_what_they_see_get_a_gradient() -> None:
    case = Case("middle", rows="some")
    query = replace(case.query(), rows=torch.tensor([20, 22]))
    q, k, v = (x.detach().requires_grad_() for x in case.tensors(torch.float32))
    span_attention(q, k, v, query, backend="lse", scale=0.4).mass.square().sum().backward()
    assert q.grad is not None
    assert k.grad is not None
    moved = q.grad.abs().amax(dim=(0, 1, 3)) > 0
    assert moved.nonzero().flatten().tolist() == [20, 22]
    assert (k.grad.abs().amax(dim=(0, 1, 3)) > 0).tolist() == [True] * 23 + [False] * 14
    assert v.grad is None


@each_way
def test_the_same_bits_in_every_run(way: Way) -> None:
    case = Case("packed", segments=((0, 0, 20), (0, 20, 37)), rows="all", sinks=True)
    given = leaves(case, torch.float16)
    runs = [of_mass(mass_by(way, case, given), given) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.parametrize("size", [1, 1000])
def test_blocks_of_any_size_give_the_same(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("blocks", queries=120, keys=150, window=40, softcap=3.0, sinks=True, rows="all")
    whole = leaves(case, torch.float32)
    wanted = of_mass(mass_by(by_blocks, case, whole), whole)
    monkeypatch.setattr(row_blocks, "ROW_BLOCK_NUMBERS", size)
    pieces = leaves(case, torch.float32)
    for mine, theirs in zip(of_mass(mass_by(by_blocks, case, pieces), pieces), wanted, strict=True):
        assert worst(mine, theirs) <= 1e-5


def test_no_block_holds_more_logits_than_it_may() -> None:
    case = Case("long", queries=4000, keys=4000, rows="all")
    query = case.query()
    found = row_blocks.row_blocks(query, plan(query, 1, 4000, 4000), 4, 4000, 4000, None)
    logits = [4 * len(block.rows) * (block.keys.stop - block.keys.start) for block in found]
    assert max(logits) <= row_blocks.ROW_BLOCK_NUMBERS < 4 * 4000 * 4000 // 8
    assert torch.equal(torch.cat([block.rows for block in found]), torch.arange(4000))


@pytest.mark.parametrize("backend_name", ["lse", "triton"])
@pytest.mark.parametrize(
    "case", [CASES[0], Case("all", sinks=True, window=7, softcap=2.0)], ids=str
)
def test_mass_alone_has_the_gradient_of_the_mass_beside_the_output(
    case: Case, backend_name: str
) -> None:
    given = leaves(case, torch.float32)
    rule = vars(rule_of(case, given))
    on_device = [x.to(DEVICE) for x in given[:2]] if backend_name == "triton" else given[:2]
    if rule["sinks"] is not None:
        rule["sinks"] = rule["sinks"].to(on_device[0].device)
    found = span_mass(*on_device, case.query(), backend=backend_name, **rule)
    assert not found.lse.requires_grad
    for mine, true in zip(
        of_mass(found.mass.cpu(), given), true_gradients(case, torch.float32), strict=True
    ):
        assert worst(mine, true) <= 2e-5 * max(1.0, true.abs().amax().item())


def test_a_second_derivative_is_refused() -> None:
    given = leaves(CASES[0], torch.float32)
    found = mass_by(by_blocks, CASES[0], given)
    (grad,) = torch.autograd.grad(found.square().sum(), given[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="cannot be differentiated a second time"):
        grad.sum().backward(retain_graph=True)
    for leaf in given:  # also where there is another way to it
        with pytest.raises(RuntimeError, match="cannot be differentiated a second time"):
            torch.autograd.grad(grad.sum() + leaf.sum(), leaf, retain_graph=True)


def test_a_training_step_does_plain_attention_and_three_products_of_the_rows() -> None:
    """Compare with a step that only watches the mass: S, dq and dk of the rows are added."""
    length, rows, heads, width, labelled = 256, 16, 4, 16, 5
    labels = torch.zeros(1, length, dtype=torch.int32)
    labels[0, :labelled] = 1
    asked = torch.arange(length - rows, length)
    query = SpanQuery(labels, asked, torch.tensor([[0, 0, length]]).int(), ("first",))
    case = Case("step", queries=length, keys=length)

    def added(total: Any, a: Any, b: Any, out_shape: Any = None, **_: Any) -> int:
        return int(2 * a[0] * a[1] * a[2] * b[2])

    in_place = {torch.ops.aten.baddbmm_: added}  # which the counter does not know by itself

    def step(mass_grad: bool) -> int:
        q, k, v = (x.detach().requires_grad_() for x in case.tensors(torch.float32))
        with FlopCounterMode(display=False, custom_mapping=in_place) as counter:
            found = span_attention(q, k, v, query, backend="lse", mass_grad=mass_grad)
            (found.out.sum() + (found.mass.sum() if mass_grad else 0.0)).backward()
        return counter.get_total_flops()

    step(True)  # a query's plan is made once
    of_spans = 2 * rows * heads * labelled  # what each key in a span gets of each row
    wanted = 3 * 2 * rows * heads * length * width + of_spans
    assert step(True) - step(False) == wanted


@pytest.mark.parametrize(
    "case", [CASES[0], Case("packed", segments=((0, 0, 10), (0, 20, 37)), window=5)], ids=str
)
def test_the_kernels_stand_beside_any_attention(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let backend "lse" take the kernels, as it does on a card, with a CPU's own attention."""
    monkeypatch.setattr(mass, "trusted_kernels", lambda *of: backend)
    for mine, true in zip(
        gradients(case, torch.float32, "lse", DEVICE),
        gradients(case, torch.float64, "reference", DEVICE),
        strict=True,
    ):
        assert worst(mine, true) <= 2e-5 * max(1.0, true.abs().max().item())


def test_no_softmax_is_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: Any) -> Any:
        raise AssertionError("a logsumexp of the rows was computed beside the attention's own")

    monkeypatch.setattr(mass, "logsumexp", refuse)
    q, k, v = (x.detach().requires_grad_() for x in CASES[0].tensors(torch.float32))
    lse.attention(q, k, v, CASES[0].query(), LogitRule(0.4), True).mass.sum().backward()
    assert q.grad is not None


# --- the operators ---


def flat(case: Case, dtype: torch.dtype) -> tuple[Any, ...]:
    """Return a call's arguments as the operator ``connected_mass`` takes them."""
    given = [x.detach().to(DEVICE).requires_grad_() for x in leaves(case, dtype)]
    rule, query = rule_of(case, given), case.query().to(given[0].device)
    made = layout(query, case.batch, case.queries, case.keys, case.window)
    fields = [getattr(made, name) for name in made.__dataclass_fields__]
    rows, heads = len(query.rows), case.heads
    return (
        torch.rand(rows, heads, 3, device=DEVICE),
        *given[:2],
        rule.sinks,
        torch.full((rows, heads), 4.0, device=DEVICE),
        *fields,
        row_bounds(query, made, case.window),
        rule.scale,
        rule.softcap or 0.0,
    )


@pytest.mark.parametrize(
    "case",
    [
        Case("plain", queries=18, keys=20, heads=2, kv_heads=1),
        Case("all", queries=20, keys=20, heads=2, sinks=True, softcap=2.0, window=5),
    ],
    ids=str,
)
def test_the_operators_keep_the_rules_of_torch_library(case: Case) -> None:
    arguments = flat(case, torch.float32)
    torch.library.opcheck(connected_mass, arguments)
    *tensors, scale, softcap = (x.detach() if isinstance(x, Tensor) else x for x in arguments)
    given = (*tensors, torch.rand_like(tensors[0]), scale, softcap)
    torch.library.opcheck(connected_mass_backward, given)


@each_way
def test_a_compiled_function_stays_one_graph(way: Way) -> None:
    case = Case("compiled", queries=20, keys=20, heads=2, sinks=True)
    device = torch.device(DEVICE if way is by_triton else "cpu")
    q, k, sinks = (x.detach().to(device).requires_grad_() for x in leaves(case, torch.float32))
    query, known = case.query().to(device), torch.full((1, 2, 20), 5.0, device=device)

    def function(q: Tensor, k: Tensor, sinks: Tensor) -> Tensor:
        rule = LogitRule(0.4, sinks=sinks)
        if way is by_triton:
            return 3 * backend.mass_of_rows(2 * q, k, known, query, rule)
        return 3 * mass.of_rows(2 * q, k, known, query, plan(query, 1, 20, 20), rule)

    wanted = function(q, k, sinks)
    found = torch.compile(function, fullgraph=True, backend="aot_eager")(q, k, sinks)
    assert worst(found.detach(), wanted.detach()) <= 1e-6
    for mine, true in zip(
        torch.autograd.grad(found.square().sum(), (q, k, sinks)),
        torch.autograd.grad(wanted.square().sum(), (q, k, sinks)),
        strict=True,
    ):
        assert worst(mine, true) <= 1e-6 * max(1.0, true.abs().amax().item())


@pytest.mark.parametrize("scale", [-0.4, 0.0])
def test_scales_need_not_be_positive(scale: float) -> None:
    case = Case("scale", queries=20, keys=20, heads=2)
    found = []
    for name in ("triton", "reference"):
        given = [x.detach().to(DEVICE).requires_grad_() for x in case.tensors(torch.float32)[:2]]
        made = span_mass(*given, case.query(), backend=name, scale=scale).mass
        found.append(torch.autograd.grad(made.square().sum(), given))
    for mine, true in zip(*found, strict=True):
        assert worst(mine, true) <= 1e-5
