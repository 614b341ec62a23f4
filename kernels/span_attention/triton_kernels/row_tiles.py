"""Share what the gradients from the rows asked for have in common: tiles of rows and of keys.

The gradient of the mass (row_backward.py) and that of the profiles (profile_backward.py) differ in
what a key gets of a row, ``gap = G − δ``; the rest is here, with ``x`` and ``unit`` of tiles.py.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .tiles import GRANULE, LOG2E, NONE_LEFT, load_rows


@triton.jit
def tile_of_rows(
    rows,
    bounds,
    first_key,
    batch,
    heads,
    m_queries,
    n_keys,
    n_rows,
    BLOCK_M: tl.constexpr,
):
    """Return the program's head, batch row and rows: slots, which are valid, positions, first keys.

    Rows ascend, so those of a batch row stand together, and a tile lies in one batch row.
    """
    tiles = tl.cdiv(tl.minimum(n_rows, m_queries), BLOCK_M)
    tile = tiles - 1 - tl.program_id(0) % tiles  # the last rows first: they see the most keys
    head = (tl.program_id(0) // tiles % heads).to(tl.int64)
    b = tl.program_id(0) // tiles // heads
    granules = tl.cdiv(n_keys, GRANULE)
    next_batch = bounds + (b + 1) * granules
    stop_slot = tl.load(next_batch, mask=b + 1 < batch, other=n_rows)
    from_slot = tl.load(bounds + b * granules) + tile * BLOCK_M

    slot = from_slot + tl.arange(0, BLOCK_M)
    valid = slot < stop_slot
    flat = tl.load(rows + slot, mask=valid, other=0)
    positions = (flat - b.to(tl.int64) * m_queries).to(tl.int32) + n_keys - m_queries
    first = tl.load(first_key + flat, mask=valid, other=NONE_LEFT)
    return head, b, from_slot, slot, valid, positions, first


@triton.jit
def tile_of_keys(bounds, batch, kv_heads, n_keys, BLOCK_N: tl.constexpr):
    """Return the program's batch row, key head and keys, and the rows that may see some of them."""
    tiles = tl.cdiv(n_keys, BLOCK_N)
    tile = tl.program_id(0) % tiles  # the first keys first: most rows see them
    b = (tl.program_id(0) // tiles // kv_heads).to(tl.int64)
    kv_head = (tl.program_id(0) // tiles % kv_heads).to(tl.int64)
    keys = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    granules = tl.cdiv(n_keys, GRANULE)
    granule = tile * (BLOCK_N // GRANULE)
    last = tl.minimum(granule + BLOCK_N // GRANULE, granules) - 1
    start = tl.load(bounds + b * granules + granule)
    stop = tl.load(bounds + (batch + b) * granules + last)
    return b, kv_head, keys, start, stop


@triton.jit
def rows_at(
    q,
    rows,
    first_key,
    lse,
    delta,
    from_slot,
    stop,
    before,
    offset,
    head,
    heads,
    WIDTH: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """Return one tile of rows from ``from_slot`` on: q, lse in base 2, δ, and what they see."""
    columns = tl.arange(0, BLOCK_M)
    stride = heads * WIDTH
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
    return q_tile, row_lse, row_delta, first, positions, slot, valid, at


@triton.jit
def seen_weights(x, unit, row_lse, seen):
    """Return ``exp(S − lse)`` where a row sees a key and 0 elsewhere, in the shape of ``x``."""
    return tl.where(seen, tl.exp2(x * unit - row_lse), 0.0)


@triton.jit
def add_d_logits(total, d_x, x, b, SOFTCAP: tl.constexpr):
    """Return ``total + dS · b``, where ``d_x`` is dS before the slope of a softcap."""
    if SOFTCAP:
        d_x = d_x * (1.0 - x * x)
    return tl.dot(d_x.to(b.dtype), b, total, input_precision="ieee", out_dtype=total.dtype)
