"""Test the calls of PyTorch's flash attention on CUDA, with a plain stand-in for the kernel.

The kernel needs a GPU. What it is handed, and what is made of its answer, does not: the stand-in
has the kernel's signature and meaning, and refuses what the kernel refuses, but for float32: so
its answers can be compared closely.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import varlen

from kernel_stand_ins import varlen_2_11, varlen_2_13
from op_cases import CASES, EMPTY_CASES, Case
from sra_fast import span_attention
from sra_fast.kernels.contract import LogitRule
from sra_fast.kernels.merging import add_sinks
from sra_fast.kernels.providers import call_of, devices
from sra_fast.kernels.providers import varlen as provider

REAL = varlen.varlen_attn
SERVED = tuple(case for case in CASES if case.softcap is None)
each_case = pytest.mark.parametrize("case", SERVED, ids=str)


@pytest.fixture(autouse=True)
def calls(monkeypatch: pytest.MonkeyPatch) -> list[inspect.BoundArguments]:
    """Return a list that gets what the kernel was handed, call by call."""
    return install(monkeypatch, varlen_2_13)


def install(
    monkeypatch: pytest.MonkeyPatch, stand_in: Callable[..., Any]
) -> list[inspect.BoundArguments]:
    seen: list[inspect.BoundArguments] = []
    signature = inspect.signature(stand_in)

    @functools.wraps(stand_in)
    def watched(*args: Any, **kwargs: Any) -> Any:
        seen.append(signature.bind(*args, **kwargs))
        return stand_in(*args, **kwargs)

    monkeypatch.setattr(varlen, "varlen_attn", watched)
    return seen


def attend(case: Case, inputs: tuple[Tensor, ...], **change: Any) -> tuple[Tensor, Tensor]:
    q, k, v = inputs
    rule = LogitRule(**(case.rule(q.dtype) | change))
    call = call_of(q, k, v, case.query(), rule)
    out, lse = provider.attend(call.without_sinks())
    return (out, lse) if rule.sinks is None else add_sinks(out, lse, rule.sinks)


def named(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


@each_case
def test_out_and_lse_are_those_of_the_definition(case: Case) -> None:
    inputs = case.tensors(torch.float32)
    wanted = span_attention(*inputs, case.query(), backend="reference", **case.rule(torch.float32))
    out, lse = attend(case, inputs)
    torch.testing.assert_close(out, wanted.out, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(lse, wanted.lse, rtol=1e-5, atol=1e-5)
    assert not lse.requires_grad
    assert out.transpose(1, 2).is_contiguous()


@pytest.mark.parametrize("case", [case for case in SERVED if not case.sinks], ids=str)
def test_gradients_are_those_of_the_definition(case: Case) -> None:
    def gradients(function: Callable[..., Tensor]) -> list[Tensor]:
        leaves = [x.detach().requires_grad_() for x in case.tensors(torch.float32)]
        out = function(*leaves)
        if not out.requires_grad:  # nothing is visible
            return [torch.zeros_like(leaf) for leaf in leaves]
        weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
        return list(torch.autograd.grad((out * weights).sum(), leaves))

    def reference(*x: Tensor) -> Tensor:
        rule = case.rule(torch.float32)
        return span_attention(*x, case.query(), backend="reference", **rule).out

    found = gradients(lambda *x: attend(case, x)[0])
    for mine, true in zip(found, gradients(reference), strict=True):
        torch.testing.assert_close(mine, true, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=lambda dtype: str(dtype)[6:])
def test_half_precision_keeps_its_dtype_and_a_float32_lse(dtype: torch.dtype) -> None:
    case = named("left and right padding, sinks")
    out, lse = attend(case, case.tensors(dtype))
    assert (out.dtype, lse.dtype) == (dtype, torch.float32)
    assert not out.isnan().any()
    assert not lse.isnan().any()


@each_case
def test_one_call_serves_all_sequences_and_gets_no_padding(case: Case, calls: Any) -> None:
    attend(case, case.tensors(torch.float32))
    offset = case.keys - case.queries
    segments = [(start, end) for _, start, end in case.query().segments.tolist() if end > offset]
    assert len(calls) == (1 if segments else 0)
    for call in calls:
        lengths = [end - start for start, end in segments]
        of_queries = [end - max(start, offset) for start, end in segments]
        assert call.arguments["cu_seq_k"].diff().tolist() == lengths
        assert call.arguments["cu_seq_q"].diff().tolist() == of_queries


@pytest.mark.parametrize("case", EMPTY_CASES, ids=str)
def test_nothing_in_gives_nothing_out(case: Case, calls: Any) -> None:
    out, lse = attend(case, case.tensors(torch.float32))
    assert out.shape == (case.batch, case.heads, case.queries, case.value_width)
    assert lse.shape == (case.batch, case.heads, case.queries)
    assert not calls


@pytest.mark.parametrize("name", ["two whole rows", "packed", "fewer queries than keys"])
def test_where_every_token_counts_the_kernel_reads_the_models_own_memory(
    name: str, calls: Any
) -> None:
    inputs = named(name).tensors(torch.float32)
    attend(named(name), inputs)
    for argument, x in zip(("query", "key", "value"), inputs, strict=True):
        assert calls[0].arguments[argument].data_ptr() == x.data_ptr()


@pytest.mark.parametrize("offset", [0, 4])
def test_tensors_that_do_not_lie_on_16_bytes_are_copied(offset: int) -> None:
    """Check it in the stand-in: the kernel itself reads 16 bytes at a time without asking."""
    case = replace(CASES[0], batch=2)
    wide = torch.randn(3, 2, 37, 4, 20)
    q, k, v = (x[..., offset : offset + 16].transpose(1, 2) for x in wide)
    k, v = k[:, :2], v[:, :2]
    wanted = span_attention(q, k, v, case.query(), backend="reference", scale=0.4)
    torch.testing.assert_close(attend(case, (q, k, v))[0], wanted.out, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("window", "handed"), [(None, (-1, 0)), (7, (6, 0)), (1, (0, 0)), (36, (35, 0)), (37, (-1, 0))]
)
def test_a_window_counts_the_keys_before_the_query(
    window: int | None, handed: tuple[int, int], calls: Any
) -> None:
    case = replace(CASES[0], window=window)
    attend(case, case.tensors(torch.float32))
    assert calls[0].arguments["window_size"] == handed


def test_layers_share_what_is_worked_out_of_a_query() -> None:
    case = named("packed with gaps")
    query, inputs = case.query(), case.tensors(torch.float32)
    provider.attend(call_of(*inputs, query, LogitRule(0.4)))
    derived = dict(query._derived)
    provider.attend(call_of(*inputs, query, LogitRule(0.4, window=3)))
    assert derived == query._derived


@pytest.mark.parametrize("name", ["one key head", "as many key heads as query heads"])
def test_grouped_heads_are_asked_for_only_where_the_signature_says_so(
    name: str, monkeypatch: pytest.MonkeyPatch, calls: Any
) -> None:
    case = named(name)
    new = attend(case, case.tensors(torch.float32))
    old_calls = install(monkeypatch, varlen_2_11)
    old = attend(case, case.tensors(torch.float32))
    assert calls[0].arguments["enable_gqa"] is True
    assert "enable_gqa" not in old_calls[0].arguments
    assert torch.equal(new[0], old[0])


def test_a_logsumexp_of_another_layout_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    @functools.wraps(varlen_2_13)
    def turned(*args: Any, **kwargs: Any) -> Any:
        out, lse = varlen_2_13(*args, **kwargs)
        return out, lse.transpose(0, 1)

    monkeypatch.setattr(varlen, "varlen_attn", turned)
    with pytest.raises(RuntimeError, match=r"shape \[37, 4\], expected \[4, 37\]"):
        attend(CASES[0], CASES[0].tensors(torch.float32))


def test_the_real_function_takes_what_the_stand_in_was_handed(
    calls: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = named("left and right padding, window")
    real = inspect.signature(REAL)
    if "enable_gqa" not in real.parameters:
        calls = install(monkeypatch, varlen_2_11)
    attend(case, case.tensors(torch.float32))
    handed = calls[0].arguments
    bound = real.bind(*calls[0].args[:7], **{name: handed[name] for name in list(handed)[7:]})
    assert list(bound.arguments) == list(handed)
    assert real.parameters["window_size"].default == (-1, -1)
    assert varlen.AuxRequest(lse=True) == handed["return_aux"]


@pytest.mark.parametrize("name", ["two whole rows", "odd widths", "one key head"])
def test_the_real_function_gives_these_shapes_and_gradients(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(varlen, "varlen_attn", REAL)
    case = named(name)
    leaves = [x.to("meta").requires_grad_() for x in case.tensors(torch.bfloat16)]
    out, lse = attend(case, tuple(leaves), window=5)
    assert out.shape == (case.batch, case.heads, case.queries, case.value_width)
    assert (out.dtype, out.device.type) == (torch.bfloat16, "meta")
    assert (lse.shape, lse.dtype) == (out.shape[:3], torch.float32)
    assert not lse.requires_grad
    for leaf, grad in zip(leaves, torch.autograd.grad(out.sum(), leaves), strict=True):
        assert grad.shape == leaf.shape


@pytest.mark.parametrize(
    ("reason", "change", "rule"),
    [
        ("no softcap", {}, {"softcap": 2.0}),
        ("positive scales only, not -1", {}, {"scale": -1.0}),
        ("not torch.float32", {"dtype": torch.float32}, {}),
        ("not torch.float64", {"dtype": torch.float64}, {}),
        ("up to 256 wide, not 257", {"width": 257}, {}),
        ("up to 256 wide, not 264", {"value_width": 264}, {}),
    ],
)
def test_what_the_kernel_cannot_do_is_said(
    reason: str, change: Any, rule: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "not_nvidia", lambda device: None)
    found = refusal(**change, rule=LogitRule(**({"scale": 1.0} | rule)))
    assert found is not None
    assert reason in found


def refusal(
    *,
    dtype: torch.dtype = torch.bfloat16,
    width: int = 16,
    value_width: int = 16,
    rule: LogitRule | None = None,
) -> str | None:
    """Return why the provider does not serve a call of three tokens."""
    q = torch.zeros(1, 4, 3, width, dtype=dtype)
    v = torch.zeros(1, 2, 3, value_width, dtype=dtype)
    query = Case("three", queries=3, keys=3).query()
    return provider.serves(call_of(q, q[:, :2], v, query, rule or LogitRule(1.0)))


@pytest.mark.parametrize(
    ("reason", "capability", "built", "hip"),
    [
        (None, (8, 0), True, None),
        (None, (9, 0), True, None),
        (None, (12, 0), True, None),
        ("capability 8.0, not 7.5", (7, 5), True, None),
        ("without flash attention", (9, 0), False, None),
        ("ROCm", (9, 0), True, "6.4"),
    ],
)
def test_devices_that_do_not_do_are_named(
    reason: str | None,
    capability: tuple[int, int],
    built: bool,
    hip: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert refusal() == "it runs on CUDA, not on cpu"
    real = devices.not_nvidia
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(devices, "not_nvidia", lambda device: real(torch.device("cuda", 0)))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: built)
    found = refusal()
    assert found is None if reason is None else reason in str(found)


def test_a_torch_whose_function_lacks_an_argument_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def varlen_2_10(*args: Any, is_causal: bool = False, return_aux: Any = None) -> Any: ...

    monkeypatch.setattr(varlen, "varlen_attn", varlen_2_10)
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: True)
    found = provider.missing()
    assert found == f"varlen_attn of torch {torch.__version__} has no scale, window_size"
