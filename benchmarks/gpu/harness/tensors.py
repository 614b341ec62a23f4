"""Make the tensors and the queries that the sections measure with, and count their operations."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from benchmarks.gpu.harness.sizes import AttentionForm, Sizes
from sra_fast import SpanQuery
from sra_fast.kernels.contract import LogitRule

FIRST_KEY = 8  # the position where the span begins


@dataclass(frozen=True)
class Attention:
    """The inputs of one attention call.

    Attributes:
        q, k, v: ``[B, Hq, M, D]``, ``[B, Hkv, N, D]``, ``[B, Hkv, N, D]``.
        asking: a query that asks for the mass of rows on a span.
        silent: the same query without any rows.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    asking: SpanQuery
    silent: SpanQuery


def attention(
    sizes: Sizes,
    device: torch.device,
    dtype: torch.dtype,
    keys: int,
    *,
    batch: int = 1,
    queries: int | None = None,
    layout: Literal["model", "cache"] = "model",
    width: int | None = None,
    sequences: int = 1,
    half: bool = False,
    seed: int = 0,
) -> Attention:
    """Draw standard normal q, k and v, and ask for the last ``sizes.rows`` queries per batch row.

    Args:
        sizes: the numbers of heads and rows, and the widths of heads and span.
        device, dtype: the device and the dtype of the tensors.
        keys: N, the number of keys.
        batch: B, the number of batch rows.
        queries: M, the number of queries; N if None.
        layout: ``"model"`` for ``[B, L, H, D]`` in memory, as models hand it over; ``"cache"`` for
            k and v as ``[B, H, L, D]``, as caches keep them.
        width: D; ``sizes.width`` if None.
        sequences: how many segments of equal length every batch row is; each has a span.
        half: whether the span is the first half of the keys and every row is asked for.
        seed: the seed of the random numbers.
    """
    queries = keys if queries is None else queries
    generator = torch.Generator(device).manual_seed(seed)

    def normal(heads: int, length: int, cached: bool) -> Tensor:
        shape = (batch, heads, length) if cached else (batch, length, heads)
        last = sizes.width if width is None else width
        x = torch.randn(*shape, last, generator=generator, device=device, dtype=dtype)
        return x if cached else x.transpose(1, 2)

    cached = layout == "cache"
    q = normal(sizes.heads, queries, False)
    k, v = normal(sizes.kv_heads, keys, cached), normal(sizes.kv_heads, keys, cached)
    length = keys // sequences
    starts = range(0, length * sequences, length)
    labels = torch.zeros(batch, keys, dtype=torch.int32)
    for start in starts:
        labels[:, start + FIRST_KEY : start + FIRST_KEY + sizes.span] = 1
    rows = torch.arange(batch * queries).view(batch, queries)
    if half:
        labels[:, : keys // 2] = 1
    else:
        rows = rows[:, -sizes.rows :]
    segments = [[b, start, start + length] for b in range(batch) for start in starts]
    asking = SpanQuery(
        labels, rows.flatten(), torch.tensor(segments, dtype=torch.int32), ("strategy",)
    ).to(device)
    return Attention(q, k, v, asking, replace(asking, rows=asking.rows[:0]))


def rule_of(sizes: Sizes, form: AttentionForm, width: int) -> LogitRule:
    """Return scale, window and softcap of a form of attention with heads that are so wide."""
    window = sizes.window if form == "window" else None
    return LogitRule(width**-0.5, window, sizes.softcap if form == "softcap" else None)


def pairs(tokens: int, sequences: int = 1, window: int | None = None) -> float:
    """Return how many pairs of query and key causal attention has, ``T²/2`` for one sequence."""
    length = tokens / sequences
    reach = min(window or length, length)
    return sequences * (reach**2 / 2 + (length - reach) * reach)


def flops(sizes: Sizes, tokens: int) -> float:
    """Return the operations of causal attention forward: two products of ``T²/2`` pairs."""
    return 4.0 * sizes.width * sizes.heads * pairs(tokens)
