"""Wrap the profile kernel as a ``torch.library`` operator, one node of a compiled graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..contract import accumulation_dtype
from .key_profile import RowOrder, key_profile
from .launch import Logits


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
