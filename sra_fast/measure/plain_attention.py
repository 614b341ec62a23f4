"""Attend where nobody asks for a mass, at the price of PyTorch's own attention.

Whatever PyTorch's ``scaled_dot_product_attention`` does exactly, and without a map of its own, goes
straight to it: whole rows, and single queries at the end of a cache. The rest goes through the op,
with a query that has no rows. What a layer needs of a mask is made once for all layers.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from sra_fast.kernels.contract import SpanQuery, segment_tensor
from sra_fast.kernels.steering import Steering
from sra_fast.measure.mask_reading import MaskReading
from sra_fast.op import span_attention

_WIDEST = 256  # the width of a head up to which CUDA's flash kernels go
_KEPT = 4  # masks, or lengths without one, whose tensors are kept: those of one forward are few


def plain_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    reading: MaskReading,
    scale: float | None,
    softcap: float | None,
    sinks: Tensor | None,
    steer: Steering | None = None,
) -> Tensor:
    """Return exact causal attention ``[B, Hq, M, Dv]`` under a mask.

    Args:
        query: ``[B, Hq, M, D]``.
        key: ``[B, Hkv, N, D]``, ``M ≤ N``.
        value: ``[B, Hkv, N, Dv]``.
        reading: the sequences of the mask, and its window.
        scale: factor on ``q·k``; ``1/√D`` if None.
        softcap: bound on the logits, as in :func:`sra_fast.span_attention`.
        sinks: ``[Hq]``, the logits of attention sinks.
        steer: the steering of the layer; None for none.
    """
    queries, keys = query.shape[2], key.shape[2]
    if softcap is None and sinks is None and steer is None:
        if queries == 1:
            starts = reading.first_keys(query.shape[0], keys)
            if starts is not None:
                return _last_query(query, key, value, starts, scale)
        elif (
            queries == keys > 1
            and reading.is_whole(query.shape[0], keys)
            and _makes_no_map(query, key, value)
            and (scale is None or scale > 0)  # PyTorch's kernels scale the −∞ of what is hidden
        ):
            grouped = key.shape[1] != query.shape[1]
            return F.scaled_dot_product_attention(
                query, key, value, is_causal=True, scale=scale, enable_gqa=grouped
            )
    asking = asking_nothing(reading.pieces, query.shape[0], keys, query.device)
    return span_attention(
        query,
        key,
        value,
        asking,
        scale=scale,
        window=reading.window,
        softcap=softcap,
        sinks=sinks,
        steer=steer,
    ).out


def _makes_no_map(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Return whether PyTorch has a flash kernel for whole rows, grouped heads included.

    Elsewhere it would hold all weights ``[B, Hq, M, N]`` at once.
    """
    if value.shape[3] != query.shape[3] or query.shape[3] > _WIDEST:
        return False
    if query.device.type == "cpu":
        return all(x.stride(3) == 1 for x in (query, key, value))
    return query.device.type == "cuda" and query.dtype in (torch.float16, torch.bfloat16)


def _last_query(
    query: Tensor, key: Tensor, value: Tensor, starts: tuple[int, ...], scale: float | None
) -> Tensor:
    """Return the attention of one query per row to the keys from ``starts[b]`` to the last one.

    The query heads of a key head see the same keys, so they pass for its queries: each key is read
    once for all of them.
    """
    batch, heads, _, width = query.shape
    mask = None
    if starts == starts[:1] * batch:
        if starts[0] > 0:
            key, value = key[:, :, starts[0] :], value[:, :, starts[0] :]
    else:
        mask = _seen_from(starts, key.shape[2], key.device)
    packed = query.reshape(batch, key.shape[1], -1, width)
    out = F.scaled_dot_product_attention(packed, key, value, attn_mask=mask, scale=scale)
    return out.reshape(batch, heads, 1, value.shape[3])


@functools.lru_cache(maxsize=_KEPT)
def _seen_from(starts: tuple[int, ...], keys: int, device: torch.device) -> Tensor:
    """Return which keys the last query of each row sees, ``[B, 1, 1, N]`` bool."""
    with torch.inference_mode(False):  # a later call may train with the same mask
        first = torch.tensor(starts, device=device)
        return (torch.arange(keys, device=device) >= first[:, None])[:, None, None]


@functools.lru_cache(maxsize=_KEPT)
def asking_nothing(
    pieces: tuple[tuple[int, int, int], ...], batch: int, keys: int, device: torch.device
) -> SpanQuery:
    """Return a query that has no rows and only says which sequences there are."""
    with torch.inference_mode(False):
        return SpanQuery(
            torch.zeros((batch, keys), dtype=torch.int32, device=device),
            torch.zeros(0, dtype=torch.int64, device=device),
            segment_tensor(list(pieces), device),
            (),
        )
