"""Compute dq, one program per tile of queries and head (backward.py has the formulas)."""

from __future__ import annotations

import triton
import triton.language as tl

from .tiles import (
    GRANULE,
    LOG2E,
    NONE_LEFT,
    load_rows,
    next_run,
    products,
    sees,
    span_grads,
    store_rows,
)


@triton.jit
def add_dq(
    dq,
    q,
    d_out,
    row_lse,
    row_delta,
    first_key,
    positions,
    keys_at,
    stride_k,
    values_at,
    stride_v,
    n_keys,
    inner,
    unit,
    start,
    count,
    before_gap,
    gap,
    MASKED: tl.constexpr,
    SOFTCAP: tl.constexpr,
    WIDTH: tl.constexpr,
    VALUE_WIDTH: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Add the terms of ``count`` key tiles from ``start`` on to dq, with ``tiles.attend``'s gap."""
    columns = tl.arange(0, BLOCK_N)
    for step in range(count):
        tile = start + step
        if MASKED:
            tile += tl.where(step >= before_gap, gap, 0)
        keys = tile * BLOCK_N + columns
        inside = keys < n_keys
        at = (tile * BLOCK_N).to(tl.int64)
        k = load_rows(keys_at + at * stride_k, columns, stride_k, inside, WIDTH, BLOCK_D, MASKED)
        v = load_rows(
            values_at + at * stride_v, columns, stride_v, inside, VALUE_WIDTH, BLOCK_DV, MASKED
        )
        x = products(q, k, inner, SOFTCAP, dq.dtype)
        weights = tl.exp2(x * unit - row_lse[:, None])
        if MASKED:
            weights = tl.where(sees(first_key, positions, keys), weights, 0.0)
        d_weights = tl.dot(d_out, tl.trans(v), input_precision="ieee", out_dtype=dq.dtype)
        d_x = weights * (d_weights - row_delta[:, None])
        if SOFTCAP:
            d_x = d_x * (1.0 - x * x)
        dq = tl.dot(d_x.to(k.dtype), k, dq, input_precision="ieee", out_dtype=dq.dtype)
    return dq


@triton.jit
def add_dq_of_spans(
    dq,
    q,
    row_lse,
    first_key,
    positions,
    keys_at,
    stride_k,
    labels_at,
    d_mass_at,
    slot,
    n_keys,
    n_spans,
    inner,
    unit,
    start,
    stop,
    SOFTCAP: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Add ``Σ_j P_ij (Σ_{g ∋ j} g_ig) k_j`` of the key tiles ``[start, stop)`` to dq."""
    columns = tl.arange(0, BLOCK_N)
    for step in range(stop - start):
        tile = start + step
        keys = tile * BLOCK_N + columns
        inside = keys < n_keys
        at = (tile * BLOCK_N).to(tl.int64)
        k = load_rows(keys_at + at * stride_k, columns, stride_k, inside, WIDTH, BLOCK_D, True)
        labels = tl.load(labels_at + keys, mask=inside, other=0)
        x = products(q, k, inner, SOFTCAP, dq.dtype)
        weights = tl.exp2(x * unit - row_lse[:, None])
        weights = tl.where(sees(first_key, positions, keys), weights, 0.0)
        grads = span_grads(labels, d_mass_at, slot, n_spans, BLOCK_N, BLOCK_M, dq.dtype)
        d_x = weights * tl.trans(grads)
        if SOFTCAP:
            d_x = d_x * (1.0 - x * x)
        dq = tl.dot(d_x.to(k.dtype), k, dq, input_precision="ieee", out_dtype=dq.dtype)
    return dq


@triton.jit(do_not_specialize=["length_bucket"])
def dq_kernel(
    q,
    k,
    v,
    d_out,
    lse,
    delta,
    d_mass,
    key_labels,
    first_key,
    slots,
    key_runs,
    dq,
    stride_qb,
    stride_qh,
    stride_qm,
    stride_kb,
    stride_kh,
    stride_kn,
    stride_vb,
    stride_vh,
    stride_vn,
    stride_gb,
    stride_gh,
    stride_gm,
    stride_dqb,
    stride_dqh,
    stride_dqm,
    batch,
    heads,
    m_queries,
    n_keys,
    n_spans,
    inner,
    unit,
    scale,
    length_bucket,
    GROUP: tl.constexpr,
    WIDTH: tl.constexpr,
    VALUE_WIDTH: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr,
    SPANS: tl.constexpr,
    SOFTCAP: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Write dq of one tile of queries and one head."""
    tiles = tl.cdiv(m_queries, BLOCK_M)
    tile = tiles - 1 - tl.program_id(0) % tiles  # the longest first
    b = (tl.program_id(0) // tiles // heads).to(tl.int64)
    head = (tl.program_id(0) // tiles % heads).to(tl.int64)

    rows = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    far = rows.to(tl.int64)
    valid = rows < m_queries
    offset = n_keys - m_queries
    positions = rows + offset
    first_at = first_key + b * m_queries
    first = tl.load(first_at + rows, mask=valid, other=NONE_LEFT)
    last_row = tl.minimum(tile * BLOCK_M + BLOCK_M, m_queries) - 1
    q_at = q + b * stride_qb + head * stride_qh
    grad_at = d_out + b * stride_gb + head * stride_gh
    q_tile = load_rows(q_at, far, stride_qm, valid, WIDTH, BLOCK_D, True)
    grad = load_rows(grad_at, far, stride_gm, valid, VALUE_WIDTH, BLOCK_DV, True)
    of_head = (b * heads + head) * m_queries
    row_lse = tl.load(lse + of_head + rows, mask=valid, other=0.0) * LOG2E
    row_delta = tl.load(delta + of_head + rows, mask=valid, other=0.0)

    keys_at = k + b * stride_kb + head // GROUP * stride_kh
    values_at = v + b * stride_vb + head // GROUP * stride_vh
    begin = tl.load(first_at + tile * BLOCK_M) // BLOCK_N
    end = tl.cdiv(last_row + offset + 1, BLOCK_N)
    full = tl.minimum(tl.maximum(tl.cdiv(tl.load(first_at + last_row), BLOCK_N), begin), end)
    edge = tl.minimum(tl.maximum((tile * BLOCK_M + offset + 1) // BLOCK_N, full), end)
    total = tl.zeros([BLOCK_M, BLOCK_D], ACC)
    total = add_dq(
        total, q_tile, grad, row_lse, row_delta, first, positions,
        keys_at, stride_kn, values_at, stride_vn, n_keys, inner, unit,
        full, edge - full, 0, 0,
        False, SOFTCAP, WIDTH, VALUE_WIDTH, BLOCK_D, BLOCK_DV, BLOCK_N,
    )  # fmt: skip
    total = add_dq(
        total, q_tile, grad, row_lse, row_delta, first, positions,
        keys_at, stride_kn, values_at, stride_vn, n_keys, inner, unit,
        begin, full - begin + end - edge, full - begin, edge - full,
        True, SOFTCAP, WIDTH, VALUE_WIDTH, BLOCK_D, BLOCK_DV, BLOCK_N,
    )  # fmt: skip
    if SPANS:
        slot = tl.load(slots + b * m_queries + rows, mask=valid, other=-1)
        asked = tl.max(slot) >= 0
        granules = tl.cdiv(n_keys, GRANULE)
        marked = key_runs + b * granules
        while begin < end:
            run, stop = next_run(marked, marked + batch * granules, begin, end, asked, BLOCK_N)
            total = add_dq_of_spans(
                total, q_tile, row_lse, first, positions, keys_at, stride_kn,
                key_labels + b * n_keys, d_mass + (slot.to(tl.int64) * heads + head) * n_spans,
                slot, n_keys, n_spans, inner, unit, run, stop,
                SOFTCAP, WIDTH, BLOCK_D, BLOCK_M, BLOCK_N,
            )  # fmt: skip
            begin = stop
    dq_at = dq + b * stride_dqb + head * stride_dqh
    store_rows(dq_at, far, stride_dqm, total * scale, valid, WIDTH, BLOCK_D)
