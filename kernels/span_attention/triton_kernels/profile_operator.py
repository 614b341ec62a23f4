"""Wrap the profile kernels as ``torch.library`` operators, nodes of a compiled graph.

Their arguments are flat, as in operators.py; a softcap of 0 means none.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..contract import accumulation_dtype
from .key_profile import RowOrder, key_profile
from .launch import Logits, like_heads
from .profile_backward import profile_backward
from .row_groups import RowGroups


@torch.library.custom_op("sra_fast::profile_of_lse", mutates_args=())
def profile_of_lse(
    q: Tensor,
    k: Tensor,
    lse: Tensor,
    first_key: Tensor,
    rows: Tensor,
    slots: Tensor,
    starts: Tensor,
    by_head: bool,
    scale: float,
    softcap: float,
) -> Tensor:
    """Return ``profile [P, Hq, N]`` or ``[P, N]`` from ``lse [R, Hq]``, without a gradient.

    ``slots`` and ``starts`` are a :class:`RowOrder`; a softcap of 0 means none.
    """
    logits = Logits(scale, softcap or None, None)
    with torch.cuda.device_of(q):
        return key_profile(q, k, lse, first_key, rows, RowOrder(slots, starts), logits, by_head)


@profile_of_lse.register_fake
def _(q: Tensor, k: Tensor, *lse_rows_starts: Any) -> Tensor:
    *_, starts, by_head, _scale, _softcap = lse_rows_starts
    groups, n = starts.shape[0] - 1, k.shape[2]
    shape = (groups, q.shape[1], n) if by_head else (groups, n)
    return q.new_empty(shape, dtype=accumulation_dtype(q.dtype))


@torch.library.custom_op("sra_fast::connected_profile", mutates_args=())
def connected_profile(
    profile: Tensor,
    q: Tensor,
    k: Tensor,
    sinks: Tensor | None,
    lse: Tensor,
    first_key: Tensor,
    rows: Tensor,
    groups: Tensor,
    shares: Tensor,
    largest: Tensor,
    runs: Tensor,
    bounds: Tensor,
    scale: float,
    softcap: float,
) -> Tensor:
    """Return a copy of ``profile`` that is differentiable in q, k and the sinks.

    ``groups``, ``shares``, ``largest`` and ``runs`` are a :class:`RowGroups`; ``lse [R, Hq]`` has
    the sinks included, and ``scale > 0``.
    """
    return profile.clone()


@connected_profile.register_fake
def _(profile: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(profile)


@torch.library.custom_op("sra_fast::connected_profile_backward", mutates_args=())
def connected_profile_backward(
    q: Tensor,
    k: Tensor,
    sinks: Tensor | None,
    lse: Tensor,
    first_key: Tensor,
    rows: Tensor,
    groups: Tensor,
    shares: Tensor,
    largest: Tensor,
    runs: Tensor,
    bounds: Tensor,
    d_profile: Tensor,
    scale: float,
    softcap: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of q, k and the sinks; the last one is empty without sinks."""
    given = RowGroups(groups, shares, largest, runs)
    logits = Logits(scale, softcap or None, sinks)
    with torch.cuda.device_of(q):
        dq, dk, d_sinks = profile_backward(
            q, k, lse, d_profile, first_key, rows, given, bounds, logits
        )
    return dq, dk, q.new_empty(0) if d_sinks is None else d_sinks


@connected_profile_backward.register_fake
def _(q: Tensor, k: Tensor, sinks: Tensor | None, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    d_sinks = q.new_empty(0) if sinks is None else torch.empty_like(sinks)
    return like_heads(q), like_heads(k), d_sinks


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """Keep what the backward pass needs: all inputs but the profile."""
    _, *tensors, ctx.scale, ctx.softcap = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, d_profile: Tensor) -> tuple[Any, ...]:
    """Return a gradient for each argument of ``connected_profile``, None where there is none."""
    saved = ctx.saved_tensors
    dq, dk, d_sinks = connected_profile_backward(*saved, d_profile, ctx.scale, ctx.softcap)
    given = None if saved[2] is None else d_sinks
    return None, dq, dk, given, *(None for _ in range(len(saved) - 1))


connected_profile.register_autograd(_differentiate, setup_context=_remember)
