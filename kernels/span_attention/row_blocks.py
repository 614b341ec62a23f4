"""Cut the rows asked for into blocks, each with the keys that its rows can see.

Numbers are read off the query's tensors for that once, and kept on the query for all layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .blocks import sees
from .contract import LogitRule, SpanQuery
from .plan import Plan, SequencePlan

ROW_BLOCK_NUMBERS = 1 << 20  # logits alive at once: 4 MB in float32, what a core's cache holds
FEWEST_ROWS = 4  # in a block, however many keys they see


@dataclass(frozen=True)
class RowBlock:
    """Some neighbouring rows of one sequence.

    Attributes:
        batch: the batch row that they lie in.
        asked: their ``slice`` of the ``R`` rows asked for.
        rows: ``[r]`` int64, their positions on the query axis.
        before: the ``slice`` of the key axis of those keys of the parent that any of them sees.
        keys: the ``slice`` of positions from the first to the last key that any of them sees, the
            parent's keys right before the sequence's own.
        common: how many of these keys, from the first on, all of the rows see.
        labelled: the ``slice`` of these keys from the first to the last one in any span.
        bits: ``[l, G]`` bool, which spans each of those is in.
    """

    batch: int
    asked: slice
    rows: Tensor
    before: slice
    keys: slice
    common: int
    labelled: slice
    bits: Tensor


def row_blocks(
    query: SpanQuery, sequences: Plan, heads: int, m: int, n: int, window: int | None
) -> tuple[RowBlock, ...]:
    """Return the blocks of ``query`` in the order of its rows, for ``Hq``, ``M`` and ``N``.

    ``sequences`` is the query's plan for these sizes. A block holds as many rows as keep its logits
    of all heads within :data:`ROW_BLOCK_NUMBERS`, and at least :data:`FEWEST_ROWS`. Rows that lie
    in no sequence are in no block.
    """

    def make() -> tuple[RowBlock, ...]:
        parts = sorted(sequences.sequences, key=lambda part: part.asked.start)
        return tuple(block for part in parts for block in _cut(part, heads, n - m, window))

    return query.derived(("row_blocks", heads, m, n, window), make)


def _cut(part: SequencePlan, heads: int, offset: int, window: int | None) -> Iterator[RowBlock]:
    """Yield the blocks of one sequence."""
    positions = (part.rows + offset).tolist()
    begin = part.first
    spans = torch.zeros(part.keys.stop - begin, part.bits.shape[1], dtype=torch.bool)
    spans[part.places.cpu() - begin] = part.bits.cpu()
    seen = positions[-1] + 1 - begin if positions else 0
    size = max(FEWEST_ROWS, ROW_BLOCK_NUMBERS // max(1, heads * seen))
    for first in range(0, len(positions), size):
        last = min(first + size, len(positions))
        lowest, highest = positions[first], positions[last - 1]
        low, common = begin, lowest + 1 - begin
        if window is not None and highest - window + 1 > low:
            low, common = max(low, lowest - window + 1), 0
        bits = spans[low - begin : highest + 1 - begin]
        marked = bits.any(1).nonzero().flatten().tolist()
        labelled = slice(marked[0], marked[-1] + 1) if marked else slice(0, 0)
        yield RowBlock(
            batch=part.batch,
            asked=slice(part.asked.start + first, part.asked.start + last),
            rows=part.rows[first:last],
            before=slice(min(low - part.shift, part.before.stop), part.before.stop),
            keys=slice(low, highest + 1),
            common=common,
            labelled=labelled,
            bits=bits[labelled].to(part.bits.device),
        )


def block_keys(k: Tensor, block: RowBlock) -> Tensor:
    """Return the keys that a block meets, ``[Hkv, n, D]`` of ``k [B, Hkv, N, D]``.

    They are a view, but for a block whose rows see keys of a parent.
    """
    of_parent = k[block.batch, :, block.before]
    own = k[block.batch, :, block.keys.start + of_parent.shape[1] : block.keys.stop]
    return torch.cat([of_parent, own], dim=1) if of_parent.shape[1] else own


def block_logits(q: Tensor, k: Tensor, block: RowBlock, rule: LogitRule) -> tuple[Tensor, Tensor]:
    """Return ``scale·q`` of a block's rows, and their logits after the cap on the block's keys.

    Takes ``q [B, Hq, M, D]`` and the keys ``k [Hkv, n, D]`` in the accumulation dtype. Returns
    ``[Hkv, Hq/Hkv · r, D]`` and ``[Hkv, Hq/Hkv · r, n]``: the query heads of one key head share a
    product. Keys that a row does not see are not masked.
    """
    rows = q[block.batch, :, block.rows].to(k.dtype) * rule.scale  # [Hq, r, D]
    rows = rows.reshape(k.shape[0], -1, q.shape[3])
    scores = rows @ k.transpose(1, 2)
    if rule.softcap is not None:
        scores = scores.div_(rule.softcap).tanh_().mul_(rule.softcap)
    return rows, scores


def hide(scores: Tensor, block: RowBlock, offset: int, window: int | None, value: float) -> Tensor:
    """Set what a block's rows do not see to ``value`` in ``scores [Hkv, Hq/Hkv · r, n]``, in place.

    ``offset`` is the key position of the first query.
    """
    low, high = block.keys.start + block.common, block.keys.stop
    if low < high:
        at_key = torch.arange(low, high, device=scores.device)
        unseen = ~sees(block.rows + offset, at_key, window)
        tail = scores[:, :, block.common :]
        tail.view(-1, *unseen.shape).masked_fill_(unseen, value)
    return scores


def rows_together(x: Tensor, block: RowBlock, groups: int) -> Tensor:
    """Return a block's rows of ``x [R, Hq, c]`` in the logits' order, ``[Hkv, Hq/Hkv · r, c]``."""
    together = x.shape[1] // groups * len(block.rows)  # a −1 would not do where c is 0
    return x[block.asked].transpose(0, 1).reshape(groups, together, x.shape[2])
