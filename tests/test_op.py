"""Test the op against its own definition in float64, over the whole grid."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from op_cases import CASES, EMPTY_CASES, Case
from op_truth import gradients, plain_pytorch, truth, worst
from sra_fast import SpanQuery, span_attention, span_mass
from sra_fast.kernels import blocks

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# In half precision PyTorch's flash kernel sums approximate exponentials: its float32 logsumexp is
# good to 7e-5, which shows where plain PyTorch is exact by luck (a softmax over a single key).
FLOOR = {torch.float32: 2e-6, torch.bfloat16: 1e-4, torch.float16: 1e-4}
pytestmark = pytest.mark.usefixtures("unwritten_memory_is_nan")
each_case = pytest.mark.parametrize("case", CASES, ids=str)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
each_backend = pytest.mark.parametrize("backend", ["reference", "lse"])


@each_dtype
@each_case
def test_out_mass_and_lse_are_those_of_the_definition(case: Case, dtype: torch.dtype) -> None:
    inputs, rule = case.tensors(dtype), case.rule(dtype)
    wanted = truth(case, inputs, rule)
    found = span_attention(*inputs, case.query(), backend="lse", **rule)
    plain = plain_pytorch(case, inputs, rule)
    assert found.out.dtype == dtype
    assert found.mass.dtype == found.lse.dtype == torch.float32
    for mine, true, theirs in zip(
        (found.out, found.mass, found.lse),
        (wanted.out, wanted.mass, wanted.lse),
        plain,
        strict=True,
    ):
        assert worst(mine, true) <= 2 * worst(theirs, true) + FLOOR[dtype]


@each_case
def test_masses_are_kept_in_float32_whatever_the_inputs(case: Case) -> None:
    inputs, rule = case.tensors(torch.bfloat16), case.rule(torch.bfloat16)
    found = span_mass(*inputs[:2], case.query(), **rule)
    assert worst(found.mass, truth(case, inputs, rule).mass) <= 2e-6


@each_backend
@each_case
def test_mass_alone_equals_the_mass_beside_the_output(case: Case, backend: Any) -> None:
    inputs, rule = case.tensors(torch.float32), case.rule(torch.float32)
    wanted = truth(case, inputs, rule)
    found = span_mass(*inputs[:2], case.query(), backend=backend, **rule)
    lse = wanted.lse.transpose(1, 2).flatten(0, 1)[case.query().rows]
    assert worst(found.mass, wanted.mass) <= 2e-6
    assert worst(found.lse, lse) <= 1e-5


@each_case
def test_gradients_are_those_of_float64_autograd(case: Case) -> None:
    for mine, true in zip(
        gradients(case, torch.float32, "lse"),
        gradients(case, torch.float64, "reference"),
        strict=True,
    ):
        assert worst(mine, true) <= 2e-5 * max(1.0, true.abs().max().item())


def test_the_gradient_of_the_mass_reaches_keys_outside_the_span() -> None:
    case = Case("one span", rows="all")
    q, k, v = (x.detach().requires_grad_() for x in case.tensors(torch.float32))
    labels = torch.zeros(1, 37, dtype=torch.int32)
    labels[0, 4] = 1
    query = SpanQuery(labels, torch.tensor([30]), torch.tensor([[0, 0, 37]]).int(), ("four",))
    span_attention(q, k, v, query).mass.sum().backward()
    assert k.grad is not None
    assert (k.grad[0, :, :31].abs().amax(dim=(0, 2)) > 0).all()
    assert (k.grad[0, :, 31:] == 0).all()


def test_watching_the_mass_in_training_gives_it_no_gradient() -> None:
    case = CASES[0]
    q, k, v = (x.detach().requires_grad_() for x in case.tensors(torch.float32))
    result = span_attention(q, k, v, case.query(), mass_grad=False)
    assert result.out.requires_grad
    assert not result.mass.requires_grad
    assert not result.lse.requires_grad


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
        result = span_attention(*x[:3], case.query(), backend="lse", sinks=sink, **rule)
        return result.out, result.mass

    assert torch.autograd.gradcheck(function, leaves)


@each_backend
@pytest.mark.parametrize("case", EMPTY_CASES, ids=str)
def test_nothing_in_gives_nothing_out(case: Case, backend: Any) -> None:
    rule = case.rule(torch.float32)
    result = span_attention(*case.tensors(torch.float32), case.query(), backend=backend, **rule)
    assert result.out.shape == (case.batch, case.heads, case.queries, case.value_width)
    assert result.mass.shape == (0, case.heads, 3)
    assert result.lse.shape == (case.batch, case.heads, case.queries)


@pytest.mark.parametrize("window", [None, 5], ids=["no window", "window"])
@pytest.mark.parametrize("queries", [20, 7, 1])
@pytest.mark.parametrize("scale", [-0.4, 0.0])
def test_scales_need_not_be_positive(scale: float, queries: int, window: int | None) -> None:
    case = Case("scale", queries=queries, keys=20, window=window)
    found, wanted = (
        span_attention(
            *case.tensors(torch.float32),
            case.query(),
            backend=backend,
            scale=scale,
            window=window,
        )
        for backend in ("lse", "reference")
    )
    for mine, true in zip(
        (found.out, found.mass, found.lse), (wanted.out, wanted.mass, wanted.lse), strict=True
    ):
        assert worst(mine, true) <= 1e-5


def test_blocks_of_any_size_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("blocks", queries=333, keys=333, window=40, softcap=3.0, rows="all")
    inputs, rule = case.tensors(torch.float32), case.rule(torch.float32)
    whole = span_attention(*inputs, case.query(), **rule)
    monkeypatch.setattr(blocks, "BLOCK_NUMBERS", 1)
    pieces = span_attention(*inputs, case.query(), **rule)
    assert worst(pieces.out, whole.out) <= 1e-6
    assert worst(pieces.mass, whole.mass) <= 1e-6


def test_a_query_is_read_once_for_all_layers() -> None:
    case = CASES[0]
    query = case.query()
    span_attention(*case.tensors(torch.float32), query)
    derived = dict(query._derived)
    span_attention(*case.tensors(torch.float32), query)
    assert derived.keys() == query._derived.keys()
    assert all(query._derived[key] is value for key, value in derived.items())


def _query(labels: Any = None, rows: Any = None, segments: Any = None, names: Any = ("a",)) -> Any:
    return SpanQuery(
        torch.zeros(1, 37, dtype=torch.int32) if labels is None else labels,
        torch.tensor([3]) if rows is None else rows,
        torch.tensor([[0, 0, 37]], dtype=torch.int32) if segments is None else segments,
        names,
    )


@pytest.mark.parametrize("part", ["key_labels", "rows", "segments"])
def test_a_query_that_is_written_into_is_read_again(part: str) -> None:
    case = Case("written into", batch=2)
    inputs, query = case.tensors(torch.float32), case.query()
    first = span_attention(*inputs, query).mass
    with torch.inference_mode():
        if part == "rows":
            query.rows[-1] -= 1
        else:
            getattr(query, part)[0] = 0
    wanted = span_attention(*inputs, replace(query), backend="reference").mass
    assert worst(first, wanted) > 1e-3
    assert worst(span_attention(*inputs, query).mass, wanted) <= 1e-6
    assert worst(span_mass(*inputs[:2], query).mass, wanted) <= 1e-6


@pytest.mark.parametrize(
    ("message", "make"),
    [
        (r"key_labels: expected \[B, N\]", lambda: _query(labels=torch.zeros(1, 37))),
        (r"rows: expected \[R\]", lambda: _query(rows=torch.tensor([3], dtype=torch.int32))),
        (r"segments: expected \[S, 3\]", lambda: _query(segments=torch.tensor([[0, 0, 37]]))),
        (r"segments: expected shape", lambda: _query(segments=torch.zeros(1, 2).int())),
        ("at most 31 spans", lambda: _query(names=tuple(map(str, range(32))))),
        ("span names must differ", lambda: _query(names=("a", "a"))),
        ("key_labels: expected a tensor", lambda: _query(labels=[[0]])),
    ],
)
def test_a_query_of_wrong_parts_is_refused(message: str, make: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        make()


@pytest.mark.parametrize(
    ("message", "query"),
    [
        ("expected shape", _query(labels=torch.zeros(1, 36, dtype=torch.int32))),
        ("beyond the 1 named spans", _query(labels=torch.full((1, 37), 2, dtype=torch.int32))),
        ("beyond the 1 named spans", _query(labels=torch.full((1, 37), -1, dtype=torch.int32))),
        ("rows: expected ascending", _query(rows=torch.tensor([3, 3]))),
        ("rows: expected ascending", _query(rows=torch.tensor([37]))),
        ("lies outside", _query(segments=torch.tensor([[1, 0, 37]], dtype=torch.int32))),
        ("lies outside", _query(segments=torch.tensor([[0, 0, 38]], dtype=torch.int32))),
        ("overlaps", _query(segments=torch.tensor([[0, 0, 9], [0, 8, 37]], dtype=torch.int32))),
    ],
)
@each_backend
def test_a_query_that_does_not_fit_is_refused(message: str, query: Any, backend: Any) -> None:
    with pytest.raises(ValueError, match=message):
        span_attention(*CASES[0].tensors(torch.float32), query, backend=backend)


@pytest.mark.parametrize(
    ("message", "change", "rule"),
    [
        ("expected q", {"q": (4, 37, 16)}, {}),
        ("do not agree", {"k": (1, 2, 37, 8)}, {}),
        ("do not agree", {"v": (1, 2, 36, 16)}, {}),
        ("multiple of Hkv", {"k": (1, 3, 37, 16), "v": (1, 3, 37, 16)}, {}),
        ("M <= N", {"q": (1, 4, 38, 16)}, {}),
        ("window", {}, {"window": 0}),
        ("softcap", {}, {"softcap": -1.0}),
        ("sinks: expected", {}, {"sinks": torch.zeros(3)}),
        ("sinks: expected floating point", {}, {"sinks": torch.zeros(4, dtype=torch.int64)}),
        ("torch.float32 on meta", {}, {"sinks": torch.zeros(4, device="meta")}),
        ("no backend 'flash'; there are auto, reference, lse, triton", {}, {"backend": "flash"}),
    ],
)
def test_tensors_that_do_not_fit_are_refused(message: str, change: Any, rule: Any) -> None:
    q, k, v = CASES[0].tensors(torch.float32)
    given = {"q": q, "k": k, "v": v} | {name: torch.zeros(s) for name, s in change.items()}
    with pytest.raises(ValueError, match=message):
        span_attention(given["q"], given["k"], given["v"], CASES[0].query(), **rule)


def test_a_string_is_no_tuple_of_names() -> None:
    query, names = CASES[0].query(), "strategy"
    with pytest.raises(TypeError, match="a tuple of str, got the string 'strategy'"):
        SpanQuery(query.key_labels, query.rows, query.segments, names)  # type: ignore[arg-type]


@each_backend
def test_tensors_without_numbers_are_refused(backend: Any) -> None:
    case = Case("meta")
    inputs = (x.to("meta") for x in case.tensors(torch.float32))
    with pytest.raises(ValueError, match="on the meta device"):
        span_attention(*inputs, case.query(), backend=backend)


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")  # PyTorch's own
@pytest.mark.parametrize("backend", ["lse", "lse:blocks", "reference"])
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_forward_mode_gives_the_derivative_or_an_error(backend: Any, softcap: float | None) -> None:
    case = Case("forward mode")
    q, k, v = case.tensors(torch.float64)

    def mass_of(queries: Tensor) -> Tensor:
        return span_attention(queries, k, v, case.query(), softcap=softcap, backend=backend).mass

    def mass_alone(queries: Tensor) -> Tensor:
        return span_mass(queries, k, case.query(), softcap=softcap, backend=backend).mass

    small = 1e-6 * torch.ones_like(q)
    true = (mass_of(q + small) - mass_of(q - small)) / 2e-6
    for function in (mass_of, mass_alone):
        with forward_ad.dual_level():
            followed = forward_ad.make_dual(q, torch.ones_like(q))
            if backend == "reference":
                assert worst(forward_ad.unpack_dual(function(followed)).tangent, true) <= 1e-6
                continue
            with pytest.raises(ValueError, match="no forward-mode derivative"):
                function(followed)


def test_mixed_and_unserved_dtypes_are_refused() -> None:
    q, k, v = CASES[0].tensors(torch.float32)
    with pytest.raises(ValueError, match="must share one of"):
        span_attention(q.half(), k, v, CASES[0].query())
    with pytest.raises(ValueError, match="must share one of"):
        span_attention(q.int(), k.int(), v.int(), CASES[0].query())


def test_the_private_operator_is_asked_for_by_version(monkeypatch: pytest.MonkeyPatch) -> None:
    from sra_fast.kernels import flash_cpu

    flash_cpu._operator.cache_clear()
    monkeypatch.setattr(torch, "__version__", "2.5.1")
    with pytest.raises(RuntimeError, match=r"2\.5\.1 does not give the logsumexp"):
        span_attention(*CASES[0].tensors(torch.float32), CASES[0].query())
    flash_cpu._operator.cache_clear()


def test_memory_stays_below_a_map() -> None:
    """Use softcap and window at 6,000 tokens, where a map of 4 heads would take 576 MB."""
    code = """
import resource, torch
torch.set_num_threads(1)
from sra_fast import SpanQuery, span_attention
q = torch.randn(1, 4, 6000, 16); k = torch.randn(1, 2, 6000, 16)
labels = torch.zeros(1, 6000, dtype=torch.int32); labels[0, 5:9] = 1
query = SpanQuery(labels, torch.arange(5900, 6000), torch.tensor([[0, 0, 6000]]).int(), ("a",))
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
small = SpanQuery(labels[:, :9], torch.tensor([8]), torch.tensor([[0, 0, 9]]).int(), ("a",))
span_attention(q[:, :, :9], k[:, :, :9], k[:, :, :9], small, softcap=3.0)
before = peak()
span_attention(q, k, k, query, softcap=3.0)
print((peak() - before) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 200
