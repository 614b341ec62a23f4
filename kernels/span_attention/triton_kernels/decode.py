"""Attend with few queries to a long cache, with span mass; the keys are split over programs.

Each program attends to its share of the keys for all query heads of one key head, packed into one
tile, ``row = query · group + head of the group``, and leaves a partial state. A second kernel joins
the states: with m_s the maximum of split s and m = max_s m_s,

    l = Σ_s 2^(m_s − m) l_s
    out = Σ_s 2^(m_s − m) acc_s / l        mass = Σ_s 2^(m_s − m) sums_s / l
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..contract import accumulation_dtype
from .configurations import Kernel, configuration
from .launch import Logits, accumulator, block, strides
from .layout import Layout
from .tiles import (
    GRANULE,
    LN2,
    LOG2E,
    LOWEST,
    NONE_LEFT,
    attend_all,
    store_rows,
)

MOST_QUERIES = 16
MOST_PACKED = 128  # rows of the one tile that all query heads of a key head share
MOST_BYTES = 128 * 128 * 2  # of q in that tile: fewer rows fit if heads are wide or in float32
MOST_SPLITS = 64
SPLIT_KEYS = 512  # a split has at least so many keys: with fewer, joining costs more than it saves


@triton.jit
def split_kernel(
    q,
    k,
    v,
    key_labels,
    first_key,
    slots,
    key_runs,
    part_out,
    part_mass,
    part_max,
    part_sum,
    stride_qb,
    stride_qh,
    stride_qm,
    stride_kb,
    stride_kh,
    stride_kn,
    stride_vb,
    stride_vh,
    stride_vn,
    batch,
    heads,
    m_queries,
    n_keys,
    splits,
    inner,
    unit,
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
    """Write the states of one split, ``part_* [B, Hkv, splits, M · GROUP, …]`` in ``ACC``."""
    split = tl.program_id(0) % splits
    kv_heads = heads // GROUP
    b = (tl.program_id(0) // splits // kv_heads).to(tl.int64)
    kv_head = (tl.program_id(0) // splits % kv_heads).to(tl.int64)

    packed = tl.arange(0, BLOCK_M)
    valid = packed < m_queries * GROUP
    row = packed // GROUP
    positions = row + n_keys - m_queries
    first = tl.load(first_key + b * m_queries + row, mask=valid, other=NONE_LEFT)
    slot = tl.load(slots + b * m_queries + row, mask=valid, other=-1)
    columns = tl.arange(0, BLOCK_D)
    head = kv_head * GROUP + packed % GROUP
    q_at = q + b * stride_qb + head * stride_qh + row.to(tl.int64) * stride_qm
    q_tile = tl.load(
        q_at[:, None] + columns[None, :],
        mask=valid[:, None] & (columns < WIDTH)[None, :],
        other=0.0,
    )

    begin = tl.minimum(tl.load(first_key + b * m_queries), n_keys) // BLOCK_N
    tiles = tl.cdiv(n_keys, BLOCK_N)
    share = tl.cdiv(tiles - begin, splits)
    cursor = begin + split * share
    granules = tl.cdiv(n_keys, GRANULE)
    marked = key_runs + b * granules
    acc, row_max, row_sum, sums = attend_all(
        tl.zeros([BLOCK_M, BLOCK_DV], ACC), tl.full([BLOCK_M], LOWEST, ACC),
        tl.zeros([BLOCK_M], ACC), q_tile, first, positions, tl.max(slot) >= 0,
        k + b * stride_kb + kv_head * stride_kh, stride_kn,
        v + b * stride_vb + kv_head * stride_vh, stride_vn,
        key_labels + b * n_keys, marked, marked + batch * granules,
        n_keys, inner, unit, cursor, tl.minimum(cursor + share, tiles),
        tl.cdiv(tl.load(first_key + b * m_queries + m_queries - 1), BLOCK_N),
        (n_keys - m_queries + 1) // BLOCK_N,
        SPANS, SOFTCAP, True, WIDTH, VALUE_WIDTH, BLOCK_D, BLOCK_DV, BLOCK_N, ACC,
    )  # fmt: skip

    part = ((b * kv_heads + kv_head) * splits + split) * m_queries * GROUP + packed
    tl.store(part_max + part, row_max, mask=valid)
    tl.store(part_sum + part, row_sum, mask=valid)
    store_rows(part_out, part, VALUE_WIDTH, acc, valid, VALUE_WIDTH, BLOCK_DV)
    for g in tl.static_range(SPANS):
        tl.store(part_mass + part * SPANS + g, sums[g], mask=valid)


@triton.jit
def join_kernel(
    part_out,
    part_mass,
    part_max,
    part_sum,
    sinks,
    first_key,
    slots,
    out,
    mass,
    lse,
    stride_ob,
    stride_oh,
    stride_om,
    heads,
    m_queries,
    n_keys,
    splits,
    n_spans,
    GROUP: tl.constexpr,
    VALUE_WIDTH: tl.constexpr,
    BLOCK_DV: tl.constexpr,
    SPANS: tl.constexpr,
    SINKS: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_S: tl.constexpr,
):
    """Join the states of all splits for one query of one head, and write its results."""
    row = tl.program_id(0) % m_queries
    head = (tl.program_id(0) // m_queries % heads).to(tl.int64)
    b = (tl.program_id(0) // m_queries // heads).to(tl.int64)

    split = tl.arange(0, BLOCK_S)
    inside = split < splits
    of_head = (b * (heads // GROUP) + head // GROUP) * splits
    part = (of_head + split) * m_queries * GROUP + row * GROUP + head % GROUP
    maxima = tl.load(part_max + part, mask=inside, other=LOWEST)
    highest = tl.max(maxima)
    if SINKS:
        sink = tl.maximum(tl.load(sinks + head).to(ACC) * LOG2E, LOWEST)
        highest = tl.maximum(highest, sink)
    decay = tl.exp2(maxima - highest)
    total = tl.sum(tl.load(part_sum + part, mask=inside, other=0.0) * decay)
    if SINKS:
        total += tl.exp2(sink - highest)

    sees_some = tl.load(first_key + b * m_queries + row) <= row + n_keys - m_queries
    total = tl.where(sees_some, total, 1.0)
    decay = tl.where(sees_some, decay / total, 0.0)
    row_lse = tl.where(sees_some, (highest + tl.log2(total)) * LN2, float("-inf"))
    tl.store(lse + (b * heads + head) * m_queries + row, row_lse)
    columns = tl.arange(0, BLOCK_DV)
    of_columns = columns < VALUE_WIDTH
    acc = tl.load(
        part_out + part[:, None] * VALUE_WIDTH + columns[None, :],
        mask=inside[:, None] & of_columns[None, :],
        other=0.0,
    )
    joined = tl.sum(acc * decay[:, None], axis=0)
    out_at = out + b * stride_ob + head * stride_oh + row.to(tl.int64) * stride_om
    tl.store(out_at + columns, joined.to(out.dtype.element_ty), mask=of_columns)
    if SPANS > 0:
        slot = tl.load(slots + b * m_queries + row)
        for g in tl.static_range(SPANS):
            weights = tl.load(part_mass + part * SPANS + g, mask=inside, other=0.0)
            mass_at = mass + (slot.to(tl.int64) * heads + head) * n_spans + g
            tl.store(mass_at, tl.sum(weights * decay), mask=slot >= 0)


def serves(q: Tensor, v: Tensor) -> bool:
    """Return whether the queries are few enough to be packed into one tile."""
    m = q.shape[2]
    packed = block(m * q.shape[1] // v.shape[1])
    size = packed * block(max(q.shape[3], v.shape[3])) * q.element_size()
    return m <= MOST_QUERIES and packed <= MOST_PACKED and size <= MOST_BYTES


def decode(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: Layout,
    logits: Logits,
    *,
    rows: int,
    spans: int,
    first_spans: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``out``, ``mass`` and ``lse`` for at most :data:`MOST_QUERIES` queries.

    Arguments and results are those of :func:`forward.forward`.
    """
    batch, heads, m, width = q.shape
    kv_heads, n, value_width = k.shape[1], k.shape[2], v.shape[3]
    group = heads // kv_heads
    dtype = accumulation_dtype(q.dtype)
    splits = _splits(batch * kv_heads, n, q.device)
    states = (batch, kv_heads, splits, m * group)
    part_out = q.new_empty(*states, value_width, dtype=dtype)
    part_mass = q.new_empty(*states, first_spans, dtype=dtype)
    part_max, part_sum = q.new_empty(2, *states, dtype=dtype)
    config = configuration(Kernel.DECODE, q, max(width, value_width))
    shared = {
        "GROUP": group,
        "VALUE_WIDTH": value_width,
        "BLOCK_DV": block(value_width),
        "SPANS": first_spans,
        "ACC": accumulator(q.dtype),
    }
    split_kernel[(batch * kv_heads * splits,)](
        q,
        k,
        v,
        layout.key_labels,
        layout.first_key,
        layout.slots,
        layout.key_runs,
        part_out,
        part_mass,
        part_max,
        part_sum,
        *strides(q, k, v),
        batch,
        heads,
        m,
        n,
        splits,
        logits.inner,
        logits.unit,
        WIDTH=width,
        BLOCK_D=block(width),
        SOFTCAP=logits.softcap is not None,
        BLOCK_M=block(m * group),
        BLOCK_N=config.block_n,
        **config.options(),
        **shared,
    )
    out = v.new_empty(batch, m, heads, value_width).transpose(1, 2)
    mass = q.new_empty(rows, heads, spans, dtype=dtype)
    lse = q.new_empty(batch, heads, m, dtype=dtype)
    join_kernel[(batch * heads * m,)](
        part_out,
        part_mass,
        part_max,
        part_sum,
        logits.sinks,
        layout.first_key,
        layout.slots,
        out,
        mass,
        lse,
        *strides(out),
        heads,
        m,
        n,
        splits,
        spans,
        SINKS=logits.sinks is not None,
        BLOCK_S=triton.next_power_of_2(splits),
        **shared,
    )
    return out, mass, lse


def _splits(programs: int, n: int, device: torch.device) -> int:
    """Return how many splits give every multiprocessor two programs, if there are keys enough."""
    processors = 2
    if device.type == "cuda":
        processors = torch.cuda.get_device_properties(device).multi_processor_count
    wanted = -(-2 * processors // programs)
    return max(1, min(wanted, MOST_SPLITS, -(-n // SPLIT_KEYS)))
