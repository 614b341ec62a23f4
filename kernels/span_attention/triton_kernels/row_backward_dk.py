"""Compute dk from the rows asked for, one program per tile of keys (see row_backward.py)."""

from __future__ import annotations

import triton
import triton.language as tl

from .row_tiles import add_d_logits, rows_at, seen_weights, tile_of_keys
from .tiles import load_rows, products, span_grads, store_rows


@triton.jit
def add_dk_of_rows(
    dk,
    k,
    labels,
    keys,
    q,
    rows,
    first_key,
    lse,
    delta,
    d_mass,
    before,
    offset,
    first_head,
    heads,
    n_spans,
    inner,
    unit,
    start,
    stop,
    count,
    LABELLED: tl.constexpr,
    SOFTCAP: tl.constexpr,
    GROUP: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Add the terms of ``count`` tiles of the rows ``[start, stop)`` to dk, for a group's heads.

    Everything is ``[n, m]`` here. ``before`` is the number of queries in the batch rows before.
    """
    once = tl.maximum(count, 1)
    for step in range(count * GROUP):
        head = first_head + step // once
        from_slot = start + step % once * BLOCK_M
        q_tile, row_lse, row_delta, first, positions, slot, valid, at = rows_at(
            q, rows, first_key, lse, delta, from_slot, stop, before, offset, head, heads,
            WIDTH, BLOCK_D, BLOCK_M,
        )  # fmt: skip
        x = products(k, q_tile, inner, SOFTCAP, dk.dtype)
        seen = (keys[:, None] >= first[None, :]) & (keys[:, None] <= positions[None, :])
        d_x = seen_weights(x, unit, row_lse[None, :], seen)
        if LABELLED:
            wanted = tl.where(valid, slot, -1)
            grads = span_grads(
                labels, d_mass + at * n_spans, wanted, n_spans, BLOCK_N, BLOCK_M, dk.dtype
            )
            d_x = d_x * (grads - row_delta[None, :])
        else:
            d_x = d_x * -row_delta[None, :]
        dk = add_d_logits(dk, d_x, x, q_tile, SOFTCAP)
    return dk


@triton.jit
def row_dk_kernel(
    q,
    k,
    lse,
    delta,
    d_mass,
    key_labels,
    first_key,
    rows,
    bounds,
    dk,
    stride_kb,
    stride_kh,
    stride_kn,
    stride_dkb,
    stride_dkh,
    stride_dkn,
    batch,
    heads,
    m_queries,
    n_keys,
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
    """Write dk of one tile of keys and one key head, summed over its query heads.

    ``q [R, Hq, D]`` is contiguous: the rows asked for.
    """
    b, kv_head, keys, start, stop = tile_of_keys(bounds, batch, heads // GROUP, n_keys, BLOCK_N)
    far = keys.to(tl.int64)
    inside = keys < n_keys
    k_at = k + b * stride_kb + kv_head * stride_kh
    k_tile = load_rows(k_at, far, stride_kn, inside, WIDTH, BLOCK_D, True)
    labels = tl.load(key_labels + b * n_keys + keys, mask=inside, other=0)
    labelled = tl.max(labels) > 0

    count = tl.cdiv(tl.maximum(stop - start, 0), BLOCK_M)
    first_head = kv_head * GROUP
    total = tl.zeros([BLOCK_N, BLOCK_D], ACC)
    # One of the two loops is empty.
    total = add_dk_of_rows(
        total, k_tile, labels, keys, q, rows, first_key, lse,
        delta, d_mass, b * m_queries, n_keys - m_queries, first_head, heads, n_spans,
        inner, unit, start, stop, tl.where(labelled, 0, count),
        False, SOFTCAP, GROUP, WIDTH, BLOCK_D, BLOCK_M, BLOCK_N,
    )  # fmt: skip
    total = add_dk_of_rows(
        total, k_tile, labels, keys, q, rows, first_key, lse,
        delta, d_mass, b * m_queries, n_keys - m_queries, first_head, heads, n_spans,
        inner, unit, start, stop, tl.where(labelled, count, 0),
        True, SOFTCAP, GROUP, WIDTH, BLOCK_D, BLOCK_M, BLOCK_N,
    )  # fmt: skip
    dk_at = dk + b * stride_dkb + kv_head * stride_dkh
    store_rows(dk_at, far, stride_dkn, total * scale, inside, WIDTH, BLOCK_D)
