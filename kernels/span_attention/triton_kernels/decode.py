"""Attend with few queries to a long cache, with span mass; the keys are split over programs.

Each program attends to its share of the keys for all query heads of one key head, packed into one
tile, ``row = query · group + head of the group``, and leaves a partial state, which a second kernel
joins with the others (split_states.py). There are as many splits as make one program for each place
on the card (occupancy.py), so that all run at once and share the bandwidth of its memory.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..contract import accumulation_dtype
from .configurations import Configuration, Kernel, configuration
from .launch import Logits, accumulator, block
from .layout import Layout
from .occupancy import held_when_compiled
from .split_states import SPLITS_AT_ONCE, join_kernel, kinds_of_state
from .tiles import (
    GRANULE,
    LOWEST,
    NONE_LEFT,
    attend_all,
    store_rows,
)

MOST_QUERIES = 16
MOST_PACKED = 128  # rows of the one tile that all query heads of a key head share
MOST_BYTES = 128 * 128 * 2  # of q in that tile: fewer rows fit if heads are wide or in float32
# A split has at least so many keys. A multiprocessor of an H100 has its share of the bandwidth for
# 256 keys and values of width 128 in about 5 µs, as long as a second launch takes; not measured.
SPLIT_KEYS = 256
WITHOUT_A_CARD = 4  # programs at once under the interpreter


@triton.jit(do_not_specialize=["splits"])
def split_kernel(
    q,
    k,
    v,
    key_labels,
    first_key,
    slots,
    key_runs,
    parts,
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
    """Write the states of one split, which are rows ``[B, Hkv, splits, M · GROUP]``, in ``ACC``."""
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
    share = (tiles - begin) // splits
    longer = (tiles - begin) % splits  # the first splits have one tile more
    cursor = begin + split * share + tl.minimum(split, longer)
    end = cursor + share + (split < longer).to(tl.int32)
    granules = tl.cdiv(n_keys, GRANULE)
    marked = key_runs + b * granules
    acc, row_max, row_sum, sums = attend_all(
        tl.zeros([BLOCK_M, BLOCK_DV], ACC), tl.full([BLOCK_M], LOWEST, ACC),
        tl.zeros([BLOCK_M], ACC), q_tile, first, positions, tl.max(slot) >= 0,
        k + b * stride_kb + kv_head * stride_kh, stride_kn,
        v + b * stride_vb + kv_head * stride_vh, stride_vn,
        key_labels + b * n_keys, marked, marked + batch * granules,
        n_keys, inner, unit, cursor, end,
        tl.cdiv(tl.load(first_key + b * m_queries + m_queries - 1), BLOCK_N),
        (n_keys - m_queries + 1) // BLOCK_N,
        SPANS, SOFTCAP, True, WIDTH, VALUE_WIDTH, BLOCK_D, BLOCK_DV, BLOCK_N, ACC,
    )  # fmt: skip

    states = tl.cast(batch, tl.int64) * kv_heads * splits * m_queries * GROUP
    part_out, part_mass, part_max, part_sum = kinds_of_state(parts, states, VALUE_WIDTH, SPANS)
    part = ((b * kv_heads + kv_head) * splits + split) * m_queries * GROUP + packed
    tl.store(part_max + part, row_max, mask=valid)
    tl.store(part_sum + part, row_sum, mask=valid)
    store_rows(part_out, part, VALUE_WIDTH, acc, valid, VALUE_WIDTH, BLOCK_DV)
    for g in tl.static_range(SPANS):
        tl.store(part_mass + part * SPANS + g, sums[g], mask=valid)


def serves(q: Tensor, v: Tensor) -> bool:
    """Return whether the queries are few enough to be packed into one tile."""
    _, heads, m, width = q.shape
    if m > MOST_QUERIES:
        return False
    return _fits_one_tile(m * heads // v.shape[1], max(width, v.shape[3]), q.element_size())


@functools.lru_cache(maxsize=64)
def _fits_one_tile(rows: int, width: int, element: int) -> bool:
    """Return whether a program's queries, numbers of ``element`` bytes, are not too many."""
    packed = block(rows)
    return packed <= MOST_PACKED and packed * block(width) * element <= MOST_BYTES


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
    (batch, heads, m, width), (_, kv_heads, n, value_width) = q.shape, v.shape
    config = configuration(Kernel.DECODE, q, max(width, value_width))
    shape = (heads // kv_heads, m, width, value_width)
    held, split_constants, join_constants = _ready_to_launch(
        q.device,
        config,
        q.dtype,
        *shape,
        first_spans,
        logits.softcap is not None,
        logits.sinks is not None,
    )
    splits = split_count(held, batch * kv_heads, n)
    dtype = accumulation_dtype(q.dtype)
    numbers = value_width + first_spans + 2
    parts = q.new_empty(batch * heads * splits * m * numbers, dtype=dtype)
    split_kernel[(batch * kv_heads * splits,)](
        q,
        k,
        v,
        layout.key_labels,
        layout.first_key,
        layout.slots,
        layout.key_runs,
        parts,
        *q.stride()[:3],
        *k.stride()[:3],
        *v.stride()[:3],
        batch,
        heads,
        m,
        n,
        splits,
        logits.inner,
        logits.unit,
        **split_constants,
    )
    # [B, M, Hq, Dv] in memory, as the models want it next
    out_strides = (m * heads * value_width, value_width, heads * value_width, 1)
    out = v.new_empty_strided((batch, heads, m, value_width), out_strides)
    mass = q.new_empty(rows, heads, spans, dtype=dtype)
    lse = q.new_empty(batch, heads, m, dtype=dtype)
    join_kernel[(batch * heads * m,)](
        parts,
        logits.sinks,
        layout.first_key,
        layout.slots,
        out,
        mass,
        lse,
        *out_strides[:3],
        batch,
        heads,
        m,
        n,
        splits,
        spans,
        **join_constants,
    )
    return out, mass, lse


def split_count(held: int, programs: int, n: int) -> int:
    """Return into how many splits N keys go, with ``programs`` = B·Hkv programs for each split.

    All programs together are at most as many as the card holds at once, as long as there are places
    for one split.
    """
    return max(1, min(held // programs, -(-n // SPLIT_KEYS)))


@functools.lru_cache(maxsize=64)
def _ready_to_launch(
    device: torch.device,
    config: Configuration,
    dtype: torch.dtype,
    group: int,
    m: int,
    width: int,
    value_width: int,
    spans: int,
    softcap: bool,
    sinks: bool,
) -> tuple[int, dict[str, Any], dict[str, Any]]:
    """Return what a launch needs beside the tensors, computed once for all layers and steps.

    These are the number of programs of the split kernel that the device holds at once, and the
    compile-time arguments and options of the split and of the join kernel. It is the kernel without
    spans that is asked how many fit, so that the splits, and with them the bits of out, do not
    depend on what is asked for.
    """
    held = WITHOUT_A_CARD
    if device.type == "cuda" and isinstance(split_kernel, triton.JITFunction):
        compiled = compiled_split(config, dtype, group, m, width, value_width)
        held = held_when_compiled(torch.cuda.get_device_properties(device), compiled)
    shared = _shared_constants(dtype, group, value_width, spans)
    split = shared | _split_constants(config, group, m, width, softcap)
    return held, split, shared | {"SINKS": sinks, "BLOCK_S": SPLITS_AT_ONCE}


def compiled_split(
    config: Configuration, dtype: torch.dtype, group: int, m: int, width: int, value_width: int
) -> Any:
    """Return the split kernel as Triton compiles it for the current device, without a launch."""
    tensors = [dtype] * 3 + [torch.int32] * 4 + [accumulation_dtype(dtype)]
    strides = [1024] * 9
    sizes = [2, 16 * group, m, 1024, 2]  # batch, heads, queries, keys, splits
    return split_kernel.warmup(
        *(*tensors, *strides, *sizes, 1.0, 1.0),
        grid=(1,),
        **_shared_constants(dtype, group, value_width, 0),
        **_split_constants(config, group, m, width, False),
    )


def _shared_constants(
    dtype: torch.dtype, group: int, value_width: int, spans: int
) -> dict[str, Any]:
    """Return the compile-time arguments that the split and the join kernel share."""
    return {
        "GROUP": group,
        "VALUE_WIDTH": value_width,
        "BLOCK_DV": block(value_width),
        "SPANS": spans,
        "ACC": accumulator(dtype),
    }


def _split_constants(
    config: Configuration, group: int, m: int, width: int, softcap: bool
) -> dict[str, Any]:
    """Return the further compile-time arguments and the options of the split kernel."""
    return {
        "WIDTH": width,
        "BLOCK_D": block(width),
        "SOFTCAP": softcap,
        "BLOCK_M": block(m * group),
        "BLOCK_N": config.block_n,
        **config.options(),
    }
