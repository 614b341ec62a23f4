"""Compute attention profiles from the logsumexp of any attention kernel, with ``R × N`` work.

    profile_phj = 1 / |rows_p| · Σ_{r in group p} exp(S_rhj − lse_rh)

A program owns a tile of keys and the heads of one group of rows: it loads the keys of a key head
once, walks the group's rows for each query head that shares it, and writes every sum once. So there
are no atomics, and the same bits in every run. A group that sees no key of the tile costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..contract import SpanQuery, accumulation_dtype
from .configurations import Kernel, configuration
from .launch import Logits, accumulator, block, strides
from .tiles import LOG2E, NONE_LEFT, load_rows, products, sees

PROGRAMS = 512  # as many keep every multiprocessor busy; with fewer, heads are split over more


@dataclass(frozen=True)
class RowOrder:
    """The rows asked for, in the order of their groups.

    Attributes:
        slots: ``[R]`` int64, indices of the rows; those in no group come first.
        starts: ``[P + 1]`` int32, where each group's rows start in ``slots``, and their end.
    """

    slots: Tensor
    starts: Tensor


def row_order(query: SpanQuery) -> RowOrder:
    """Return the order of a query's rows, made once and without waiting for the device."""

    def make() -> RowOrder:
        assert query.profile is not None
        groups, slots = torch.sort(query.profile.row_groups, stable=True)
        edges = torch.arange(query.profile.groups + 1, dtype=groups.dtype, device=groups.device)
        starts = torch.searchsorted(groups, edges).to(torch.int32)
        return RowOrder(slots, starts)

    return query.derived(("row order",), make)


@triton.jit
def profile_kernel(
    q,
    k,
    first_key,
    rows,
    slots,
    starts,
    lse,
    profile,
    stride_qb,
    stride_qh,
    stride_qm,
    stride_kb,
    stride_kh,
    stride_kn,
    heads,
    m_queries,
    n_keys,
    inner,
    unit,
    GROUP: tl.constexpr,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BY_HEAD: tl.constexpr,
    SOFTCAP: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Write a tile of keys of ``profile [P, Hq, N]``, or of ``[P, Hq / HEADS, N]``, summed.

    ``HEADS`` query heads belong to a program, whole groups of them; ``lse`` is ``[R, Hq]``.
    """
    tiles = tl.cdiv(n_keys, BLOCK_N)
    tile = tl.program_id(0) % tiles
    part = tl.program_id(0) // tiles % (heads // HEADS)
    group = (tl.program_id(0) // tiles // (heads // HEADS)).to(tl.int64)
    start = tl.load(starts + group)
    stop = tl.load(starts + group + 1)
    share = 1.0 / tl.maximum(stop - start, 1).to(ACC)

    columns = tl.arange(0, BLOCK_N)
    keys = tile * BLOCK_N + columns
    inside = keys < n_keys
    # The rows of a group ascend, so they lie in neighbouring batch rows, mostly in one.
    some = start < stop
    first_row = tl.load(rows + tl.load(slots + start, mask=some, other=0), mask=some, other=0)
    last_row = tl.load(rows + tl.load(slots + stop - 1, mask=some, other=0), mask=some, other=0)
    first_batch = (first_row // m_queries).to(tl.int32)
    last_batch = tl.where(some, (last_row // m_queries).to(tl.int32), -1)
    # Of rows that ascend, the last one sees furthest, and the first one looks back furthest.
    reach = (last_row % m_queries + n_keys - m_queries).to(tl.int32)
    back = tl.load(first_key + first_row, mask=some, other=0)
    unseen = (reach < tile * BLOCK_N) | (back >= (tile + 1) * BLOCK_N)
    stop = tl.where(unseen & (first_batch == last_batch), start, stop)
    summed = tl.zeros([BLOCK_N], ACC)
    for local in range(HEADS):
        head = (part * HEADS + local).to(tl.int64)
        total = tl.zeros([BLOCK_N], ACC)
        for b in range(first_batch, last_batch + 1):
            far = tl.cast(b, tl.int64)
            tile_at = k + far * stride_kb + head // GROUP * stride_kh
            tile_at += (tile * BLOCK_N).to(tl.int64) * stride_kn
            k_tile = load_rows(tile_at, columns, stride_kn, inside, WIDTH, BLOCK_D, True)
            for at in range(start, stop, BLOCK_M):
                index = at + tl.arange(0, BLOCK_M)
                slot = tl.load(slots + index, mask=index < stop, other=0)
                flat = tl.load(rows + slot)
                own = (index < stop) & (flat // m_queries == b)
                row = flat % m_queries
                positions = (row + n_keys - m_queries).to(tl.int32)
                first = tl.load(first_key + flat, mask=own, other=NONE_LEFT)
                # Rows beyond the group are those of slot 0, which is there; they see no key.
                q_at = q + far * stride_qb + head * stride_qh
                q_tile = load_rows(q_at, row, stride_qm, own, WIDTH, BLOCK_D, False)
                row_lse = tl.load(lse + slot * heads + head)
                x = products(q_tile, k_tile, inner, SOFTCAP, ACC)
                weights = tl.exp2(x * unit - (row_lse * LOG2E)[:, None])
                weights = tl.where(sees(first, positions, keys), weights, 0.0)
                total += tl.sum(weights, axis=0)
        if BY_HEAD:
            at_head = profile + (group * heads + head) * n_keys
            tl.store(at_head + keys, total * share, mask=inside)
        else:
            summed += total
    if not BY_HEAD:
        at_part = profile + (group * (heads // HEADS) + part) * n_keys
        tl.store(at_part + keys, summed * share, mask=inside)


def key_profile(
    q: Tensor,
    k: Tensor,
    lse: Tensor,
    first_key: Tensor,
    rows: Tensor,
    order: RowOrder,
    logits: Logits,
    by_head: bool,
) -> Tensor:
    """Return ``profile [P, Hq, N]``, or ``[P, N]`` as a mean over heads, from ``lse [R, Hq]``.

    ``first_key [B, M]`` is that of a layout; ``rows [R]`` are the query's.
    """
    heads, n, groups = q.shape[1], k.shape[2], len(order.starts) - 1
    dtype = accumulation_dtype(q.dtype)
    if groups == 0 or n == 0:
        return q.new_zeros((groups, heads, n) if by_head else (groups, n), dtype=dtype)
    config = configuration(Kernel.PROFILE, q, q.shape[3])
    tiles = triton.cdiv(n, config.block_n)
    of_program = _heads_of_program(heads, heads // k.shape[1], tiles * groups)
    profile = q.new_empty(groups, heads if by_head else heads // of_program, n, dtype=dtype)
    profile_kernel[(tiles * groups * (heads // of_program),)](
        q,
        k,
        first_key,
        rows,
        order.slots,
        order.starts,
        lse,
        profile,
        *strides(q, k),
        heads,
        q.shape[2],
        n,
        logits.inner,
        logits.unit,
        GROUP=heads // k.shape[1],
        HEADS=of_program,
        WIDTH=q.shape[3],
        BLOCK_D=block(q.shape[3]),
        BY_HEAD=by_head,
        SOFTCAP=logits.softcap is not None,
        ACC=accumulator(q.dtype),
        **config.blocks(),
        **config.options(),
    )
    return profile if by_head else profile.sum(dim=1) / heads


def _heads_of_program(heads: int, group: int, programs: int) -> int:
    """Return how many query heads a program takes: whole groups of them, as few as are needed."""
    kv_heads = heads // group
    parts = max(
        (split for split in range(1, kv_heads + 1) if kv_heads % split == 0),
        key=lambda split: (min(programs * split, PROGRAMS), -split),
    )
    return heads // parts
