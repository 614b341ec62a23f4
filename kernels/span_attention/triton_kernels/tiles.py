"""Define what the kernels are made of: loads, logits, visibility, and steps of the online softmax.

Inside the kernels logits are in base 2. A product ``q·k`` goes through two factors, so that the
common case is one fused multiply-add: ``x = q·k``, or ``x = tanh(inner · q·k)`` under a softcap,
and then ``unit · x`` is the logit in base 2:

    no softcap:  unit = scale · log₂e
    softcap:     inner = scale / cap,   unit = cap · log₂e

``unit`` is positive, so a maximum may be taken before it is applied.
"""

from __future__ import annotations

import triton
import triton.language as tl

from . import layout

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
GRANULE = tl.constexpr(layout.GRANULE)
NONE_LEFT = tl.constexpr(layout.NONE_LEFT)
# The running maximum starts finite: a row that has seen nothing yet makes no inf − inf.
LOWEST = tl.constexpr(-1.0e30)


@triton.jit
def load_rows(
    base,
    offsets,
    stride,
    valid,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    CHECKED: tl.constexpr,
):
    """Load ``[rows, BLOCK]`` numbers, zero beyond ``WIDTH``.

    If ``CHECKED``, rows that are not valid are zero too.
    """
    columns = tl.arange(0, BLOCK)
    at = base + (offsets * stride)[:, None] + columns[None, :]
    if CHECKED:
        if WIDTH == BLOCK:
            return tl.load(at, mask=valid[:, None], other=0.0)
        return tl.load(at, mask=valid[:, None] & (columns < WIDTH)[None, :], other=0.0)
    if WIDTH == BLOCK:
        return tl.load(at)
    return tl.load(at, mask=(columns < WIDTH)[None, :], other=0.0)


@triton.jit
def store_rows(base, offsets, stride, value, valid, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Store the valid rows of ``value [rows, BLOCK]``, up to ``WIDTH``, in the target's dtype."""
    columns = tl.arange(0, BLOCK)
    at = base + (offsets * stride)[:, None] + columns[None, :]
    mask = valid[:, None] & (columns < WIDTH)[None, :]
    tl.store(at, value.to(base.dtype.element_ty), mask=mask)


@triton.jit
def tanh(x):
    """Return the hyperbolic tangent, which lies in ``(−1, 1)``.

    ``exp`` of a large argument is inf, and the quotient then 0. Near 0 the difference loses its
    digits, which a large softcap would multiply, so a series is used there.
    """
    y = x * x
    return tl.where(y < 1e-3, x * (1.0 - y * (1.0 / 3.0)), 1.0 - 2.0 / (1.0 + tl.exp(2.0 * x)))


@triton.jit
def products(a, b, inner, SOFTCAP: tl.constexpr, ACC: tl.constexpr):
    """Return the module's ``x`` for ``a [m, D]`` and ``b [n, D]``, ``[m, n]`` of type ``ACC``."""
    x = tl.dot(a, tl.trans(b), input_precision="ieee", out_dtype=ACC)
    if SOFTCAP:
        x = tanh(inner * x)
    return x


@triton.jit
def sees(first_key, positions, keys):
    """Return which queries see which keys, ``[m, n]`` bool."""
    return (keys[None, :] >= first_key[:, None]) & (keys[None, :] <= positions[:, None])


@triton.jit
def zeros(ROWS: tl.constexpr, COUNT: tl.constexpr, DTYPE: tl.constexpr):
    """Return a tuple of ``COUNT`` vectors of ``ROWS`` zeros."""
    made = ()
    for _ in tl.static_range(COUNT):
        made = made + (tl.zeros([ROWS], DTYPE),)
    return made


@triton.jit
def add_by_label(sums, weights, labels, COUNT: tl.constexpr):
    """Return ``sums[g] + Σ_j weights[:, j]`` per span g, over the keys j whose label has bit g."""
    added = ()
    for g in tl.static_range(COUNT):
        member = ((labels >> g) & 1) != 0
        added = added + (sums[g] + tl.sum(tl.where(member[None, :], weights, 0.0), axis=1),)
    return added


@triton.jit
def scaled(sums, factor, COUNT: tl.constexpr):
    """Return each vector of the tuple multiplied by ``factor``."""
    made = ()
    for g in tl.static_range(COUNT):
        made = made + (sums[g] * factor,)
    return made


@triton.jit
def attend(
    acc,
    row_max,
    row_sum,
    span_max,
    span_sums,
    q,
    first_key,
    positions,
    keys_at,
    stride_k,
    values_at,
    stride_v,
    labels_at,
    n_keys,
    inner,
    unit,
    start,
    count,
    before_gap,
    gap,
    MASKED: tl.constexpr,
    SPANS: tl.constexpr,
    SOFTCAP: tl.constexpr,
    WITH_OUT: tl.constexpr,
    WIDTH: tl.constexpr,
    VALUE_WIDTH: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Continue the online softmax over ``count`` key tiles from ``start`` on.

    Returns the rows' new state. After ``before_gap`` of the tiles, ``gap`` tiles are left out, so
    that one loop takes the tiles on both edges of what the queries see. With ``SPANS`` the weights
    of each span are summed too: ``span_sums`` are relative to the maximum ``span_max``, and both
    change only here, so that tiles without a label cost a row nothing.
    """
    columns = tl.arange(0, BLOCK_N)
    for step in range(count):
        tile = start + step
        if MASKED:
            tile += tl.where(step >= before_gap, gap, 0)
        keys = tile * BLOCK_N + columns
        inside = keys < n_keys
        at = (tile * BLOCK_N).to(tl.int64)
        k = load_rows(keys_at + at * stride_k, columns, stride_k, inside, WIDTH, BLOCK_D, MASKED)
        x = products(q, k, inner, SOFTCAP, row_max.dtype)
        if MASKED:
            x = tl.where(sees(first_key, positions, keys), x, float("-inf"))
        new_max = tl.maximum(row_max, tl.max(x, axis=1) * unit)
        weights = tl.exp2(x * unit - new_max[:, None])
        if SPANS > 0:
            labels = tl.load(labels_at + keys, mask=inside, other=0)
            span_sums = scaled(span_sums, tl.exp2(span_max - new_max), SPANS)
            span_sums = add_by_label(span_sums, weights, labels, SPANS)
            span_max = new_max
        decay = tl.exp2(row_max - new_max)
        row_sum = row_sum * decay + tl.sum(weights, axis=1)
        row_max = new_max
        if WITH_OUT:
            v = load_rows(
                values_at + at * stride_v, columns, stride_v, inside, VALUE_WIDTH, BLOCK_DV, MASKED
            )
            acc = acc * decay[:, None]
            acc = tl.dot(weights.to(v.dtype), v, acc, input_precision="ieee", out_dtype=acc.dtype)
    return acc, row_max, row_sum, span_max, span_sums


@triton.jit
def next_run(marked, unmarked, cursor, end, wanted, BLOCK: tl.constexpr):
    """Return the tiles ``[run, stop)`` of the next run with marks between ``cursor`` and ``end``.

    ``marked`` and ``unmarked`` are a batch row's two lines of ``key_runs`` or ``query_runs``. The
    result is ``(end, end)`` if there is no such run, or none is wanted.
    """
    granule = cursor * (BLOCK // GRANULE)
    first = tl.load(marked + granule, mask=wanted & (cursor < end), other=NONE_LEFT)
    run = tl.minimum(first * GRANULE // BLOCK, end)
    last = tl.load(unmarked + first, mask=run < end, other=NONE_LEFT)
    return run, tl.minimum(tl.cdiv(last * GRANULE, BLOCK), end)


@triton.jit
def attend_all(
    acc,
    row_max,
    row_sum,
    q,
    first_key,
    positions,
    asked,
    keys_at,
    stride_k,
    values_at,
    stride_v,
    labels_at,
    marked,
    unmarked,
    n_keys,
    inner,
    unit,
    cursor,
    end,
    full_from,
    full_to,
    SPANS: tl.constexpr,
    SOFTCAP: tl.constexpr,
    WITH_OUT: tl.constexpr,
    WIDTH: tl.constexpr,
    VALUE_WIDTH: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr,
    BLOCK_N: tl.constexpr,
    ACC: tl.constexpr,
):
    """Attend to the key tiles ``[cursor, end)``, of which ``[full_from, full_to)`` need no mask.

    Returns ``acc``, ``row_max``, ``row_sum`` and the span sums relative to ``row_max``. Runs of
    tiles without a label take the plain loops; runs with a label differ only if a row is ``asked``
    for.
    """
    span_max = tl.full([q.shape[0]], LOWEST, ACC)
    span_sums = zeros(q.shape[0], SPANS, ACC)
    while cursor < end:
        run = end
        stop = end
        if SPANS > 0:
            run, stop = next_run(marked, unmarked, cursor, end, asked, BLOCK_N)
        full = tl.minimum(tl.maximum(full_from, cursor), run)
        edge = tl.minimum(tl.maximum(full_to, full), run)
        acc, row_max, row_sum, span_max, span_sums = attend(
            acc, row_max, row_sum, span_max, span_sums, q, first_key, positions,
            keys_at, stride_k, values_at, stride_v, labels_at, n_keys, inner, unit,
            full, edge - full, 0, 0, False, 0, SOFTCAP, WITH_OUT,
            WIDTH, VALUE_WIDTH, BLOCK_D, BLOCK_DV, BLOCK_N,
        )  # fmt: skip
        acc, row_max, row_sum, span_max, span_sums = attend(
            acc, row_max, row_sum, span_max, span_sums, q, first_key, positions,
            keys_at, stride_k, values_at, stride_v, labels_at, n_keys, inner, unit,
            cursor, full - cursor + run - edge, full - cursor, edge - full, True, 0, SOFTCAP,
            WITH_OUT, WIDTH, VALUE_WIDTH, BLOCK_D, BLOCK_DV, BLOCK_N,
        )  # fmt: skip
        if SPANS > 0:
            acc, row_max, row_sum, span_max, span_sums = attend(
                acc, row_max, row_sum, span_max, span_sums, q, first_key, positions,
                keys_at, stride_k, values_at, stride_v, labels_at, n_keys, inner, unit,
                run, stop - run, stop - run, 0, True, SPANS, SOFTCAP,
                WITH_OUT, WIDTH, VALUE_WIDTH, BLOCK_D, BLOCK_DV, BLOCK_N,
            )  # fmt: skip
        cursor = stop
    return acc, row_max, row_sum, scaled(span_sums, tl.exp2(span_max - row_max), SPANS)


@triton.jit
def span_grads(
    labels,
    d_mass_at,
    slot,
    n_spans,
    KEYS: tl.constexpr,
    ROWS: tl.constexpr,
    ACC: tl.constexpr,
):
    """Return ``Σ_{g ∋ j} g_ig`` as ``[keys, rows]``; it is 0 for rows that are not asked for."""
    total = tl.zeros([KEYS, ROWS], ACC)
    for g in range(n_spans):
        member = ((labels >> g) & 1) != 0
        grad = tl.load(d_mass_at + g, mask=slot >= 0, other=0.0)
        total += tl.where(member[:, None], grad[None, :], 0.0)
    return total
