"""Compute span mass from the logsumexp of any attention kernel, with ``R × |span|`` work.

    mass_ig = Σ_{j in g, j visible to i} exp(S_ij − lse_i)

A program takes a tile of the rows asked for, gathered from wherever they stand, one head and a few
spans, and visits the tiles of keys that hold a label. Nothing of size M × N is made or read.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .configurations import Kernel, configuration
from .launch import Logits, accumulator, block, strides
from .layout import Layout
from .tiles import (
    GRANULE,
    LOG2E,
    NONE_LEFT,
    add_by_label,
    load_rows,
    next_run,
    products,
    sees,
    zeros,
)

SPANS_AT_ONCE = 3  # as many as a score asks for; a fourth spills in the fused kernel on sm_90
# The epilogue multiplies the asked rows with the labelled keys once more, and gathers its rows. The
# loops of the forward kernel have the products already, but with spans to sum they take smaller
# tiles for all keys, and a whole tile of queries for one row. Per 16 × 64 logits on sm_90, with
# heads of 128 and three spans: 811 instructions in the epilogue; in the loops 589 more where a
# label is, and 89 more everywhere (`python -m benchmarks.static.report`). So the epilogue is
# cheaper while less than 89 / (811 − 589) = 0.4 of the logits have both a row asked for and a
# label. Where the labels are is only known on the device, so the rows are counted: half of them
# are that many logits if four fifths of the tiles of keys hold a label.
LARGEST_SHARE = 0.5


@triton.jit
def span_mass_kernel(
    q,
    k,
    key_labels,
    first_key,
    rows,
    key_runs,
    lse,
    mass,
    stride_qb,
    stride_qh,
    stride_qm,
    stride_kb,
    stride_kh,
    stride_kn,
    stride_lb,
    stride_lh,
    stride_lm,
    batch,
    heads,
    m_queries,
    n_keys,
    n_rows,
    n_spans,
    first_span,
    inner,
    unit,
    GROUP: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_D: tl.constexpr,
    SPANS: tl.constexpr,
    SOFTCAP: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Write the spans ``first_span + {0 … SPANS − 1}`` that exist to ``mass [R, Hq, n_spans]``."""
    tiles = tl.cdiv(n_rows, BLOCK_M)
    tile = tl.program_id(0) % tiles
    head = (tl.program_id(0) // tiles % heads).to(tl.int64)
    first_span += tl.program_id(0) // tiles // heads * SPANS

    slot = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    valid = slot < n_rows
    flat = tl.load(rows + slot, mask=valid, other=0)
    row_batch = flat // m_queries
    row = flat % m_queries
    positions = (row + n_keys - m_queries).to(tl.int32)
    row_lse = tl.load(
        lse + row_batch * stride_lb + head * stride_lh + row * stride_lm, mask=valid, other=0.0
    )
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
    sums = zeros(BLOCK_M, SPANS, ACC)
    for b in range(
        (tl.load(rows + tile * BLOCK_M) // m_queries).to(tl.int32),
        (last_flat // m_queries).to(tl.int32) + 1,
    ):
        own = row_batch == b
        far = tl.cast(b, tl.int64)
        keys_at = k + far * stride_kb + head // GROUP * stride_kh
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
                tile_at = keys_at + (at * BLOCK_N).to(tl.int64) * stride_kn
                k_tile = load_rows(tile_at, keys_of_tile, stride_kn, inside, WIDTH, BLOCK_D, True)
                labels = tl.load(key_labels + far * n_keys + keys, mask=inside, other=0)
                x = products(q_tile, k_tile, inner, SOFTCAP, ACC)
                weights = tl.exp2(x * unit - (row_lse * LOG2E)[:, None])
                weights = tl.where(sees(seen_from, positions, keys), weights, 0.0)
                sums = add_by_label(sums, weights, labels >> first_span, SPANS)
            cursor = stop
    mass_at = mass + (slot.to(tl.int64) * heads + head) * n_spans + first_span
    for g in tl.static_range(SPANS):
        tl.store(mass_at + g, sums[g], mask=valid & (first_span + g < n_spans))


def spans_in_loops(rows: int, queries: int, spans: int) -> int:
    """Return how many spans a kernel is to sum in its own loops; the epilogue adds the others.

    It is none if ``rows`` is at most :data:`LARGEST_SHARE` of ``queries``, the queries of the whole
    batch, B · M.
    """
    return min(spans, SPANS_AT_ONCE) if rows > LARGEST_SHARE * queries else 0


def add_span_mass(
    q: Tensor,
    k: Tensor,
    lse: Tensor,
    mass: Tensor,
    layout: Layout,
    logits: Logits,
    first_span: int = 0,
) -> None:
    """Write ``mass[:, :, first_span:]`` of ``[R, Hq, G]`` from ``lse [B, Hq, M]`` (any strides)."""
    heads, spans = q.shape[1], mass.shape[2] - first_span
    if mass.shape[0] == 0 or spans <= 0:
        return
    config = configuration(Kernel.EPILOGUE, q, q.shape[3])
    at_once = min(spans, SPANS_AT_ONCE)
    grid = (-(-len(layout.rows) // config.block_m) * heads * -(-spans // at_once),)
    span_mass_kernel[grid](
        q,
        k,
        layout.key_labels,
        layout.first_key,
        layout.rows,
        layout.key_runs,
        lse,
        mass,
        *strides(q, k),
        *lse.stride(),
        q.shape[0],
        heads,
        q.shape[2],
        k.shape[2],
        len(layout.rows),
        mass.shape[2],
        first_span,
        logits.inner,
        logits.unit,
        GROUP=heads // k.shape[1],
        WIDTH=q.shape[3],
        BLOCK_D=block(q.shape[3]),
        SPANS=at_once,
        SOFTCAP=logits.softcap is not None,
        ACC=accumulator(q.dtype),
        **config.blocks(),
        **config.options(),
    )
