"""Steer an attention of any kernel in place, from its output and logsumexp.

A program takes a tile of steered queries and one head, and visits the tiles of keys that hold a
token of the span: an online softmax over these gives ``lse_S`` and ``out_S``. With
``c = e^β − 1`` and ``t = log |c| + lse_S − lse``,

    c > 0:  lse′ = lse + log(1 + e^t)    out′ = out · σ(−t) + out_S · σ(t)
    c < 0:  lse′ = lse + log(1 − e^t)    out′ = (out − out_S · e^t) / (1 − e^t)

A row of which c < 0 leaves less than half (four fifths, where a share is met exactly) is marked:
rounding would show in it, so it is computed anew elsewhere. So is one with nearly all of its
attention on the span, if β follows from the rest.
"""

from __future__ import annotations

import math

import triton
import triton.language as tl
from torch import Tensor

from ..steering import MOST_ON_SPAN
from .configurations import Kernel, configuration
from .launch import Logits, accumulator, block, strides
from .layout import Layout
from .tiles import GRANULE, LN2, LOWEST, NONE_LEFT, load_rows, next_run, products, sees

BIAS = tl.constexpr(0)  # what `strength` is: β itself,
AT_LEAST = tl.constexpr(1)  # or the logit of a share that is the least,
EXACTLY = tl.constexpr(2)  # or of one that is met
GIVEN = tl.constexpr(3)  # or 0: each row's β is there before
LOG_HALF = tl.constexpr(-0.6931471805599453)
LOG_FOUR_FIFTHS = tl.constexpr(-0.2231435513142098)
LOG_MOST_ON_SPAN = tl.constexpr(math.log(MOST_ON_SPAN))
TINY = tl.constexpr(1.0e-37)  # keeps logarithms of 0 finite


@triton.jit
def steering_kernel(
    q,
    k,
    v,
    key_labels,
    first_key,
    rows,
    key_runs,
    chosen,
    out,
    lse,
    beta,
    inexact,
    stride_qb,
    stride_qh,
    stride_qm,
    stride_kb,
    stride_kh,
    stride_kn,
    stride_vb,
    stride_vh,
    stride_vn,
    stride_ob,
    stride_oh,
    stride_om,
    batch,
    heads,
    m_queries,
    n_keys,
    n_rows,
    inner,
    unit,
    strength,
    MODE: tl.constexpr,
    GROUP: tl.constexpr,
    WIDTH: tl.constexpr,
    VALUE_WIDTH: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr,
    SOFTCAP: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Steer a tile of ``rows [R]`` of ``out``, ``lse [B, Hq, M]``; write ``beta`` and ``inexact``.

    ``lse``, ``beta`` and ``inexact`` are contiguous; ``chosen [Hq]`` says which heads are steered.
    """
    tiles = tl.cdiv(n_rows, BLOCK_M)
    tile = tl.program_id(0) % tiles
    head = (tl.program_id(0) // tiles).to(tl.int64)
    slot = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    valid = (slot < n_rows) & (tl.load(chosen + head) != 0)
    flat = tl.load(rows + slot, mask=slot < n_rows, other=0)
    row_batch = flat // m_queries
    row = flat % m_queries
    positions = (row + n_keys - m_queries).to(tl.int32)
    at_row = (row_batch * heads + head) * m_queries + row
    row_lse = tl.load(lse + at_row)
    first = tl.load(first_key + flat, mask=valid, other=NONE_LEFT)
    q_at = q + head * stride_qh + (row_batch * stride_qb + row * stride_qm)[:, None]
    columns = tl.arange(0, BLOCK_D)
    q_tile = tl.load(
        q_at + columns[None, :], mask=valid[:, None] & (columns < WIDTH)[None, :], other=0.0
    )

    # Rows ascend, so a tile of them lies in neighbouring batch rows, mostly in one.
    last_flat = tl.load(rows + tl.minimum(tile * BLOCK_M + BLOCK_M, n_rows) - 1)
    granules = tl.cdiv(n_keys, GRANULE)
    keys_of_tile = tl.arange(0, BLOCK_N)
    row_max = tl.full([BLOCK_M], LOWEST, ACC)
    row_sum = tl.zeros([BLOCK_M], ACC)
    acc = tl.zeros([BLOCK_M, BLOCK_DV], ACC)
    for b in range(
        (tl.load(rows + tile * BLOCK_M) // m_queries).to(tl.int32),
        (last_flat // m_queries).to(tl.int32) + 1,
    ):
        own = row_batch == b
        far = tl.cast(b, tl.int64)
        keys_at = k + far * stride_kb + head // GROUP * stride_kh
        values_at = v + far * stride_vb + head // GROUP * stride_vh
        seen_from = tl.where(own, first, NONE_LEFT)
        cursor = tl.min(seen_from) // BLOCK_N
        end = tl.cdiv(tl.max(tl.where(own & valid, positions, -1)) + 1, BLOCK_N)
        marked = key_runs + far * granules
        while cursor < end:
            run, stop = next_run(marked, marked + batch * granules, cursor, end, True, BLOCK_N)
            for step in range(stop - run):
                at = run + step
                keys = at * BLOCK_N + keys_of_tile
                inside = keys < n_keys
                far_at = (at * BLOCK_N).to(tl.int64)
                tile_at = keys_at + far_at * stride_kn
                k_tile = load_rows(tile_at, keys_of_tile, stride_kn, inside, WIDTH, BLOCK_D, True)
                labels = tl.load(key_labels + far * n_keys + keys, mask=inside, other=0)
                x = products(q_tile, k_tile, inner, SOFTCAP, ACC) * unit
                seen = sees(seen_from, positions, keys) & (labels != 0)[None, :]
                x = tl.where(seen, x, float("-inf"))
                new_max = tl.maximum(row_max, tl.max(x, axis=1))
                weights = tl.exp2(x - new_max[:, None])
                decay = tl.exp2(row_max - new_max)
                row_sum = row_sum * decay + tl.sum(weights, axis=1)
                row_max = new_max
                v_tile = load_rows(
                    values_at + far_at * stride_vn,
                    keys_of_tile,
                    stride_vn,
                    inside,
                    VALUE_WIDTH,
                    BLOCK_DV,
                    True,
                )
                acc = tl.dot(
                    weights.to(v_tile.dtype),
                    v_tile,
                    acc * decay[:, None],
                    input_precision="ieee",
                    out_dtype=ACC,
                )
            cursor = stop

    reached = valid & (row_sum > 0.0)
    some = tl.where(reached, row_sum, 1.0)
    log_m = tl.minimum((row_max * LN2 - row_lse) + tl.log2(some) * LN2, 0.0)
    log_m = tl.where(reached, log_m, 0.0)
    shift = tl.zeros([BLOCK_M], ACC) + strength
    if MODE == GIVEN:
        shift += tl.load(beta + at_row)
    if (MODE == AT_LEAST) | (MODE == EXACTLY):
        left = tl.maximum(1.0 - tl.exp(log_m), TINY)
        shift += tl.log(left) - log_m
        if MODE == AT_LEAST:
            shift = tl.maximum(shift, 0.0)
    size = tl.abs(shift)
    raised = shift >= 0.0
    # At −∞ the exponential is 0, and so is the logarithm.
    t = tl.log(tl.maximum(1.0 - tl.exp(-size), TINY)) + tl.where(raised, size, 0.0) + log_m
    away = tl.exp(tl.minimum(t, 0.0))
    remains = 1.0 - tl.where(raised, 0.0, away)
    change = tl.where(
        raised,
        tl.maximum(t, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(t))),
        tl.log(tl.maximum(remains, TINY)),
    )
    bounded = tl.minimum(tl.maximum(t, -80.0), 80.0)  # beyond, a share of 1e-35 is left
    kept = tl.where(raised, 1.0 / (1.0 + tl.exp(bounded)), 1.0 / tl.maximum(remains, TINY))
    added = tl.where(raised, 1.0 / (1.0 + tl.exp(-bounded)), -away / tl.maximum(remains, TINY))
    out_at = out + head * stride_oh + (row_batch * stride_ob + row * stride_om)[:, None]
    value_columns = tl.arange(0, BLOCK_DV)
    stored = reached[:, None] & (value_columns < VALUE_WIDTH)[None, :]
    before = tl.load(out_at + value_columns[None, :], mask=stored, other=0.0).to(ACC)
    after = before * kept[:, None] + acc * (added / some)[:, None]
    tl.store(out_at + value_columns[None, :], after.to(out.dtype.element_ty), mask=stored)
    tl.store(lse + at_row, row_lse + change, mask=reached)
    tl.store(beta + at_row, shift, mask=reached)
    lost = change < LOG_HALF
    if MODE == EXACTLY:
        lost = (change < LOG_FOUR_FIFTHS) | (log_m > LOG_MOST_ON_SPAN)
    if MODE == AT_LEAST:
        lost = lost | (log_m > LOG_MOST_ON_SPAN)
    tl.store(inexact + at_row, lost.to(tl.int8), mask=reached)


def steer_rows(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    beta: Tensor,
    chosen: Tensor,
    layout: Layout,
    logits: Logits,
    mode: int,
    strength: float,
) -> Tensor:
    """Steer the rows of a layout in place, and return which must be computed anew.

    Args:
        q: ``[B, Hq, M, D]``.
        k: ``[B, Hkv, N, D]``.
        v: ``[B, Hkv, N, Dv]``.
        out: ``[B, Hq, M, Dv]``, written into; its last stride is 1.
        lse: ``[B, Hq, M]``, contiguous, written into.
        beta: ``[B, Hq, M]``, contiguous, written into; in mode :data:`GIVEN` read.
        chosen: ``[Hq]`` int8, 1 for the heads that are steered.
        layout: the layout of a query that asks for the steered rows, with the span as its label.
        logits: how products become logits.
        mode: :data:`BIAS`, :data:`AT_LEAST`, :data:`EXACTLY` or :data:`GIVEN`.
        strength: β, the logit of the share, or 0 in mode :data:`GIVEN`.

    Returns:
        ``[B, Hq, M]`` int8, 1 at such rows.
    """
    inexact = lse.new_zeros(lse.shape, dtype=chosen.dtype)
    rows, heads = len(layout.rows), q.shape[1]
    if rows == 0:
        return inexact
    config = configuration(Kernel.STEERING, q, max(q.shape[3], v.shape[3]))
    steering_kernel[(-(-rows // config.block_m) * heads,)](
        q,
        k,
        v,
        layout.key_labels,
        layout.first_key,
        layout.rows,
        layout.key_runs,
        chosen,
        out,
        lse,
        beta,
        inexact,
        *strides(q, k, v, out),
        q.shape[0],
        heads,
        q.shape[2],
        k.shape[2],
        rows,
        logits.inner,
        logits.unit,
        strength,
        MODE=mode,
        GROUP=heads // k.shape[1],
        WIDTH=q.shape[3],
        VALUE_WIDTH=v.shape[3],
        BLOCK_D=block(q.shape[3]),
        BLOCK_DV=block(v.shape[3]),
        SOFTCAP=logits.softcap is not None,
        ACC=accumulator(q.dtype),
        **config.blocks(),
        **config.options(),
    )
    return inexact
