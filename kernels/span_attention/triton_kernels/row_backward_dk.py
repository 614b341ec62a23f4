"""Compute dk from the rows asked for, one program per tile of keys (see row_backward.py)."""

from __future__ import annotations

import triton
import triton.language as tl

from .tiles import GRANULE, LOG2E, NONE_LEFT, load_rows, products, span_grads, store_rows


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
    columns = tl.arange(0, BLOCK_M)
    once = tl.maximum(count, 1)
    stride = heads * WIDTH
    for step in range(count * GROUP):
        head = first_head + step // once
        from_slot = start + step % once * BLOCK_M
        slot = from_slot + columns
        valid = slot < stop
        flat = tl.load(rows + slot, mask=valid, other=0)
        positions = (flat - before).to(tl.int32) + offset
        first = tl.load(first_key + flat, mask=valid, other=NONE_LEFT)
        tile_at = q + from_slot.to(tl.int64) * stride + head * WIDTH
        q_tile = load_rows(tile_at, columns, stride, valid, WIDTH, BLOCK_D, True)
        at = slot.to(tl.int64) * heads + head
        row_lse = tl.load(lse + at, mask=valid, other=0.0) * LOG2E
        row_delta = tl.load(delta + at, mask=valid, other=0.0)
        x = products(k, q_tile, inner, SOFTCAP, dk.dtype)
        weights = tl.exp2(x * unit - row_lse[None, :])
        seen = (keys[:, None] >= first[None, :]) & (keys[:, None] <= positions[None, :])
        d_x = tl.where(seen, weights, 0.0)
        if LABELLED:
            wanted = tl.where(valid, slot, -1)
            grads = span_grads(
                labels, d_mass + at * n_spans, wanted, n_spans, BLOCK_N, BLOCK_M, dk.dtype
            )
            d_x = d_x * (grads - row_delta[None, :])
        else:
            d_x = d_x * -row_delta[None, :]
        if SOFTCAP:
            d_x = d_x * (1.0 - x * x)
        dk = tl.dot(d_x.to(q_tile.dtype), q_tile, dk, input_precision="ieee", out_dtype=dk.dtype)
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
    tiles = tl.cdiv(n_keys, BLOCK_N)
    tile = tl.program_id(0) % tiles  # the first keys first: most rows see them
    kv_heads = heads // GROUP
    b = (tl.program_id(0) // tiles // kv_heads).to(tl.int64)
    kv_head = (tl.program_id(0) // tiles % kv_heads).to(tl.int64)

    keys = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    far = keys.to(tl.int64)
    inside = keys < n_keys
    k_at = k + b * stride_kb + kv_head * stride_kh
    k_tile = load_rows(k_at, far, stride_kn, inside, WIDTH, BLOCK_D, True)
    labels = tl.load(key_labels + b * n_keys + keys, mask=inside, other=0)
    labelled = tl.max(labels) > 0

    granules = tl.cdiv(n_keys, GRANULE)
    granule = tile * (BLOCK_N // GRANULE)
    last = tl.minimum(granule + BLOCK_N // GRANULE, granules) - 1
    start = tl.load(bounds + b * granules + granule)
    stop = tl.load(bounds + (batch + b) * granules + last)
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
