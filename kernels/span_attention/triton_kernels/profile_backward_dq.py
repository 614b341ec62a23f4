"""Compute δ and dq of profiles, one program per tile of rows and head (see profile_backward.py)."""

from __future__ import annotations

import triton
import triton.language as tl

from .row_tiles import add_d_logits, seen_weights, tile_of_rows
from .tiles import LOG2E, load_rows, products, sees, store_rows


@triton.jit
def key_grads(d_at, keys, n_keys):
    """Return the gradients that keys receive, in the shape of ``d_at + keys``.

    Keys beyond the last one get its gradient: no row sees them.
    """
    return tl.load(d_at + tl.minimum(keys, n_keys - 1))


@triton.jit
def walk_keys(
    total,
    q,
    row_lse,
    row_delta,
    first_key,
    positions,
    d_at,
    keys_at,
    stride_k,
    n_keys,
    inner,
    unit,
    start,
    stop,
    OF_DELTA: tl.constexpr,
    SOFTCAP: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Add the terms of the key tiles ``[start, stop)`` to dq ``[m, D]``, or to δ ``[m]``.

    ``d_at [m | 1, 1]`` points at the gradients of each row's group, or of the group of all rows.
    """
    columns = tl.arange(0, BLOCK_N)
    for step in range(stop - start):
        tile = start + step
        keys = tile * BLOCK_N + columns
        inside = keys < n_keys
        at = (tile * BLOCK_N).to(tl.int64)
        k = load_rows(keys_at + at * stride_k, columns, stride_k, inside, WIDTH, BLOCK_D, True)
        x = products(q, k, inner, SOFTCAP, total.dtype)
        weights = seen_weights(x, unit, row_lse[:, None], sees(first_key, positions, keys))
        grads = key_grads(d_at, keys[None, :], n_keys)
        if OF_DELTA:
            total += tl.sum(weights * grads, axis=1)
        else:
            total = add_d_logits(total, weights * (grads - row_delta[:, None]), x, k, SOFTCAP)
    return total


@triton.jit
def profile_dq_kernel(
    q,
    k,
    lse,
    d_profile,
    first_key,
    rows,
    row_groups,
    shares,
    bounds,
    factor,
    delta,
    dq,
    stride_kb,
    stride_kh,
    stride_kn,
    stride_dp,
    stride_dh,
    batch,
    heads,
    m_queries,
    n_keys,
    n_rows,
    inner,
    unit,
    GROUP: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_D: tl.constexpr,
    SOFTCAP: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Write one tile of ``dq [R, Hq, D]`` and of ``delta [R, Hq]`` for one head.

    ``q [R, Hq, D]`` is contiguous; ``factor [1]`` is multiplied into dq together with ``shares``.
    """
    head, b, from_slot, slot, valid, positions, first = tile_of_rows(
        rows, bounds, first_key, batch, heads, m_queries, n_keys, n_rows, BLOCK_M
    )
    of_head = slot.to(tl.int64) * heads + head
    row_lse = tl.load(lse + of_head, mask=valid, other=0.0) * LOG2E
    stride = heads * WIDTH
    tile_at = from_slot.to(tl.int64) * stride + head * WIDTH
    in_tile = tl.arange(0, BLOCK_M)
    q_tile = load_rows(q + tile_at, in_tile, stride, valid, WIDTH, BLOCK_D, True)

    group = tl.load(row_groups + slot, mask=valid, other=-1)
    share = tl.load(shares + slot, mask=valid, other=0.0)
    highest = tl.max(group)
    lowest = tl.min(tl.where(group >= 0, group, highest))
    d_head = d_profile + head * stride_dh
    one_group = d_head + tl.maximum(lowest, 0).to(tl.int64) * stride_dp
    own_group = d_head + tl.maximum(group, 0).to(tl.int64)[:, None] * stride_dp

    keys_at = k + b.to(tl.int64) * stride_kb + head // GROUP * stride_kh
    start = tl.min(first) // BLOCK_N
    end = tl.cdiv(tl.max(tl.where(valid, positions, -1)) + 1, BLOCK_N)
    end = tl.where(highest >= 0, end, start)  # a tile of rows in no group gets no gradient
    between = tl.where(lowest == highest, end, start)
    # In each pair one of the two loops is empty.
    found = tl.zeros([BLOCK_M], ACC)
    found = walk_keys(
        found, q_tile, row_lse, found, first, positions, one_group, keys_at, stride_kn, n_keys,
        inner, unit, start, between, True, SOFTCAP, WIDTH, BLOCK_D, BLOCK_N,
    )  # fmt: skip
    found = walk_keys(
        found, q_tile, row_lse, found, first, positions, own_group, keys_at, stride_kn, n_keys,
        inner, unit, between, end, True, SOFTCAP, WIDTH, BLOCK_D, BLOCK_N,
    )  # fmt: skip
    tl.store(delta + of_head, found, mask=valid)
    total = tl.zeros([BLOCK_M, BLOCK_D], ACC)
    total = walk_keys(
        total, q_tile, row_lse, found, first, positions, one_group, keys_at, stride_kn, n_keys,
        inner, unit, start, between, False, SOFTCAP, WIDTH, BLOCK_D, BLOCK_N,
    )  # fmt: skip
    total = walk_keys(
        total, q_tile, row_lse, found, first, positions, own_group, keys_at, stride_kn, n_keys,
        inner, unit, between, end, False, SOFTCAP, WIDTH, BLOCK_D, BLOCK_N,
    )  # fmt: skip
    total = total * (share * tl.load(factor))[:, None]
    store_rows(dq + tile_at, in_tile, stride, total, valid, WIDTH, BLOCK_D)
