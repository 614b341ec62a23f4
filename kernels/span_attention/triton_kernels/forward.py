"""Compute attention and span mass of many queries, one program per tile of queries and head.

    m_i ← max(m_i, max_j S_ij),   every sum so far ← sum · 2^(m_old − m_new)
    l_i   = Σ_j 2^(S_ij − m_i)                out_i   = Σ_j 2^(S_ij − m_i) v_j / l_i
    lse_i = ln 2 · (m_i + log₂ l_i)           mass_ig = Σ_{j in g} 2^(S_ij − m_i) / l_i

The logits S are in base 2 (tiles.py). A program walks its key tiles in order, by runs of tiles with
and without a label; runs without one are split into full tiles, which need no mask, and edges. For
a tile of queries none of which is asked for, all keys are one run. Where few rows are asked for,
no span is summed here, which leaves registers for larger tiles: the mass comes from the logsumexp
afterwards (epilogue.py, ``spans_in_loops``).
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ..contract import accumulation_dtype
from .configurations import Kernel
from .launch import Logits, accumulator, block, strides
from .layout import Layout
from .tiles import (
    GRANULE,
    LN2,
    LOG2E,
    LOWEST,
    NONE_LEFT,
    attend_all,
    load_rows,
    store_rows,
)
from .tuning import launch


@triton.jit(do_not_specialize=["length_bucket"])
def forward_kernel(
    q,
    k,
    v,
    sinks,
    key_labels,
    first_key,
    slots,
    key_runs,
    out,
    mass,
    lse,
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
    n_spans,
    inner,
    unit,
    length_bucket,
    GROUP: tl.constexpr,
    WIDTH: tl.constexpr,
    VALUE_WIDTH: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr,
    SPANS: tl.constexpr,
    SOFTCAP: tl.constexpr,
    SINKS: tl.constexpr,
    WITH_OUT: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Write ``out``, ``lse`` and the first ``SPANS`` spans of ``mass [R, Hq, n_spans]``.

    Strides are in elements. Without ``WITH_OUT`` only tiles with a row asked for are computed, and
    only their lse is written.
    """
    tiles = tl.cdiv(m_queries, BLOCK_M)
    tile = tiles - 1 - tl.program_id(0) % tiles  # the longest first
    b = (tl.program_id(0) // tiles // heads).to(tl.int64)
    head = (tl.program_id(0) // tiles % heads).to(tl.int64)
    kv_head = head // GROUP

    rows = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    valid = rows < m_queries
    offset = n_keys - m_queries
    positions = rows + offset
    first_at = first_key + b * m_queries
    first = tl.load(first_at + rows, mask=valid, other=NONE_LEFT)
    last_row = tl.minimum(tile * BLOCK_M + BLOCK_M, m_queries) - 1
    q_tile = load_rows(
        q + b * stride_qb + head * stride_qh,
        rows.to(tl.int64),
        stride_qm,
        valid,
        WIDTH,
        BLOCK_D,
        True,
    )
    slot = tl.load(slots + b * m_queries + rows, mask=valid, other=-1)
    asked = tl.max(slot) >= 0
    granules = tl.cdiv(n_keys, GRANULE)

    row_max = tl.full([BLOCK_M], LOWEST, ACC)
    row_sum = tl.zeros([BLOCK_M], ACC)
    if SINKS:
        row_max = tl.maximum(row_max, tl.load(sinks + head).to(ACC) * LOG2E)
        row_sum += 1.0
    cursor = tl.load(first_at + tile * BLOCK_M) // BLOCK_N
    end = tl.cdiv(last_row + offset + 1, BLOCK_N)
    if not WITH_OUT:
        end = tl.where(asked, end, cursor)
    acc, row_max, row_sum, sums = attend_all(
        tl.zeros([BLOCK_M, BLOCK_DV], ACC), row_max, row_sum, q_tile, first, positions, asked,
        k + b * stride_kb + kv_head * stride_kh, stride_kn,
        v + b * stride_vb + kv_head * stride_vh, stride_vn,
        key_labels + b * n_keys, key_runs + b * granules, key_runs + (batch + b) * granules,
        n_keys, inner, unit, cursor, end,
        tl.cdiv(tl.load(first_at + last_row), BLOCK_N), (tile * BLOCK_M + offset + 1) // BLOCK_N,
        SPANS, SOFTCAP, WITH_OUT, WIDTH, VALUE_WIDTH, BLOCK_D, BLOCK_DV, BLOCK_N, ACC,
    )  # fmt: skip

    # A query that sees anything sees itself; of the others only a sink is left in the sum.
    sees_some = first <= positions
    row_sum = tl.where(row_sum == 0.0, 1.0, row_sum)
    over = tl.where(sees_some, 1.0 / row_sum, 0.0)
    row_lse = tl.where(sees_some, (row_max + tl.log2(row_sum)) * LN2, float("-inf"))
    tl.store(lse + (b * heads + head) * m_queries + rows, row_lse, mask=valid)
    if WITH_OUT:
        store_rows(
            out + b * stride_ob + head * stride_oh,
            rows.to(tl.int64),
            stride_om,
            acc * over[:, None],
            valid,
            VALUE_WIDTH,
            BLOCK_DV,
        )
    if SPANS > 0:
        mass_at = mass + (slot.to(tl.int64) * heads + head) * n_spans
        for g in tl.static_range(SPANS):
            tl.store(mass_at + g, sums[g] * over, mask=slot >= 0)


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: Layout,
    logits: Logits,
    *,
    rows: int,
    spans: int,
    first_spans: int,
    with_out: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``out``, ``mass [R, Hq, G]`` with its first spans written, and ``lse [B, Hq, M]``.

    The arguments are those of the op. Without ``with_out``, out is empty, and lse is written only
    in tiles with a row asked for.
    """
    batch, heads, m, width = q.shape
    value_width = v.shape[3]
    dtype = accumulation_dtype(q.dtype)
    # [B, M, Hq, Dv] in memory, as the models want it next
    shape = (batch, heads, m if with_out else 0, value_width)
    out = v.new_empty_strided(
        shape, (shape[2] * heads * value_width, value_width, heads * value_width, 1)
    )
    mass = q.new_empty(rows, heads, spans, dtype=dtype)
    lse = q.new_empty(batch, heads, m, dtype=dtype)
    launch(
        Kernel.FORWARD_WITH_SPANS if first_spans else Kernel.FORWARD,
        forward_kernel,
        lambda tiles: -(-m // tiles["BLOCK_M"]) * batch * heads,
        q,
        k.shape[2],
        q,
        k,
        v,
        logits.sinks,
        layout.key_labels,
        layout.first_key,
        layout.slots,
        layout.key_runs,
        out,
        mass,
        lse,
        *strides(q, k, v, out),
        batch,
        heads,
        m,
        k.shape[2],
        spans,
        logits.inner,
        logits.unit,
        GROUP=heads // k.shape[1],
        WIDTH=width,
        VALUE_WIDTH=value_width,
        BLOCK_D=block(width),
        BLOCK_DV=block(value_width),
        SPANS=first_spans,
        SOFTCAP=logits.softcap is not None,
        SINKS=logits.sinks is not None,
        WITH_OUT=with_out,
        ACC=accumulator(q.dtype),
    )
    return out, mass, lse
