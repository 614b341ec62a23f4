"""Keep the states of splits of the keys, and join them, always in the same order.

With m_s the maximum of split s and m = max_s m_s,

    l = Σ_s 2^(m_s − m) l_s
    out = Σ_s 2^(m_s − m) acc_s / l        mass = Σ_s 2^(m_s − m) sums_s / l

The states lie in one piece of memory, one kind after the other: ``acc [P, Dv]``, ``sums [P, G]``,
``m [P]`` and ``l [P]`` for the P = B·Hkv·splits·M·group packed rows of all splits.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .tiles import LN2, LOG2E, LOWEST

SPLITS_AT_ONCE = 32  # states that a program joins in one step


@triton.jit
def kinds_of_state(parts, states, VALUE_WIDTH: tl.constexpr, SPANS: tl.constexpr):
    """Return where acc, sums, maxima and sums of exponentials begin in the memory of the states."""
    sums = parts + states * VALUE_WIDTH
    maxima = sums + states * SPANS
    return parts, sums, maxima, maxima + states


@triton.jit
def decay_of(part_max, part, inside, highest):
    """Return the factor of some splits' states relative to the highest maximum, ``[BLOCK_S]``."""
    return tl.exp2(tl.load(part_max + part, mask=inside, other=LOWEST) - highest)


@triton.jit(do_not_specialize=["splits"])
def join_kernel(
    parts,
    sinks,
    first_key,
    slots,
    out,
    mass,
    lse,
    stride_ob,
    stride_oh,
    stride_om,
    batch,
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

    states = tl.cast(batch, tl.int64) * (heads // GROUP) * splits * m_queries * GROUP
    part_out, part_mass, part_max, part_sum = kinds_of_state(parts, states, VALUE_WIDTH, SPANS)
    split = tl.arange(0, BLOCK_S)
    # The state of split s is that many rows after the one of split 0.
    apart = m_queries * GROUP
    own = (b * (heads // GROUP) + head // GROUP) * splits * apart + row * GROUP + head % GROUP
    highest = tl.full([], LOWEST, ACC)
    for step in range(tl.cdiv(splits, BLOCK_S)):
        at = step * BLOCK_S + split
        maxima = tl.load(part_max + own + at * apart, mask=at < splits, other=LOWEST)
        highest = tl.maximum(highest, tl.max(maxima))
    if SINKS:
        sink = tl.maximum(tl.load(sinks + head).to(ACC) * LOG2E, LOWEST)
        highest = tl.maximum(highest, sink)

    columns = tl.arange(0, BLOCK_DV)
    of_columns = columns < VALUE_WIDTH
    total = tl.zeros([], ACC)
    joined = tl.zeros([BLOCK_DV], ACC)
    for step in range(tl.cdiv(splits, BLOCK_S)):
        at = step * BLOCK_S + split
        part, inside = own + at * apart, at < splits
        decay = decay_of(part_max, part, inside, highest)
        total += tl.sum(tl.load(part_sum + part, mask=inside, other=0.0) * decay)
        acc = tl.load(
            part_out + part[:, None] * VALUE_WIDTH + columns[None, :],
            mask=inside[:, None] & of_columns[None, :],
            other=0.0,
        )
        joined += tl.sum(acc * decay[:, None], axis=0)
    if SINKS:
        total += tl.exp2(sink - highest)

    sees_some = tl.load(first_key + b * m_queries + row) <= row + n_keys - m_queries
    total = tl.where(sees_some, total, 1.0)
    over = tl.where(sees_some, 1.0 / total, 0.0)
    row_lse = tl.where(sees_some, (highest + tl.log2(total)) * LN2, float("-inf"))
    tl.store(lse + (b * heads + head) * m_queries + row, row_lse)
    out_at = out + b * stride_ob + head * stride_oh + row.to(tl.int64) * stride_om
    tl.store(out_at + columns, (joined * over).to(out.dtype.element_ty), mask=of_columns)
    if SPANS > 0:
        slot = tl.load(slots + b * m_queries + row)
        for g in tl.static_range(SPANS):
            weight = tl.zeros([], ACC)
            for step in range(tl.cdiv(splits, BLOCK_S)):
                at = step * BLOCK_S + split
                part, inside = own + at * apart, at < splits
                sums = tl.load(part_mass + part * SPANS + g, mask=inside, other=0.0)
                weight += tl.sum(sums * decay_of(part_max, part, inside, highest))
            mass_at = mass + (slot.to(tl.int64) * heads + head) * n_spans + g
            tl.store(mass_at, weight * over, mask=slot >= 0)
