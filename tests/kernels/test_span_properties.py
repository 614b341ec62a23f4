"""Test what must hold of span masses for any shapes, segments, labels, rows and windows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sra_fast import SpanQuery, span_attention

SPANS = 4
each_backend = pytest.mark.parametrize("backend", ["reference", "lse", "triton"])
quickly = settings(max_examples=15, deadline=None, derandomize=True)


@st.composite
def calls(draw: st.DrawFn) -> dict[str, Any]:
    """Draw q, k, v, labels of four disjoint spans on all keys, rows, segments and a rule."""
    batch, kv_heads, group = (
        draw(st.integers(1, 2)),
        draw(st.integers(1, 2)),
        draw(st.integers(1, 2)),
    )
    n = draw(st.integers(1, 40))
    m = draw(st.one_of(st.just(n), st.integers(1, n)))
    width, value_width = draw(st.sampled_from([3, 16, 20])), draw(st.sampled_from([5, 16]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    segments = []
    for b in range(batch):
        cuts = sorted(draw(st.lists(st.integers(0, n), max_size=4)))
        segments += [(b, cuts[i], cuts[i + 1]) for i in range(len(cuts) - 1)]
    chosen = torch.rand(batch * m, generator=generator) < draw(st.sampled_from([0.1, 0.5, 1.0]))

    def made(heads: int, length: int, last: int) -> Tensor:
        return torch.randn(batch, heads, length, last, generator=generator) * 1.5

    return {
        "tensors": (
            made(kv_heads * group, m, width),
            made(kv_heads, n, width),
            made(kv_heads, n, value_width),
        ),
        "span_of_key": torch.randint(0, SPANS, (batch, n), generator=generator),
        "rows": chosen.nonzero().squeeze(1),
        "segments": torch.tensor(segments, dtype=torch.int32).reshape(-1, 3),
        "rule": {
            "scale": 0.5,
            "window": draw(st.one_of(st.none(), st.integers(1, n + 2))),
            "softcap": draw(st.sampled_from([None, 3.0])),
            "sinks": made(1, kv_heads * group, 1).flatten()[: kv_heads * group]
            if draw(st.booleans())
            else None,
        },
    }


def ask(call: dict[str, Any], labels: Tensor, backend: Any, spans: int = SPANS) -> Any:
    """Call the op with the bit field ``labels [B, N]``."""
    query = SpanQuery(
        labels.to(torch.int32), call["rows"], call["segments"], tuple(map(str, range(spans)))
    )
    return span_attention(*call["tensors"], query, backend=backend, **call["rule"])


@each_backend
@quickly
@given(call=calls())
def test_spans_that_share_out_all_keys_and_the_sink_make_one(call: Any, backend: Any) -> None:
    result = ask(call, 1 << call["span_of_key"], backend)
    m = call["tensors"][0].shape[2]
    rows = call["rows"]
    lse = result.lse[rows // m, :, rows % m]  # [R, Hq]
    total = result.mass.sum(-1)
    if call["rule"]["sinks"] is not None:
        total = total + torch.exp(call["rule"]["sinks"] - lse).where(lse.isfinite(), 0.0)
    assert torch.allclose(total, lse.isfinite().float(), rtol=0, atol=1e-5)


@each_backend
@quickly
@given(call=calls(), order=st.permutations(range(SPANS)))
def test_permuting_the_spans_permutes_the_masses(call: Any, backend: Any, order: list[int]) -> None:
    mass = ask(call, 1 << call["span_of_key"], backend).mass
    permuted = ask(call, 1 << torch.tensor(order)[call["span_of_key"]], backend).mass
    keys = call["tensors"][1].shape[2]  # sums of so many weights, in float32 and another order
    assert torch.allclose(permuted[..., order], mass, rtol=0, atol=max(1e-6, 2 * keys * 2.0**-24))


@each_backend
@quickly
@given(call=calls())
def test_the_mass_of_a_span_is_the_sum_over_its_parts(call: Any, backend: Any) -> None:
    parts = 1 << call["span_of_key"]
    halves = ask(call, parts, backend).mass
    whole = ask(call, torch.where(parts <= 2, 1, 0), backend, spans=1).mass
    assert torch.allclose(whole[..., 0], halves[..., :2].sum(-1), rtol=0, atol=1e-5)


@quickly
@given(call=calls())
def test_the_kernels_agree_with_the_definition(call: Any) -> None:
    labels = torch.randint(0, 2**SPANS, call["span_of_key"].shape)
    found, wanted = ask(call, labels, "triton"), ask(call, labels, "reference")
    assert torch.allclose(found.out, wanted.out, rtol=0, atol=1e-5)
    assert torch.allclose(found.mass, wanted.mass, rtol=0, atol=1e-5)
    assert torch.allclose(found.lse, wanted.lse, rtol=1e-6, atol=1e-5)
