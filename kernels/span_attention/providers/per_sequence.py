"""Run a kernel for one causal sequence over all sequences of a call, each on its own.

There is one call per sequence, or one for the whole batch if every batch row is one full sequence,
so padding costs nothing and no mask is ever made.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..contract import LogitRule, accumulation_dtype
from ..merging import Attended
from .call import AttentionCall

OneSequence = Callable[[Tensor, Tensor, Tensor, LogitRule], Attended]
"""Takes ``q [b, Hq, m, D]``, ``k [b, Hkv, n, D]``, ``v [b, Hkv, n, Dv]`` and the rule of logits;
returns ``out [b, Hq, m, Dv]`` and ``lse [b, Hq, m]`` of causal attention, whose queries stand at
the last m of n key positions."""


def by_sequence(call: AttentionCall, attend: OneSequence) -> Attended:
    """Return ``out [B, Hq, M, Dv]`` and ``lse [B, Hq, M]`` of a call, sequence by sequence."""
    q, k, v, rule = call.q, call.k, call.v, call.rule
    sequences = call.sequences
    if sequences.whole:
        return attend(q, k, v, rule)
    batch, heads, m, _ = q.shape
    # [B, M, Hq, Dv] in memory, as the models want it next.
    out = v.new_zeros(batch, m, heads, v.shape[3]).transpose(1, 2)
    lse = torch.full(
        (batch, heads, m), -torch.inf, dtype=accumulation_dtype(q.dtype), device=q.device
    )
    for part in sequences.sequences:
        row, queries, keys = slice(part.batch, part.batch + 1), part.queries, part.keys
        if queries.start == queries.stop:
            continue
        out[row, :, queries], lse[row, :, queries] = attend(
            q[row, :, queries], k[row, :, keys], v[row, :, keys], rule
        )
    return out, lse
