"""Test the Triton kernels against the definition in float64: on a GPU, or interpreted on a CPU.

The interpreter multiplies bfloat16 as raw bits, so bfloat16 is tested on GPUs only, and float64
under the interpreter only.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from op_cases import CASES, EMPTY_CASES, Case
from op_truth import gradients, plain_pytorch, rounded_logits, truth, worst
from sra_fast import SpanQuery, span_attention, span_mass
from sra_fast.kernels.contract import LogitRule
from sra_fast.kernels.triton_kernels import backend, configurations, decode
from sra_fast.kernels.triton_kernels.layout import layout
from sra_fast.kernels.triton_kernels.operators import (
    fused_attention,
    fused_mass,
    span_mass_of_lse,
)

ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"
DTYPES = (torch.float32, torch.float16, *((torch.bfloat16,) if ON_GPU else ()))
FLOOR = {torch.float32: 2e-6, torch.float16: 1e-5, torch.bfloat16: 1e-5}

pytestmark = pytest.mark.usefixtures("unwritten_memory_is_nan")


def _grid() -> list[Case]:
    """Return the shared grid of cases, and those that are particular to these kernels.

    Interpreted tiles are small, so lengths that cross several blocks elsewhere are shorter here.
    """
    return [
        *(case for case in CASES if case.queries <= 300),
        Case("full tiles between edges", queries=130, keys=130, window=70),
        Case("head width 80", width=80, value_width=80),
        Case("head width 96, values of 64", width=96, value_width=64),
        Case("head width 256", width=256, value_width=256, queries=20, keys=20),
        Case("decode, packed heads", heads=8, kv_heads=2, batch=2, queries=3, keys=70),
        Case("decode, window", queries=4, keys=90, window=21, rows="all"),
        Case("decode, softcap and sinks", queries=2, keys=90, softcap=2.0, sinks=True, rows="all"),
        Case("decode, many spans", queries=2, keys=60, spans="many", rows="all"),
        Case("decode over several splits", queries=2, keys=1100, heads=2, kv_heads=1, rows="all"),
        Case(
            "decode, left padding",
            batch=2,
            queries=3,
            keys=70,
            segments=((0, 0, 70), (1, 33, 70)),
            rows="all",
        ),
        Case("rows of several batches in one tile", batch=5, queries=9, keys=9, rows="all"),
    ]


GRID = _grid()
each_case = pytest.mark.parametrize("case", GRID, ids=str)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])


@each_dtype
@each_case
def test_out_mass_and_lse_are_those_of_the_definition(case: Case, dtype: torch.dtype) -> None:
    inputs, rule = case.tensors(dtype, DEVICE), case.rule(dtype, DEVICE)
    wanted = truth(case, inputs, rule)
    found = span_attention(*inputs, case.query(), backend="triton", **rule)
    plain = plain_pytorch(case, inputs, rule)
    floor = FLOOR[dtype] + rounded_logits(case, inputs, rule)
    assert found.out.dtype == dtype
    assert found.mass.dtype == found.lse.dtype == torch.float32
    for mine, true, theirs in zip(
        (found.out, found.mass, found.lse),
        (wanted.out, wanted.mass, wanted.lse),
        plain,
        strict=True,
    ):
        assert worst(mine, true) <= 2 * worst(theirs, true) + floor


@each_case
def test_masses_are_kept_in_float32_whatever_the_inputs(case: Case) -> None:
    inputs, rule = case.tensors(torch.float16, DEVICE), case.rule(torch.float16, DEVICE)
    found = span_attention(*inputs, case.query(), backend="triton", **rule)
    limit = 4e-6 + rounded_logits(case, inputs, rule)
    assert worst(found.mass, truth(case, inputs, rule).mass) <= limit


@each_case
def test_mass_alone_equals_the_mass_beside_the_output(case: Case) -> None:
    inputs, rule = case.tensors(torch.float32, DEVICE), case.rule(torch.float32, DEVICE)
    wanted = truth(case, inputs, rule)
    found = span_mass(*inputs[:2], case.query(), backend="triton", **rule)
    rows = case.query().rows.to(DEVICE)
    moved = rounded_logits(case, inputs, rule)
    assert worst(found.mass, wanted.mass) <= 2e-6 + moved
    lse = wanted.lse.transpose(1, 2).flatten(0, 1)[rows]
    assert worst(found.lse, lse) <= 1e-5 + 2 * moved  # a whole logit's error


@each_case
def test_mass_follows_from_another_kernels_logsumexp(case: Case) -> None:
    inputs, rule = case.tensors(torch.float32, DEVICE), case.rule(torch.float32, DEVICE)
    wanted = truth(case, inputs, rule)
    lse = wanted.lse.float().transpose(1, 2).contiguous().transpose(1, 2)  # [B, M, Hq] in memory
    found = backend.mass_of_lse(*inputs[:2], lse, case.query().to(lse.device), LogitRule(**rule))
    assert worst(found, wanted.mass) <= 5e-6


@each_case
def test_gradients_are_those_of_float64_autograd(case: Case) -> None:
    for mine, true in zip(
        gradients(case, torch.float32, "triton", DEVICE),
        gradients(case, torch.float64, "reference", DEVICE),
        strict=True,
    ):
        assert worst(mine, true) <= 2e-5 * max(1.0, true.abs().max().item())


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("case", [GRID[0], Case("softcap", softcap=2.0, window=9)], ids=str)
def test_gradients_in_half_precision_are_as_good_as_plain_pytorchs(
    case: Case, dtype: torch.dtype
) -> None:
    """Compare with the reference's autograd on the rounded inputs, in the same dtype."""
    case = replace(case, sinks=False)
    found = gradients(case, dtype, "triton", DEVICE)
    for mine, true in zip(found, gradients(case, torch.float64, "reference", DEVICE), strict=True):
        error = (mine.double() - true).pow(2).mean().sqrt() / true.pow(2).mean().sqrt()
        assert error.item() <= 4 * torch.finfo(dtype).eps


@pytest.mark.skipif(ON_GPU, reason="float64 is for the interpreter")
@pytest.mark.parametrize("change", [{}, {"sinks": True}, {"softcap": 1.5}, {"window": 3}], ids=str)
def test_gradcheck(change: dict[str, Any]) -> None:
    case = Case("tiny", heads=2, kv_heads=1, queries=6, keys=6, width=4, value_width=3, **change)
    rule = case.rule(torch.float64)
    sinks = rule.pop("sinks")
    leaves = [x.detach().requires_grad_() for x in case.tensors(torch.float64)]
    if sinks is not None:
        leaves.append(sinks.requires_grad_())

    def function(*x: Tensor) -> tuple[Tensor, Tensor]:
        sink = x[3] if len(x) > 3 else None
        result = span_attention(*x[:3], case.query(), backend="triton", sinks=sink, **rule)
        return result.out, result.mass

    assert torch.autograd.gradcheck(function, leaves, fast_mode=True)


def test_without_a_gradient_of_the_mass_only_the_output_has_one() -> None:
    q, k, v = (x.detach().requires_grad_() for x in GRID[0].tensors(torch.float32, DEVICE))
    result = span_attention(q, k, v, GRID[0].query(), backend="triton", mass_grad=False)
    assert result.out.requires_grad
    assert not result.mass.requires_grad
    assert not result.lse.requires_grad
    wanted = span_attention(q, k, v, GRID[0].query(), backend="reference", mass_grad=False)
    for mine, true in zip(
        torch.autograd.grad(result.out.sum(), (q, k, v)),
        torch.autograd.grad(wanted.out.sum(), (q, k, v)),
        strict=True,
    ):
        assert worst(mine, true) <= 2e-5


def test_a_loss_of_the_mass_alone_and_one_without_it() -> None:
    for which in ("mass", "out"):
        grads = []
        for name in ("triton", "reference"):
            q, k, v = (x.detach().requires_grad_() for x in GRID[0].tensors(torch.float32, DEVICE))
            result = span_attention(q, k, v, GRID[0].query(), backend=name)
            getattr(result, which).square().sum().backward()
            grads.append([torch.zeros_like(x) if x.grad is None else x.grad for x in (q, k, v)])
        for mine, true in zip(*grads, strict=True):
            assert worst(mine, true) <= 2e-5 * max(1.0, true.abs().max().item())


@pytest.mark.parametrize("case", [GRID[0], Case("packed", segments=((0, 0, 20), (0, 20, 37)))])
def test_the_same_bits_in_every_run(case: Case) -> None:
    dtype = torch.float16
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            gradients(case, dtype, "triton", DEVICE),
            gradients(case, dtype, "triton", DEVICE),
            strict=True,
        )
    )


@pytest.mark.parametrize("scale", [-0.4, 0.0])
def test_scales_need_not_be_positive(scale: float) -> None:
    inputs = GRID[0].tensors(torch.float32, DEVICE)
    found = span_attention(*inputs, GRID[0].query(), backend="triton", scale=scale)
    wanted = span_attention(*inputs, GRID[0].query(), backend="reference", scale=scale)
    assert worst(found.out, wanted.out) <= 1e-5
    assert worst(found.mass, wanted.mass) <= 2e-6


def test_sinks_may_lie_anywhere_in_memory() -> None:
    case = Case("sinks", sinks=True)
    inputs, rule = case.tensors(torch.float32, DEVICE), case.rule(torch.float32, DEVICE)
    wide = torch.full((case.heads, 2), 50.0, device=DEVICE)
    wide[:, 0] = rule["sinks"]
    for sinks in (wide[:, 0], rule["sinks"][:1].expand(case.heads)):
        rule["sinks"] = sinks
        found = span_attention(*inputs, case.query(), backend="triton", **rule)
        assert worst(found.out, truth(case, inputs, rule).out) <= 1e-5


def test_a_large_softcap_hardly_changes_a_logit() -> None:
    case = Case("large softcap", softcap=1e4)
    inputs, rule = case.tensors(torch.float32, DEVICE), case.rule(torch.float32, DEVICE)
    found = span_attention(*inputs, case.query(), backend="triton", **rule)
    wanted = truth(case, inputs, rule)
    assert worst(found.lse, wanted.lse) <= 2e-5
    assert worst(found.mass, wanted.mass) <= 5e-6


def test_a_window_beyond_every_length_is_none() -> None:
    case = Case("endless window", window=2**63 - 1)
    for mine, true in zip(
        gradients(case, torch.float32, "triton", DEVICE),
        gradients(replace(case, window=None), torch.float64, "reference", DEVICE),
        strict=True,
    ):
        assert worst(mine, true) <= 2e-5 * max(1.0, true.abs().max().item())


@pytest.mark.parametrize("name", ["triton", "lse"])
def test_a_query_asked_without_gradients_serves_training_too(name: Any) -> None:
    inputs, query = GRID[0].tensors(torch.float32, DEVICE), GRID[0].query()
    with torch.inference_mode():
        span_attention(*inputs, query, backend=name)
    q, k, v = (x.detach().requires_grad_() for x in inputs)
    span_attention(q, k, v, query, backend=name).mass.sum().backward()
    assert q.grad is not None


@pytest.mark.skipif(ON_GPU, reason="tiles of the interpreter")
@pytest.mark.parametrize("tiles", [(16, 64), (64, 16)], ids=str)
@pytest.mark.parametrize(
    "case",
    [
        Case("window", queries=70, keys=70, window=25),
        Case("packed", queries=70, keys=70, segments=((0, 0, 20), (0, 33, 70)), sinks=True),
    ],
    ids=str,
)
def test_tiles_of_other_shapes_give_the_same(
    case: Case, tiles: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = configurations.Configuration(*tiles, 4, 1)
    monkeypatch.setattr(configurations, "INTERPRETED", dict.fromkeys(configurations.Kernel, shape))
    inputs, rule = case.tensors(torch.float32, DEVICE), case.rule(torch.float32, DEVICE)
    found = span_attention(*inputs, case.query(), backend="triton", **rule)
    wanted = truth(case, inputs, rule)
    assert worst(found.out, wanted.out) <= 1e-5
    assert worst(found.mass, wanted.mass) <= 2e-6
    for mine, true in zip(
        gradients(case, torch.float32, "triton", DEVICE),
        gradients(case, torch.float64, "reference", DEVICE),
        strict=True,
    ):
        assert worst(mine, true) <= 2e-5 * max(1.0, true.abs().max().item())


@pytest.mark.parametrize("case", EMPTY_CASES, ids=str)
def test_nothing_in_gives_nothing_out(case: Case) -> None:
    inputs, rule = case.tensors(torch.float32, DEVICE), case.rule(torch.float32, DEVICE)
    result = span_attention(*inputs, case.query(), backend="triton", **rule)
    assert result.out.shape == (case.batch, case.heads, case.queries, case.value_width)
    assert result.mass.shape == (0, case.heads, 3)


def test_few_queries_are_decoded_and_many_are_not() -> None:
    few, many = Case("few", queries=16), Case("many", queries=17)
    assert decode.serves(*few.tensors(torch.float32)[::2])
    assert not decode.serves(*many.tensors(torch.float32)[::2])
    assert not decode.serves(
        *Case("wide", heads=8, queries=16, width=256).tensors(torch.float32)[::2]
    )
    wide = Case("one key head for 16", heads=16, kv_heads=1, queries=16)
    assert not decode.serves(*wide.tensors(torch.float32)[::2])


def _flat(case: Case, dtype: torch.dtype) -> tuple[Any, ...]:
    """Return a call's arguments as the operator ``fused_attention`` takes them."""
    q, k, v = (x.detach().requires_grad_() for x in case.tensors(dtype, DEVICE))
    rule, query = case.rule(dtype, DEVICE), case.query().to(q.device)
    made = layout(query, case.batch, case.queries, case.keys, case.window)
    sinks = rule["sinks"]
    fields = [getattr(made, name) for name in made.__dataclass_fields__]
    return q, k, v, sinks, *fields, len(query.names), rule["scale"], rule["softcap"] or 0.0, True


@pytest.mark.parametrize(
    "case",
    [
        Case("plain", queries=20, keys=20),
        Case("sinks, softcap, window", queries=20, keys=20, sinks=True, softcap=2.0, window=5),
        Case("decode", queries=2, keys=20),
    ],
    ids=str,
)
def test_the_operator_keeps_the_rules_of_torch_library(case: Case) -> None:
    arguments = _flat(case, torch.float32)
    torch.library.opcheck(fused_attention, arguments)
    detached = tuple(x.detach() if isinstance(x, Tensor) else x for x in arguments)
    q, k, _, sinks, *rest, _mass_grad = detached
    torch.library.opcheck(fused_mass, (q, k, sinks, *rest))
    lse = torch.zeros(case.batch, case.heads, case.queries, device=DEVICE)
    torch.library.opcheck(span_mass_of_lse, (q, k, lse, *rest))


def test_a_compiled_function_stays_one_graph() -> None:
    case = GRID[0]
    query = case.query().to(torch.device(DEVICE))

    def function(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        result = span_attention(2 * q, k, v, query, backend="triton", scale=0.4)
        return result.out.sin(), result.mass * 3

    inputs = [x.detach().requires_grad_() for x in case.tensors(torch.float32, DEVICE)]
    wanted = function(*inputs)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    found = compiled(*inputs)
    for mine, true in zip(found, wanted, strict=True):
        assert worst(mine.detach(), true.detach()) <= 1e-6
    mine = torch.autograd.grad(found[0].sum() + found[1].sum(), inputs)
    true = torch.autograd.grad(wanted[0].sum() + wanted[1].sum(), inputs)
    for a, b in zip(mine, true, strict=True):
        assert worst(a, b) <= 1e-6


@pytest.mark.parametrize(
    ("message", "case", "dtype"),
    [
        ("widths D and Dv of 1 to 256, got 257 and 16", Case("wide", width=257), torch.float32),
        ("got 16 and 300", Case("wide values", value_width=300), torch.float32),
        pytest.param(
            r"got torch\.bfloat16",
            GRID[0],
            torch.bfloat16,
            marks=pytest.mark.skipif(ON_GPU, reason="the interpreter's limit"),
        ),
        pytest.param(
            r"got torch\.float64",
            GRID[0],
            torch.float64,
            marks=pytest.mark.skipif(not ON_GPU, reason="a GPU's limit"),
        ),
    ],
)
def test_what_is_not_served_is_named(message: str, case: Case, dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=message):
        span_attention(*case.tensors(dtype, DEVICE), case.query(), backend="triton")
    with pytest.raises(ValueError, match='use backend="auto"'):
        span_attention(*case.tensors(dtype, DEVICE), case.query(), backend="triton")


@pytest.mark.skipif(not ON_GPU, reason="needs a GPU with 16 GB free")
def test_offsets_beyond_two_billion_elements() -> None:
    """Use more than 2³¹ elements in q: 33 heads of 524,288 queries of width 128, in bf16."""
    length, heads = 524_288, 33
    q = torch.randn(1, length, heads, 128, device=DEVICE, dtype=torch.bfloat16).transpose(1, 2)
    k = torch.randn(1, length, 1, 128, device=DEVICE, dtype=torch.bfloat16).transpose(1, 2)
    labels = torch.zeros(1, length, dtype=torch.int32)
    labels[0, -40:] = 1
    rows = torch.tensor([length - 3, length - 1])
    query = SpanQuery(labels, rows, torch.tensor([[0, 0, length]]).int(), ("last",))
    found = span_attention(q, k, k, query, backend="triton", window=64)
    tail = span_attention(
        q[:, :, -256:].contiguous(),
        k[:, :, -256:].contiguous(),
        k[:, :, -256:].contiguous(),
        SpanQuery(labels[:, -256:], rows - length + 256, torch.tensor([[0, 0, 256]]).int(), ("x",)),
        backend="reference",
        window=64,
    )
    assert worst(found.mass, tail.mass) <= 1e-4
    assert worst(found.out[:, :, -128:], tail.out[:, :, -128:]) <= 2e-2
