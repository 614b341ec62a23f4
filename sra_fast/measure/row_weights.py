"""Compute the attention of the last row of a call on every key, after steering."""

from __future__ import annotations

import functools
from dataclasses import replace

import torch
from torch import Tensor

from sra_fast.kernels.contract import (
    ProfileQuery,
    SpanQuery,
    accumulation_dtype,
    segment_tensor,
)
from sra_fast.kernels.steering import Steering
from sra_fast.measure.mask_reading import MaskReading
from sra_fast.op import span_attention


def row_weights(
    row: Tensor,
    key: Tensor,
    hidden: Tensor | None,
    scale: float,
    softcap: float | None,
    sinks: Tensor | None,
    steer: Steering | None = None,
) -> Tensor:
    """Return the attention of one row per sequence and head on every key, and on the sink if any.

    Args:
        row: ``[B, Hq, 1, D]``.
        key: ``[B, Hkv, N, D]``.
        hidden: ``[B, 1, N]`` bool, the keys that a row does not see; None if it sees all.
        scale: factor on ``q·k``.
        softcap: bound on the logits.
        sinks: ``[Hq]``.
        steer: the steering of a call whose last row this is; None for none.

    Returns:
        ``[B, Hq, N]``, or ``[B, Hq, N + 1]`` with sinks; float32, or float64 for float64.
    """
    if torch.is_autocast_enabled(row.device.type):
        with torch.autocast(row.device.type, enabled=False):
            return row_weights(row, key, hidden, scale, softcap, sinks, steer)
    batch, heads, _, width = row.shape
    groups, n = key.shape[1:3]
    dtype = accumulation_dtype(row.dtype)
    grouped = row.to(dtype).reshape(batch * groups, heads // groups, width)
    keys = key.to(dtype).reshape(batch * groups, n, width).transpose(1, 2)
    logits = torch.baddbmm(grouped.new_empty(1, 1, 1), grouped, keys, beta=0, alpha=scale)
    logits = logits.view(batch, heads, n)
    if softcap is not None:
        logits = logits.div_(softcap).tanh_().mul_(softcap)
    if hidden is not None:
        logits = logits.masked_fill_(hidden, -torch.inf)
    steered = steer is not None and not steer.does_nothing
    if steer is not None and steered:
        logits = _of_last_row(steer.to(logits.device)).added_to(logits[:, :, None], sinks)[:, :, 0]
    if sinks is not None:
        of_sinks = sinks.detach().to(dtype)[None, :, None].expand(batch, -1, 1)
        logits = torch.cat([logits, of_sinks], dim=-1)
    weights = logits.softmax(dim=-1)
    # Of a row that sees the span alone, which is knocked out, nothing is left.
    return weights.nan_to_num(0.0) if steered else weights


def _of_last_row(steer: Steering) -> Steering:
    """Return the steering of a call's last row alone, made once for all layers."""

    def make() -> Steering:
        return replace(steer, rows=None if steer.rows is None else steer.rows[:, -1:])

    return steer.derived(("last row",), make)


def weights_among_others(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    reading: MaskReading,
    scale: float,
    softcap: float | None,
    sinks: Tensor | None,
    steer: Steering,
) -> tuple[Tensor, Tensor]:
    """Return a call's attention, and its last rows' weights, which depend on its other rows.

    Args:
        query: ``[B, Hq, M, D]``.
        key: ``[B, Hkv, N, D]``.
        value: ``[B, Hkv, N, Dv]``.
        reading: the sequences of the mask, and its window.
        scale: factor on ``q·k``.
        softcap: bound on the logits.
        sinks: ``[Hq]``.
        steer: the steering of the call.

    Returns:
        ``[B, Hq, M, Dv]``, and the weights as :func:`row_weights` returns them.
    """
    sizes = query.shape[0], query.shape[2], key.shape[2]
    found = span_attention(
        query,
        key,
        value,
        _about_last_rows(reading.pieces, *sizes, query.device),
        scale=scale,
        window=reading.window,
        softcap=softcap,
        sinks=sinks,
        steer=steer,
    )
    weights = found.profile
    assert weights is not None
    if sinks is not None:
        of_sinks = torch.exp(sinks.detach().to(weights.dtype) - found.lse[:, :, -1])
        weights = torch.cat([weights, of_sinks[..., None]], dim=-1)
    return found.out, weights


@functools.lru_cache(maxsize=4)  # masks of one forward are few
def _about_last_rows(
    pieces: tuple[tuple[int, int, int], ...], batch: int, m: int, n: int, device: torch.device
) -> SpanQuery:
    """Return a query for the whole attention of the last row of each batch row."""
    with torch.inference_mode(False):
        return SpanQuery(
            torch.zeros((batch, n), dtype=torch.int32, device=device),
            torch.arange(m - 1, batch * m, m, device=device),
            segment_tensor(list(pieces), device),
            (),
            ProfileQuery(torch.arange(batch, dtype=torch.int32, device=device), batch),
        )
