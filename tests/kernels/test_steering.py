"""Test steered attention against the reference, which adds the bias to its logits."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

import sra_fast
from op_cases import CASES, EMPTY_CASES, Case
from op_truth import worst
from sra_fast import SpanQuery, Steering, span_attention
from sra_fast.kernels import reference
from sra_fast.kernels.contract import ProfileQuery
from sra_fast.kernels.steering import SteeredGradientError
from steering_truth import exact, steering

BIASES = (-math.inf, -3.0, 0.0, 2.5, 20.0, 100.0)
PLAIN = CASES[0]
pytestmark = pytest.mark.usefixtures("unwritten_memory_is_nan")
each_bias = pytest.mark.parametrize("bias", BIASES)
each_case = pytest.mark.parametrize("case", CASES, ids=str)


def eager(case: Case, inputs: tuple[Tensor, ...], rule: dict[str, Any], steer: Steering) -> Tensor:
    """Return the output of eager softmax in the inputs' own dtype, with the bias in its mask."""
    q, k, v = inputs
    assert steer.bias is not None
    k, v = (x.repeat_interleave(case.heads // case.kv_heads, 1) for x in (k, v))
    logits = (q @ k.transpose(2, 3)) * rule["scale"]
    if rule["softcap"]:
        logits = rule["softcap"] * torch.tanh(logits / rule["softcap"])
    seen = reference.visibility(case.query(), case.batch, case.queries, case.keys, case.window)
    biased = steer.span[:, None, None].expand(logits.shape)
    if steer.rows is not None:
        biased = biased & steer.rows[:, None, :, None]
    if steer.heads is not None:
        biased = biased & steer.heads[:, None, None]
    logits = torch.where(biased, logits + steer.bias, logits).masked_fill(~seen[:, None], -math.inf)
    if rule["sinks"] is not None:
        sinks = rule["sinks"].reshape(1, -1, 1, 1).expand(*logits.shape[:3], 1)
        logits = torch.cat([logits, sinks], dim=-1)
    return torch.softmax(logits, dim=-1).nan_to_num(0)[..., : case.keys] @ v


@each_bias
@each_case
def test_out_mass_and_lse_are_those_of_biased_logits(case: Case, bias: float) -> None:
    inputs, rule = case.tensors(torch.float32), case.rule(torch.float32)
    steer = steering(case, part=CASES.index(case) % 2 == 0, bias=bias)
    wanted = exact(case, inputs, rule, steer=steer)
    found = span_attention(*inputs, case.query(), steer=steer, **rule)
    assert found.mass.dtype == found.lse.dtype == torch.float32
    for name in ("out", "mass", "lse"):
        assert worst(getattr(found, name), getattr(wanted, name)) <= 1e-5


@each_bias
@pytest.mark.parametrize("case", CASES[::4], ids=str)
def test_in_bfloat16_the_output_is_as_good_as_that_of_eager_attention(
    case: Case, bias: float
) -> None:
    inputs, rule = case.tensors(torch.bfloat16), case.rule(torch.bfloat16)
    steer = steering(case, part=CASES.index(case) % 8 == 0, bias=bias)
    wanted = exact(case, inputs, rule, steer=steer)
    found = span_attention(*inputs, case.query(), steer=steer, **rule)
    plain = eager(case, inputs, rule, steer)
    assert found.out.dtype == torch.bfloat16
    assert worst(found.out, wanted.out) <= worst(plain, wanted.out) + 1e-4
    assert worst(found.mass, wanted.mass) <= 2e-4


@each_bias
def test_the_reference_itself_adds_the_bias_to_its_logits(bias: float) -> None:
    for case in [case for case in CASES[::3] if case.keys < 400]:
        inputs, rule = case.tensors(torch.float64), case.rule(torch.float64)
        steer = steering(case, part=True, bias=bias)
        found = span_attention(*inputs, case.query(), steer=steer, backend="reference", **rule)
        assert worst(found.out, eager(case, inputs, rule, steer)) <= 1e-12


@pytest.mark.parametrize("strength", [{"bias": -math.inf}, {"bias": -3.0}, {"share": 0.5}], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=lambda x: str(x)[6:])
@pytest.mark.parametrize("lead", [2.0, 6.0, 9.0, 14.0, 30.0])
def test_a_span_with_nearly_all_the_attention_is_lowered_exactly(
    lead: float, dtype: torch.dtype, strength: dict[str, float]
) -> None:
    """The span's logits lead the others by so much that its mass reaches 1 in float32."""
    case = Case("ahead", queries=60, keys=60)
    q, k, v = (x.double() / 3 for x in case.tensors(dtype))
    q[..., 0], k[..., 0] = 4.0, 0.0
    k[:, :, 10:20, 0] = lead
    inputs = tuple(x.to(dtype) for x in (q, k, v))
    span = torch.zeros(1, 60, dtype=torch.bool)
    span[:, 10:20] = True
    steer = Steering(span, exact="share" in strength, **strength)
    rule = {"scale": 0.25}
    wanted = exact(case, inputs, rule, steer=steer)
    found = span_attention(*inputs, case.query(), steer=steer, **rule)
    ulp = 2.0**-7 if dtype == torch.bfloat16 else 1e-6
    assert worst(found.out, wanted.out) <= 2 * ulp * wanted.out.abs().max().item()
    # PyTorch's flash kernel gives a logsumexp that is good to 7e-5 in half precision.
    assert worst(found.mass, wanted.mass) <= (1e-4 if dtype == torch.bfloat16 else 2e-6)


@pytest.mark.parametrize("case", CASES[::3], ids=str)
def test_no_bias_changes_nothing(case: Case) -> None:
    inputs, rule = case.tensors(torch.float32), case.rule(torch.float32)
    plain = span_attention(*inputs, case.query(), **rule)
    found = span_attention(*inputs, case.query(), steer=steering(case, part=False, bias=0), **rule)
    assert torch.equal(found.out, plain.out)
    assert torch.equal(found.lse, plain.lse)
    assert worst(found.mass, plain.mass) <= 1e-6


def of_span(case: Case, steer: Steering, seen: Tensor) -> tuple[SpanQuery, Tensor, Tensor]:
    """Ask every row for its mass on the steered span; say which rows see the span, and more."""
    given = case.query()
    rows = torch.arange(case.batch * case.queries)
    query = SpanQuery(steer.span.int(), rows, given.segments, ("span",))
    span = steer.span[:, None]
    return query, (seen & span).any(-1).flatten(), (seen & ~span).any(-1).flatten()


@pytest.mark.parametrize("exactly", [False, True])
@pytest.mark.parametrize("share", [0.02, 0.4, 0.999])
@pytest.mark.parametrize("case", CASES[1::2], ids=str)
def test_a_share_is_reached_by_every_row_that_can(case: Case, share: float, exactly: bool) -> None:
    inputs, rule = case.tensors(torch.float32), case.rule(torch.float32)
    steer = steering(case, part=False, share=share, exact=exactly)
    seen = reference.visibility(case.query(), case.batch, case.queries, case.keys, case.window)
    query, sees_span, sees_rest = of_span(case, steer, seen)
    before = span_attention(*inputs, query, **rule).mass[..., 0]  # [R, Hq]
    after = span_attention(*inputs, query, steer=steer, **rule).mass[..., 0]
    can = sees_span & (sees_rest | case.sinks)
    wanted = torch.full_like(before, share)
    wanted = wanted if exactly else wanted.maximum(before)
    torch.testing.assert_close(after[can], wanted[can], rtol=0, atol=1e-5)
    torch.testing.assert_close(after[~can], before[~can], rtol=0, atol=1e-6)


@pytest.mark.parametrize("bias", [-0.5, -3.0, -20.0, -100.0])
@each_case
def test_a_span_of_most_keys_is_lowered_as_exactly(case: Case, bias: float) -> None:
    """Where there is no sink, the few others are raised instead."""
    inputs, rule = case.tensors(torch.float32), case.rule(torch.float32)
    few = steering(case, part=CASES.index(case) % 2 == 0, bias=bias)
    steer = Steering(~few.span, bias=bias, rows=few.rows, heads=few.heads)
    wanted = exact(case, inputs, rule, steer=steer)
    found = span_attention(*inputs, case.query(), steer=steer, **rule)
    for name in ("out", "mass", "lse"):
        assert worst(getattr(found, name), getattr(wanted, name)) <= 1e-5


@pytest.mark.parametrize("exactly", [False, True])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.9, 0.97, 0.999])
def test_the_output_under_a_share_is_that_of_the_reference(share: float, exactly: bool) -> None:
    for case in CASES:
        inputs, rule = case.tensors(torch.float32), case.rule(torch.float32)
        steer = steering(case, part=False, share=share, exact=exactly)
        wanted = exact(case, inputs, rule, steer=steer)
        found = span_attention(*inputs, case.query(), steer=steer, **rule)
        assert worst(found.out, wanted.out) <= 1e-5, case
        assert worst(found.mass, wanted.mass) <= 1e-5, case


@pytest.mark.parametrize("share", [0.95, 1 - 1e-9])
@pytest.mark.parametrize("exactly", [False, True])
def test_a_high_share_is_exact_where_the_span_has_nearly_all_already(
    share: float, exactly: bool
) -> None:
    case = Case("nearly all", queries=40, keys=40)
    q, k, v = case.tensors(torch.float32)
    q[..., 0], k[..., 0], k[:, :, ::3, 0] = 3.0, 0.0, 12.0
    steer = Steering(torch.arange(40)[None] % 3 == 0, share=share, exact=exactly)
    rule = case.rule(torch.float32)
    wanted = exact(case, (q, k, v), rule, steer=steer)
    found = span_attention(q, k, v, case.query(), steer=steer, **rule)
    for name in ("out", "mass", "lse"):
        assert worst(getattr(found, name), getattr(wanted, name)) <= 2e-5


def test_a_bias_on_float64_keeps_all_its_digits() -> None:
    inputs, rule = PLAIN.tensors(torch.float64), PLAIN.rule(torch.float64)
    steer = steering(PLAIN, part=False, bias=0.1)
    wanted = exact(PLAIN, inputs, rule, steer=steer)
    lse = span_attention(*inputs, PLAIN.query(), steer=Steering(steer.span, bias=0.0), **rule).lse
    mass = torch.exp(wanted.lse - lse)  # 1 + (e^0.1 − 1) · m, of m on the span
    query, _, _ = of_span(PLAIN, steer, torch.ones(1, 37, 37, dtype=torch.bool))
    before = span_attention(*inputs, query, **rule).mass[..., 0].T[None]
    torch.testing.assert_close(mass, 1 + math.expm1(0.1) * before, rtol=0, atol=1e-13)


def test_a_row_of_the_span_alone_is_emptied_by_a_knock_out() -> None:
    inputs = PLAIN.tensors(torch.float32)
    span = torch.arange(37)[None] < 3
    for backend in ("auto", "reference"):
        found = span_attention(
            *inputs, PLAIN.query(), steer=Steering(span, bias=-math.inf), backend=backend
        )
        assert bool((found.out[:, :, :3] == 0).all())
        assert bool((found.lse[:, :, :3] == -math.inf).all())
        assert bool(found.lse[:, :, 3:].isfinite().all())


@pytest.mark.parametrize("by_head", [True, False])
@pytest.mark.parametrize("strength", [{"bias": -math.inf}, {"bias": 20.0}, {"share": 0.3}], ids=str)
def test_profiles_are_those_after_steering(strength: dict[str, float], by_head: bool) -> None:
    for name in ("left and right padding", "packed, sinks", "fewer queries than keys, window"):
        case = next(case for case in CASES if case.name == name)
        inputs, rule = case.tensors(torch.float32), case.rule(torch.float32)
        given = case.query()
        groups = (torch.arange(len(given.rows)) % 4 - 1).int()  # over both rows of a batch
        profile = ProfileQuery(groups, 4, by_head)
        query = SpanQuery(given.key_labels, given.rows, given.segments, given.names, profile)
        steer = steering(case, part=True, **strength)
        wanted = exact(case, inputs, rule, steer=steer, query=query).profile
        found = span_attention(*inputs, query, steer=steer, **rule).profile
        assert found is not None
        assert worst(found, wanted) <= 1e-5


@pytest.mark.parametrize("backend", ["lse", "lse:blocks", "lse:cpu_flash"])
def test_every_backend_is_steered(backend: Any) -> None:
    inputs, rule = PLAIN.tensors(torch.float32), PLAIN.rule(torch.float32)
    steer = steering(PLAIN, part=True, bias=-1.5)
    wanted = exact(PLAIN, inputs, rule, steer=steer)
    found = span_attention(*inputs, PLAIN.query(), steer=steer, backend=backend, **rule)
    assert worst(found.out, wanted.out) <= 1e-5


@pytest.mark.parametrize("case", EMPTY_CASES, ids=str)
def test_nothing_in_gives_nothing_out(case: Case) -> None:
    steer = steering(case, part=True, bias=2.0)
    found = span_attention(*case.tensors(torch.float32), case.query(), steer=steer)
    assert found.out.shape == (case.batch, case.heads, case.queries, case.value_width)


def test_a_span_that_was_written_into_is_read_again() -> None:
    inputs, span = PLAIN.tensors(torch.float32), torch.zeros(1, 37, dtype=torch.bool)
    steer = Steering(span, bias=5.0)
    first = span_attention(*inputs, PLAIN.query(), steer=steer).out
    span[:, 4:9] = True
    second = span_attention(*inputs, PLAIN.query(), steer=steer).out
    assert not torch.equal(first, second)
    assert worst(second, exact(PLAIN, inputs, {}, steer=steer).out) <= 1e-5


def test_a_gradient_is_refused() -> None:
    q, k, v = PLAIN.tensors(torch.float32)
    steer = steering(PLAIN, part=False, bias=1.0)
    with pytest.raises(SteeredGradientError, match=r"no_grad"):
        span_attention(q.requires_grad_(), k, v, PLAIN.query(), steer=steer)
    with torch.no_grad():
        assert span_attention(q, k, v, PLAIN.query(), steer=steer).out.shape == q.shape
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(q.detach(), torch.ones_like(q))
        with pytest.raises(SteeredGradientError):
            span_attention(dual, k, v, PLAIN.query(), steer=steer)


SPAN = torch.zeros(1, 37, dtype=torch.bool)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "either bias or share or pooled_share"),
        ({"bias": 1.0, "share": 0.5}, "either bias or share or pooled_share"),
        ({"bias": math.nan}, "bias: expected a number"),
        ({"bias": math.inf}, "bias: expected a number"),
        ({"bias": -1e4}, "bias: expected a number from -100 to 100"),
        ({"share": math.nan}, "share: expected a number between 0 and 1"),
        ({"share": 0.0}, "share: expected a number between 0 and 1"),
        ({"share": 1.0}, "share: expected a number between 0 and 1"),
        ({"share": -0.1}, "share: expected a number between 0 and 1"),
        ({"share": 0.5, "pooled_share": 0.5}, "either bias or share or pooled_share"),
        ({"pooled_share": 1.0}, "pooled_share: expected a number between 0 and 1"),
        ({"pooled_share": math.nan}, "pooled_share: expected a number between 0 and 1"),
        ({"pooled_share": 0.5, "exact": True}, "exact"),
        ({"bias": 1.0, "exact": True}, "exact"),
        ({"bias": 1.0, "span": SPAN.int()}, r"span: expected \[B, N\] torch.bool"),
        ({"bias": 1.0, "span": SPAN[0]}, r"span: expected \[B, N\]"),
        ({"bias": 1.0, "rows": SPAN[0]}, r"rows: expected \[B, M\]"),
        ({"bias": 1.0, "heads": torch.ones(4)}, r"heads: expected \[Hq\]"),
    ],
    ids=str,
)
def test_what_cannot_be_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^steer: .*{message}"):
        Steering(**{"span": SPAN, **arguments})


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("span", torch.zeros(1, 36, dtype=torch.bool)),
        ("rows", torch.zeros(2, 37, dtype=torch.bool)),
        ("heads", torch.zeros(3, dtype=torch.bool)),
    ],
)
def test_shapes_that_do_not_fit_the_call_are_named(name: str, tensor: Tensor) -> None:
    steer = Steering(**{"span": SPAN, name: tensor}, bias=1.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=f"steer: {name}: expected shape"):
        span_attention(*PLAIN.tensors(torch.float32), PLAIN.query(), steer=steer)


def test_no_tensor_is_named_too() -> None:
    with pytest.raises(TypeError, match="span: expected a tensor"):
        Steering([True], bias=1.0)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [True, "2", [2.0], torch.tensor(0.5), 2j], ids=repr)
@pytest.mark.parametrize("name", ["bias", "share"])
def test_what_is_no_number_is_named(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"steer: {name}: expected a number, got"):
        Steering(SPAN, **{name: value})


def test_an_explanation_says_how_a_call_is_steered() -> None:
    inputs, steer = PLAIN.tensors(torch.float32), Steering(SPAN, bias=1.0)
    assert "epilogue" in str(sra_fast.explain(*inputs, PLAIN.query(), steer=steer))
    told = sra_fast.explain(*inputs, PLAIN.query(), steer=steer, backend="reference")
    assert "to its logits" in told.why
    assert "steering" not in str(sra_fast.explain(*inputs, PLAIN.query()))
