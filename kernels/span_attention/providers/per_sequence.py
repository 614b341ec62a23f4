"""Run a kernel for one causal sequence over all sequences of a call, each on its own.

There is one call per sequence, or one for the whole batch if every batch row is one full sequence,
so padding costs nothing and no mask is ever made. A segment with a parent is called with the
parent's keys before its own.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..contract import LogitRule, accumulation_dtype
from ..merging import Attended
from ..plan import SequencePlan
from .call import AttentionCall

OneSequence = Callable[[Tensor, Tensor, Tensor, LogitRule], Attended]
"""Takes ``q [b, Hq, m, D]``, ``k [b, Hkv, n, D]``, ``v [b, Hkv, n, Dv]`` and the rule of logits;
returns ``out [b, Hq, m, Dv]`` and ``lse [b, Hq, m]`` of causal attention, whose queries stand at
the last m of n key positions."""

KeysAndValues = tuple[Tensor, Tensor]
OneTail = Callable[[Tensor, KeysAndValues, KeysAndValues, LogitRule], Attended]
"""Takes ``q [b, Hq, m, D]``, the keys and values of all that is before it, those of its own m
positions, and the rule of logits; returns as :data:`OneSequence`."""


def by_sequence(
    call: AttentionCall, attend: OneSequence, attend_tail: OneTail | None = None
) -> Attended:
    """Return ``out [B, Hq, M, Dv]`` and ``lse [B, Hq, M]`` of a call, sequence by sequence.

    Args:
        call: the call.
        attend: attends in one sequence.
        attend_tail: attends in a segment that has a parent, without copying the parent's keys; None
            to copy those within reach before the segment's own, for one segment at a time.
    """
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
        asking, own = q[row, :, queries], (k[row, :, keys], v[row, :, keys])
        before = _within_reach(part, rule)
        if before.start == before.stop:
            found = attend(asking, *own, rule)
        elif attend_tail is not None:
            found = attend_tail(asking, (k[row, :, before], v[row, :, before]), own, rule)
        else:
            of_keys, of_values = (
                torch.cat([x[row, :, before], x[row, :, keys]], dim=2) for x in (k, v)
            )
            found = attend(asking, of_keys, of_values, rule)
        out[row, :, queries], lse[row, :, queries] = found
    return out, lse


def _within_reach(part: SequencePlan, rule: LogitRule) -> slice:
    """Return the ``slice`` of its parent's keys that some query of a segment sees."""
    if rule.window is None:
        return part.before
    return slice(max(part.before.start, part.before.stop - rule.window + 1), part.before.stop)
