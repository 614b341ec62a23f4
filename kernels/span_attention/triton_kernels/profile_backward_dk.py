"""Compute dk of profiles, one program per tile of keys (see profile_backward.py)."""

from __future__ import annotations

import triton
import triton.language as tl

from .profile_backward_dq import key_grads
from .row_tiles import add_d_logits, rows_at, seen_weights, tile_of_keys
from .tiles import load_rows, products, store_rows


@triton.jit
def walk_rows(
    dk,
    k,
    keys,
    q,
    rows,
    first_key,
    lse,
    delta,
    d_profile,
    stride_dp,
    stride_dh,
    row_groups,
    shares,
    only_group,
    before,
    offset,
    first_head,
    heads,
    n_keys,
    inner,
    unit,
    start,
    stop,
    count,
    ONE_GROUP: tl.constexpr,
    SOFTCAP: tl.constexpr,
    GROUP: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """Add the terms of ``count`` tiles of the rows ``[start, stop)`` to dk, for a group's heads.

    Everything is ``[n, m]`` here. With ``ONE_GROUP`` all the rows are in the group ``only_group``.
    """
    once = tl.maximum(count, 1)
    for step in range(count * GROUP):
        head = first_head + step // once
        from_slot = start + step % once * BLOCK_M
        q_tile, row_lse, row_delta, first, positions, slot, valid, _ = rows_at(
            q, rows, first_key, lse, delta, from_slot, stop, before, offset, head, heads,
            WIDTH, BLOCK_D, BLOCK_M,
        )  # fmt: skip
        share = tl.load(shares + slot, mask=valid, other=0.0)
        x = products(k, q_tile, inner, SOFTCAP, dk.dtype)
        seen = (keys[:, None] >= first[None, :]) & (keys[:, None] <= positions[None, :])
        weights = seen_weights(x, unit, row_lse[None, :], seen)
        d_head = d_profile + head * stride_dh
        if ONE_GROUP:
            grads = key_grads(d_head + only_group * stride_dp, keys[:, None], n_keys)
        else:
            group = tl.load(row_groups + slot, mask=valid, other=-1)
            own_group = tl.maximum(group, 0).to(tl.int64) * stride_dp
            grads = key_grads(d_head + own_group[None, :], keys[:, None], n_keys)
        d_x = weights * ((grads - row_delta[None, :]) * share[None, :])
        dk = add_d_logits(dk, d_x, x, q_tile, SOFTCAP)
    return dk


@triton.jit
def profile_dk_kernel(
    q,
    k,
    lse,
    delta,
    d_profile,
    first_key,
    rows,
    row_groups,
    shares,
    runs,
    bounds,
    factor,
    dk,
    stride_kb,
    stride_kh,
    stride_kn,
    stride_dkb,
    stride_dkh,
    stride_dkn,
    stride_dp,
    stride_dh,
    batch,
    heads,
    m_queries,
    n_keys,
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
    """Write dk of one tile of keys and one key head, summed over its query heads.

    ``q [R, Hq, D]`` is contiguous; ``runs [R]`` is where the rows of one's group end.
    """
    b, kv_head, keys, start, stop = tile_of_keys(bounds, batch, heads // GROUP, n_keys, BLOCK_N)
    far = keys.to(tl.int64)
    inside = keys < n_keys
    k_at = k + b * stride_kb + kv_head * stride_kh
    k_tile = load_rows(k_at, far, stride_kn, inside, WIDTH, BLOCK_D, True)

    some = start < stop
    group = tl.load(row_groups + start, mask=some, other=-1).to(tl.int64)
    alone = tl.load(runs + start, mask=some, other=0) >= stop
    count = tl.cdiv(tl.maximum(stop - start, 0), BLOCK_M)
    count = tl.where(alone & (group < 0), 0, count)  # rows in no group give no gradient
    first_head = kv_head * GROUP
    total = tl.zeros([BLOCK_N, BLOCK_D], ACC)
    # One of the two loops is empty.
    total = walk_rows(
        total, k_tile, keys, q, rows, first_key, lse, delta, d_profile, stride_dp, stride_dh,
        row_groups, shares, group, b * m_queries, n_keys - m_queries, first_head, heads, n_keys,
        inner, unit, start, stop, tl.where(alone, count, 0),
        True, SOFTCAP, GROUP, WIDTH, BLOCK_D, BLOCK_M,
    )  # fmt: skip
    total = walk_rows(
        total, k_tile, keys, q, rows, first_key, lse, delta, d_profile, stride_dp, stride_dh,
        row_groups, shares, group, b * m_queries, n_keys - m_queries, first_head, heads, n_keys,
        inner, unit, start, stop, tl.where(alone, 0, count),
        False, SOFTCAP, GROUP, WIDTH, BLOCK_D, BLOCK_M,
    )  # fmt: skip
    dk_at = dk + b * stride_dkb + kv_head * stride_dkh
    store_rows(dk_at, far, stride_dkn, total * tl.load(factor), inside, WIDTH, BLOCK_D)
