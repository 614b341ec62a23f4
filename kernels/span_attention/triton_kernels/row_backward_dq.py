"""Compute dq of the rows asked for, one program per tile of them and head (see row_backward.py)."""

from __future__ import annotations

import triton
import triton.language as tl

from .row_tiles import add_d_logits, seen_weights, tile_of_rows
from .tiles import GRANULE, LOG2E, load_rows, next_run, products, sees, span_grads, store_rows


@triton.jit
def add_dq_of_rows(
    dq,
    q,
    row_lse,
    row_delta,
    first_key,
    positions,
    slot,
    keys_at,
    stride_k,
    labels_at,
    d_mass_at,
    n_keys,
    n_spans,
    inner,
    unit,
    start,
    stop,
    LABELLED: tl.constexpr,
    SOFTCAP: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Add the terms of the key tiles ``[start, stop)`` to dq, which hold labels if ``LABELLED``."""
    columns = tl.arange(0, BLOCK_N)
    for step in range(stop - start):
        tile = start + step
        keys = tile * BLOCK_N + columns
        inside = keys < n_keys
        at = (tile * BLOCK_N).to(tl.int64)
        k = load_rows(keys_at + at * stride_k, columns, stride_k, inside, WIDTH, BLOCK_D, True)
        x = products(q, k, inner, SOFTCAP, dq.dtype)
        d_x = seen_weights(x, unit, row_lse[:, None], sees(first_key, positions, keys))
        if LABELLED:
            labels = tl.load(labels_at + keys, mask=inside, other=0)
            grads = span_grads(labels, d_mass_at, slot, n_spans, BLOCK_N, BLOCK_M, dq.dtype)
            d_x = d_x * (tl.trans(grads) - row_delta[:, None])
        else:
            d_x = d_x * -row_delta[:, None]
        dq = add_d_logits(dq, d_x, x, k, SOFTCAP)
    return dq


@triton.jit
def row_dq_kernel(
    q,
    k,
    lse,
    delta,
    d_mass,
    key_labels,
    first_key,
    rows,
    key_runs,
    bounds,
    dq,
    stride_kb,
    stride_kh,
    stride_kn,
    batch,
    heads,
    m_queries,
    n_keys,
    n_rows,
    n_spans,
    inner,
    unit,
    scale,
    GROUP: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_D: tl.constexpr,
    SOFTCAP: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Write one tile of ``dq [R, Hq, D]`` for one head from ``q [R, Hq, D]``, both contiguous."""
    head, b, from_slot, slot, valid, positions, first = tile_of_rows(
        rows, bounds, first_key, batch, heads, m_queries, n_keys, n_rows, BLOCK_M
    )
    granules = tl.cdiv(n_keys, GRANULE)
    of_head = slot.to(tl.int64) * heads + head
    row_lse = tl.load(lse + of_head, mask=valid, other=0.0) * LOG2E
    row_delta = tl.load(delta + of_head, mask=valid, other=0.0)
    stride = heads * WIDTH
    tile_at = from_slot.to(tl.int64) * stride + head * WIDTH
    in_tile = tl.arange(0, BLOCK_M)
    q_tile = load_rows(q + tile_at, in_tile, stride, valid, WIDTH, BLOCK_D, True)

    far = b.to(tl.int64)
    keys_at = k + far * stride_kb + head // GROUP * stride_kh
    labels_at = key_labels + far * n_keys
    marked = key_runs + far * granules
    asked = tl.where(valid, slot, -1)
    cursor = tl.min(first) // BLOCK_N
    end = tl.cdiv(tl.max(tl.where(valid, positions, -1)) + 1, BLOCK_N)
    total = tl.zeros([BLOCK_M, BLOCK_D], ACC)
    while cursor < end:
        run, stop = next_run(marked, marked + batch * granules, cursor, end, True, BLOCK_N)
        total = add_dq_of_rows(
            total, q_tile, row_lse, row_delta, first, positions, asked,
            keys_at, stride_kn, labels_at, d_mass + of_head * n_spans, n_keys, n_spans,
            inner, unit, cursor, run,
            False, SOFTCAP, WIDTH, BLOCK_D, BLOCK_M, BLOCK_N,
        )  # fmt: skip
        total = add_dq_of_rows(
            total, q_tile, row_lse, row_delta, first, positions, asked,
            keys_at, stride_kn, labels_at, d_mass + of_head * n_spans, n_keys, n_spans,
            inner, unit, run, stop,
            True, SOFTCAP, WIDTH, BLOCK_D, BLOCK_M, BLOCK_N,
        )  # fmt: skip
        cursor = stop
    store_rows(dq + tile_at, in_tile, stride, total * scale, valid, WIDTH, BLOCK_D)
