"""Lay the sequences of a query one after another, as kernels for variable lengths want them.

Sequence s is the tokens ``cu_seq[s] … cu_seq[s + 1] − 1`` of ``[T, H, D]``. So all sequences of a
query go through one call, and padding is never handed over. Rows in no sequence are left out, and
filled in afterwards with an output of 0 and a logsumexp of −inf.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

from ..merging import Attended
from ..transfers import send
from .call import AttentionCall

ALIGNED = 8  # numbers of two bytes in the 16 bytes that such kernels read at a time, unchecked


@dataclass(frozen=True)
class PackedAxis:
    """The tokens of ``[B, L]`` that are laid one after another, and where each sequence starts.

    Attributes:
        positions: ``[T]`` int64, flat positions ``b·L + i``, ascending; None for all ``B·L``.
        starts: ``[S + 1]`` int32, the ``cu_seq`` of ``S`` sequences.
        longest: the number of tokens of the longest sequence.
    """

    positions: Tensor | None
    starts: Tensor
    longest: int


def packed_axes(call: AttentionCall) -> tuple[PackedAxis, PackedAxis] | None:
    """Return the packed queries and keys of the sequences with a query, or None if none has.

    They are kept on the query, for all layers of a model.
    """
    batch, m, n = call.q.shape[0], call.q.shape[2], call.k.shape[2]
    return call.query.derived(("packed tokens", batch, m, n), lambda: _axes(call, batch, m, n))


def pack(x: Tensor, axis: PackedAxis, width: int) -> Tensor:
    """Return ``[B, H, L, D]`` packed into ``[T, H, width]``, as a view if a kernel can read it."""
    packed = x.transpose(1, 2).flatten(0, 1)
    if axis.positions is not None:
        packed = packed.index_select(0, axis.positions)
    return aligned(packed, width)


def aligned(x: Tensor, width: int) -> Tensor:
    """Return ``[…, D]`` with D padded to ``width`` by zeros, and all rows on 16 bytes.

    A copy is made only where the memory is not so already.
    """
    if x.shape[-1] < width:
        return F.pad(x, (0, width - x.shape[-1]))
    steps = (*x.stride()[:-1], x.storage_offset())
    if x.stride(-1) == 1 and all(step % ALIGNED == 0 for step in steps):
        return x
    return x.clone(memory_format=torch.contiguous_format)


def next_width(width: int) -> int:
    """Return the smallest multiple of :data:`ALIGNED` that holds a head of this width."""
    return -(-width // ALIGNED) * ALIGNED


def unpack(out: Tensor, lse: Tensor, queries: PackedAxis, call: AttentionCall) -> Attended:
    """Return ``out [B, Hq, M, Dv]`` and ``lse [B, Hq, M]`` from ``[T, Hq, ≥ Dv]`` and ``[Hq, T]``.

    The output lies as ``[B, M, Hq, Dv]`` in memory, as the models want it next.
    """
    batch, heads, m, _ = call.q.shape
    value_width = call.v.shape[3]
    out, lse = out[..., :value_width], lse.detach()
    if queries.positions is not None:
        unseen = lse.new_full((heads, batch * m), -torch.inf)
        lse = unseen.index_copy_(1, queries.positions, lse)
        out = out.new_zeros(batch * m, heads, value_width).index_copy_(0, queries.positions, out)
    out = out.contiguous().view(batch, m, heads, value_width).transpose(1, 2)
    return out, lse.view(heads, batch, m).transpose(0, 1)


def nothing_seen(call: AttentionCall) -> Attended:
    """Return the output and the logsumexp of a call in which no query sees a key."""
    batch, heads, m, _ = call.q.shape
    out = call.v.new_zeros(batch, m, heads, call.v.shape[3]).transpose(1, 2)
    return out, call.q.new_full((batch, heads, m), -torch.inf, dtype=torch.float32)


def _axes(call: AttentionCall, batch: int, m: int, n: int) -> tuple[PackedAxis, PackedAxis] | None:
    """Build what :func:`packed_axes` returns."""
    device = call.query.key_labels.device
    parts = [part for part in call.sequences.sequences if part.queries.start < part.queries.stop]
    if not parts:
        return None

    def axis(pieces: list[tuple[int, slice]], length: int) -> PackedAxis:
        lengths = [piece.stop - piece.start for _, piece in pieces]
        starts = send(torch.tensor([0, *accumulate(lengths)], dtype=torch.int32), device)
        positions = None
        if sum(lengths) < batch * length:
            flat = torch.arange(batch * length).view(batch, length)
            positions = send(torch.cat([flat[b, piece] for b, piece in pieces]), device)
        return PackedAxis(positions, starts, max(lengths))

    queries = axis([(part.batch, part.queries) for part in parts], m)
    return queries, axis([(part.batch, part.keys) for part in parts], n)
