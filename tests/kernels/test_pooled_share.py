"""Test that a pooled share multiplies the span's weights of a sequence by one eager factor."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from op_cases import CASES, Case
from op_truth import worst
from sra_fast import Steering, span_attention
from sra_fast.kernels import reference
from steering_truth import steering

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHARES = (0.05, 0.35, 0.9)
SEGMENTS = ((0, 0, 9), (0, 9, 20), (0, 20, 37))
GRID = [
    *CASES,
    Case("the last query of three packed sequences", queries=1, segments=SEGMENTS),
]
INTERPRETED = [
    *(case for case in CASES[::13] if case.queries <= 100),
    Case("window, softcap and sinks", window=7, softcap=2.0, sinks=True),
    Case("two padded rows", batch=2, segments=((0, 5, 37), (1, 0, 30))),
    Case("rows of several batches in one tile", batch=3, queries=9, keys=9, rows="all"),
]
pytestmark = pytest.mark.usefixtures("unwritten_memory_is_nan")


def eager(
    case: Case, inputs: tuple[Tensor, ...], rule: dict[str, Any], steer: Steering
) -> tuple[Tensor, Tensor]:
    """Return ``out`` and ``mass`` in float64, sequence by sequence, from weights after softmax."""
    q, k, v = (x.double().cpu() for x in inputs)
    k, v = (x.repeat_interleave(case.heads // case.kv_heads, 1) for x in (k, v))
    logits = (q @ k.transpose(2, 3)) * rule["scale"]
    if rule["softcap"]:
        logits = rule["softcap"] * torch.tanh(logits / rule["softcap"])
    query = case.query()
    seen = reference.visibility(query, case.batch, case.queries, case.keys, case.window)
    logits = logits.masked_fill(~seen[:, None], -math.inf)
    sinks = torch.full((case.heads,), -math.inf).double()
    if rule["sinks"] is not None:
        sinks = rule["sinks"].double().cpu()
    columns = torch.cat([logits, sinks.view(1, -1, 1, 1).expand(*logits.shape[:3], 1)], dim=-1)
    weights = columns.softmax(dim=-1).nan_to_num(0)
    heads = torch.ones(case.heads, dtype=torch.bool) if steer.heads is None else steer.heads
    rows = torch.ones(case.batch, case.queries, dtype=torch.bool)
    rows = rows if steer.rows is None else steer.rows
    offset = case.keys - case.queries
    for b, start, end in query.segments.tolist():
        at = torch.arange(max(start - offset, 0), max(end - offset, 0))
        at = at[rows[b, at]]
        if len(at) == 0 or not bool(heads.any()):
            continue
        place = torch.meshgrid(heads.nonzero().flatten(), at, indexing="ij")
        some = weights[b][place]  # [h, r, N + 1]
        span = torch.cat([steer.span[b].cpu(), torch.tensor([False])])
        mean = float(some[..., span].sum() / (some.shape[0] * some.shape[1]))
        assert steer.pooled_share is not None
        if 0 < mean < steer.pooled_share:
            some[..., span] *= steer.pooled_share / mean
            weights[b][place] = some / some.sum(dim=-1, keepdim=True)
    weights = weights[..., : case.keys]
    flat = weights.transpose(1, 2).flatten(0, 1)[query.rows]
    bits = ((query.key_labels[..., None] >> torch.arange(len(query.names))) & 1).double()
    return weights @ v, flat @ bits[query.rows // max(case.queries, 1)]


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("case", GRID, ids=str)
def test_the_weights_of_a_sequence_grow_by_one_factor(case: Case, share: float) -> None:
    inputs, rule = case.tensors(torch.float32), case.rule(torch.float32)
    steer = steering(case, part=GRID.index(case) % 2 == 0, pooled_share=share)
    out, mass = eager(case, inputs, rule, steer)
    found = span_attention(*inputs, case.query(), steer=steer, **rule)
    assert worst(found.out, out) <= 1e-5
    assert worst(found.mass, mass) <= 1e-5


@pytest.mark.parametrize("share", SHARES)
def test_the_reference_does_the_same_in_float64(share: float) -> None:
    for case in [case for case in CASES[::3] if case.keys < 400]:
        inputs, rule = case.tensors(torch.float64), case.rule(torch.float64)
        steer = steering(case, part=True, pooled_share=share)
        out, mass = eager(case, inputs, rule, steer)
        found = span_attention(*inputs, case.query(), steer=steer, backend="reference", **rule)
        assert worst(found.out, out) <= 1e-12
        assert worst(found.mass, mass) <= 1e-12


@pytest.mark.parametrize(
    ("case", "share"),
    [(case, share) for at, case in enumerate(INTERPRETED) for share in SHARES[at % 2 :: 2]],
    ids=str,
)
def test_the_triton_kernel_does_the_same(case: Case, share: float) -> None:
    inputs, rule = case.tensors(torch.float32, DEVICE), case.rule(torch.float32, DEVICE)
    steer = steering(case, part=INTERPRETED.index(case) % 2 == 0, pooled_share=share)
    out, mass = eager(case, inputs, rule, steer)
    found = span_attention(*inputs, case.query(), steer=steer, backend="triton", **rule)
    assert worst(found.out, out) <= 1e-5
    assert worst(found.mass, mass) <= 1e-5


@pytest.mark.parametrize("backend", ["auto", "reference", "triton"])
def test_a_sequence_is_steered_alike_alone_and_among_others(backend: Any) -> None:
    """Two packed sequences, and one more in another row, with a span each of another share."""
    segments = ((0, 0, 14), (0, 14, 30), (1, 6, 30))
    together = Case("together", batch=2, queries=30, keys=30, segments=segments)
    q, k, v = together.tensors(torch.float32)
    span = torch.zeros(2, 30, dtype=torch.bool)
    for b, at in ((0, 2), (0, 17), (1, 9)):
        span[b, at : at + 3] = True
    span[1, 12:20] = True
    steer = Steering(span, pooled_share=0.6)
    whole = span_attention(q, k, v, together.query(), steer=steer, backend=backend)
    plain = span_attention(q, k, v, together.query())
    for b, start, end in segments:
        here = (slice(b, b + 1), slice(None), slice(start, end))
        alone = Case("alone", queries=end - start, keys=end - start)
        found = span_attention(
            q[here],
            k[here],
            v[here],
            alone.query(),
            steer=Steering(span[b : b + 1, start:end], pooled_share=0.6),
            backend=backend,
        )
        torch.testing.assert_close(whole.out[here], found.out, rtol=0, atol=1e-5)
        assert worst(found.out, plain.out[here]) > 1e-2


def test_a_mean_that_is_high_enough_is_left_alone() -> None:
    case = CASES[0]
    inputs, rule = case.tensors(torch.float32), case.rule(torch.float32)
    span = torch.ones(1, 37, dtype=torch.bool)
    span[:, 0] = False
    plain = span_attention(*inputs, case.query(), **rule)
    found = span_attention(*inputs, case.query(), steer=Steering(span, pooled_share=0.5), **rule)
    assert torch.equal(found.out, plain.out)
    assert torch.equal(found.lse, plain.lse)
