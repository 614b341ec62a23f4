"""Ask a model's mask function which keys its queries see, and write the answer into a 2-D mask.

A mask function says of any query and key whether the one sees the other. What this attention serves
is a causal mask, cut into pieces (packed sequences, chunks) and narrowed to a window:

    query q sees key k  ⇔  k ≤ q,  piece(q) = piece(k),  and  k > q − window if there is one

Both are read off the function itself, never off a config: some models name a window there and never
apply it. The 2-D mask carries them to the attention, where a model may move it between devices:

    mask[b, k] = 0 at padding, else  piece + 2³² · window       (window 0: there is none)
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sra_fast.measure import compat
from sra_fast.measure.sequences import numbered_runs

_READING = "_sra_reading"  # the attribute of a mask by which layers share its reading
_BITS = 32  # of an int64, for the number of the piece
_ALL_ROWS = 4096  # up to that many pairs of query and key, every one is looked at
_SOME_ROWS = 16  # the queries that are looked at beyond that, spread over all


class UnreadableMaskError(ValueError):
    """Raised when a mask is none that pieces and a window describe; the message says what it is."""


@dataclass(frozen=True)
class MaskReading:
    """The sequences that a 2-D mask holds, and the window of its queries.

    Attributes:
        pieces: ``(b, start, end)`` of the ranges of keys in which tokens see each other.
        window: how many keys a query sees, itself included; None for all of its piece.
    """

    pieces: tuple[tuple[int, int, int], ...]
    window: int | None

    def is_whole(self, batch: int, keys: int) -> bool:
        """Return whether each of ``B`` rows is one piece of all ``N`` keys, without a window."""
        narrowed = self.window is not None and self.window < keys
        return not narrowed and self.pieces == no_mask(batch, keys).pieces

    def first_keys(self, batch: int, keys: int) -> tuple[int, ...] | None:
        """Return the first key that the last token of each of ``B`` rows sees, of ``N`` keys.

        None if some row ends before its last key, so that its last token sees nothing.
        """
        at_end = {b: start for b, start, end in self.pieces if start < end == keys}
        if not at_end or len(at_end) < batch:
            return None
        reach = 0 if self.window is None else max(0, keys - self.window)
        return tuple(max(at_end[b], reach) for b in range(batch))


def written_mask(
    mask_function: Callable[..., Tensor],
    batch: int,
    queries: int,
    keys: int,
    offset: int,
    device: torch.device | str | None,
) -> Tensor | None:
    """Return the pieces and the window of a mask function, ``[B, N]`` int64, without any padding.

    Args:
        mask_function: whether a query sees a key, of ``(b, head, query, key)``.
        batch: number of rows.
        queries: number of queries, which are the last of the keys.
        keys: number of keys.
        offset: position of the first key.
        device: where the function's tensors are.

    Returns:
        The mask, or None if each query sees all keys up to its own.

    Raises:
        UnreadableMaskError: queries that see later keys, or a mask with other holes.
    """
    row = torch.arange(batch, device=device)[:, None]
    place = torch.arange(keys, device=device) + offset
    own, before = place[1:], place[:-1]
    later = own[keys - queries :]
    if bool(mask_function(row, 0, later - 1, later).any()):
        raise UnreadableMaskError(
            "a mask in which queries see later keys (bidirectional or block-wise)"
        )
    breaks = ~mask_function(row, 0, own, before).expand(batch, -1)
    piece = torch.nn.functional.pad(breaks.cumsum(1), (1, 0)) + 1
    window = _window(mask_function, piece, queries, offset)
    if window is None and not bool(breaks.any()):
        return None
    return piece + (0 if window is None else window << _BITS)


def read_mask(mask: Tensor) -> MaskReading:
    """Read a 2-D mask: one that :func:`written_mask` made, or one of zeros and ones.

    The reading is kept on the tensor, for the other layers of a forward, until somebody writes into
    the mask. A tensor of inference mode does not count who writes into it, so it is read each time:
    hand over :func:`counted_mask` instead.

    Raises:
        UnreadableMaskError: the mask has more dimensions, or padding between the tokens of a row.
    """
    writes = compat.writes_into(mask)
    known: tuple[int, MaskReading] | None = getattr(mask, _READING, None)
    if known is not None and known[0] == writes:
        return known[1]
    if mask.ndim != 2:
        raise UnreadableMaskError(f"a ready-made {mask.ndim}-D attention mask")
    reading = _read(mask)
    if writes is not None:
        setattr(mask, _READING, (writes, reading))
    return reading


def counted_mask(mask: Tensor) -> Tensor:
    """Return a mask that counts who writes into it: itself, or a copy if inference mode made it."""
    if not mask.is_inference():
        return mask
    with torch.inference_mode(False):
        return mask.clone()


@functools.lru_cache(maxsize=8)
def no_mask(batch: int, keys: int) -> MaskReading:
    """Return the reading of no mask at all: each of ``B`` rows is one piece of all ``N`` keys."""
    return MaskReading(tuple((b, 0, keys) for b in range(batch)), None)


def _read(mask: Tensor) -> MaskReading:
    mask = mask.to(torch.int64)
    pieces = tuple(numbered_runs(mask & ((1 << _BITS) - 1)))
    for (b, _, end), (next_b, start, _) in itertools.pairwise(pieces):
        if b == next_b and end != start:
            raise UnreadableMaskError("an attention mask with a hole inside a row")
    window = int(mask.max()) >> _BITS if mask.numel() else 0
    return MaskReading(pieces, window or None)


def _window(
    mask_function: Callable[..., Tensor], piece: Tensor, queries: int, offset: int
) -> int | None:
    """Find the window in rows of the mask, and hold these rows to what is made of them.

    The last query of the longest piece has the most keys before it: if any row meets the window's
    border, that one does.
    """
    batch, keys = piece.shape
    rows = _looked_at(piece, queries)
    at = torch.arange(keys, device=piece.device)
    b = torch.arange(batch, device=piece.device)[:, None, None]
    q, k = rows[None, :, None], at[None, None, :]
    seen = mask_function(b, 0, q + offset, k + offset).expand(batch, len(rows), keys)
    reach = (piece[:, None, :] == piece[:, rows, None]) & (k <= q)
    narrowed = seen.sum(-1) < reach.sum(-1)
    window = int(seen.sum(-1)[narrowed].max()) if bool(narrowed.any()) else None
    if window is not None:
        reach = reach & (k > q - window)
    if not torch.equal(reach, seen):
        raise UnreadableMaskError("a mask that is neither causal, windowed, chunked nor packed")
    return window


def _looked_at(piece: Tensor, queries: int) -> Tensor:
    """Return the positions of the queries whose row of the mask is looked at."""
    keys = piece.shape[1]
    first = keys - queries
    if queries * keys <= _ALL_ROWS:
        return torch.arange(first, keys, device=piece.device)
    spread = torch.linspace(first, keys - 1, _SOME_ROWS, device=piece.device).round().long()
    place = torch.arange(keys, device=piece.device)
    starts = torch.where(piece.diff(dim=1, prepend=piece[:, :1] - 1) != 0, place, 0)
    length = place - starts.cummax(dim=1).values
    longest = int(length[:, first:].flatten().argmax()) % queries + first
    rows: Tensor = torch.cat([spread, spread.new_tensor([longest])]).unique()
    return rows
