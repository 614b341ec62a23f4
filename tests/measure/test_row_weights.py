"""Test that the softmax of one row is the reference's, with sinks, softcaps and padding."""

from __future__ import annotations

import itertools

import pytest
import torch

from sra_fast import SpanQuery, span_attention
from sra_fast.kernels.contract import segment_tensor
from sra_fast.measure.row_weights import row_weights

GRID = list(
    itertools.product(
        (torch.float64, torch.float32, torch.bfloat16),
        ((4, 4), (6, 2), (3, 1)),
        ((0, 0), (0, 5), (7, 2)),
        (None, 2.5),
        (False, True),
    )
)


@pytest.mark.parametrize(("dtype", "heads", "starts", "softcap", "sinks"), GRID)
def test_a_row_on_every_key_is_that_of_the_reference(
    dtype: torch.dtype,
    heads: tuple[int, int],
    starts: tuple[int, ...],
    softcap: float | None,
    sinks: bool,
) -> None:
    torch.manual_seed(0)
    n, width = 21, 24
    row = torch.randn(2, heads[0], 1, width).to(dtype)
    key = torch.randn(2, n, heads[1], width).to(dtype).transpose(1, 2)
    of_sinks = torch.randn(heads[0]) * 2 if sinks else None
    hidden = (torch.arange(n) < torch.tensor(starts)[:, None])[:, None] if any(starts) else None
    found = row_weights(row, key, hidden, 0.3, softcap, of_sinks)
    labels = (1 << torch.arange(n, dtype=torch.int32)).expand(2, -1).contiguous()
    segments = segment_tensor([(b, start, n) for b, start in enumerate(starts)], row.device)
    names = tuple(f"key {at}" for at in range(n))
    wanted = span_attention(
        row.double(),
        key.double(),
        key.double(),
        SpanQuery(labels, torch.arange(2), segments, names),
        scale=0.3,
        softcap=softcap,
        sinks=None if of_sinks is None else of_sinks.double(),
        backend="reference",
    )
    tolerance = 1e-12 if dtype == torch.float64 else 2e-6
    torch.testing.assert_close(found[..., :n].double(), wanted.mass, atol=tolerance, rtol=0)
    total = torch.ones_like(found[..., 0])
    torch.testing.assert_close(found.sum(-1), total)
    assert found.shape[-1] == n + int(sinks)


def test_under_autocast_a_row_stays_in_float32() -> None:
    row, key = torch.randn(1, 2, 1, 16), torch.randn(1, 2, 9, 16)
    plain = row_weights(row, key, None, 0.25, None, None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = row_weights(row, key, None, 0.25, None, None)
    assert torch.equal(found, plain)
