"""Lay the numbers of a page out as blocks of bytes, whose sizes are known before they are made."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy
from numpy.typing import NDArray

from sra_fast.report.viewer.shown_sources import Sources, attention_on
from sra_fast.report.viewer.three_digits import three_digit_codes
from sra_fast.report.viewer.viewed_conversation import Numbers, ViewedReply

_TAG = '<script type="text/plain" id="{}">{}</script>\n'


@dataclass(frozen=True)
class PageBlock:
    """An array that a page holds in base64, little-endian.

    Attributes:
        name: the ``id`` of its element.
        itemsize: bytes of a number: 2 for codes of three digits, 4 for uint32.
        count: how many numbers it has.
        make: returns the array.
    """

    name: str
    itemsize: int
    count: int
    make: Callable[[], NDArray[Any]]

    @property
    def size(self) -> int:
        """The bytes that :meth:`html` takes."""
        return len(_TAG.format(self.name, "")) + 4 * -(-self.itemsize * self.count // 3)

    def html(self) -> str:
        """Return the element that holds the array."""
        array = numpy.ascontiguousarray(self.make()).astype(f"<u{self.itemsize}", copy=False)
        return _TAG.format(self.name, base64.b64encode(array.tobytes()).decode("ascii"))


@dataclass(frozen=True)
class Detail:
    """How much of the profiles a page holds besides their means.

    Attributes:
        layers: positions of the layers that are kept; all of them if None, none if empty.
        heads: whether single heads are kept.
    """

    layers: tuple[int, ...] | None
    heads: bool

    def layers_of(self, reply: ViewedReply) -> tuple[int, ...]:
        """Return which of a reply's layers are kept, by position in its profile."""
        if self.layers is None:
            return tuple(range(reply.layer_count))
        return tuple(at for at in self.layers if at < reply.layer_count)

    def heads_of(self, reply: ViewedReply) -> int:
        """Return how many heads of a reply are told apart."""
        return reply.head_count if self.heads else 0

    def row_count(self, reply: ViewedReply) -> int:
        """Return how many rows :func:`profile_rows` has below the first."""
        layers, heads = len(self.layers_of(reply)), self.heads_of(reply)
        return layers + heads + layers * heads


def profile_rows(reply: ViewedReply, detail: Detail) -> tuple[Numbers, Numbers]:
    """Return the attention on every token as rows: what the reader can choose among.

    The means are over all layers and heads, whatever is kept.

    Returns:
        The mean over layers and heads, float64 ``[1, T]``; and ``[N, T]``: the mean over heads of
        each kept layer, the mean over layers of each head, then each head of each kept layer.
    """
    profile = reply.profile
    kept = list(detail.layers_of(reply))
    single = profile[None] if profile.ndim == 1 else profile
    whole = single.mean(axis=tuple(range(single.ndim - 1)), dtype=numpy.float64)[None]
    if not kept:
        return whole, numpy.empty((0, whole.shape[1]))
    by_layer = profile if profile.ndim == 2 else profile.mean(axis=1, dtype=numpy.float64)
    rows = [by_layer[kept]]
    if detail.heads_of(reply):
        rows += [
            profile.mean(axis=0, dtype=numpy.float64),
            profile[kept].reshape(-1, profile.shape[-1]),
        ]
    return whole, numpy.concatenate(rows)


def profile_blocks(name: str, reply: ViewedReply, detail: Detail) -> list[PageBlock]:
    """Return the blocks of a reply's profile: its mean, and the other rows if there are any."""
    tokens, rows = reply.profile.shape[-1], detail.row_count(reply)

    def codes(index: int) -> Callable[[], NDArray[Any]]:
        return lambda: three_digit_codes(profile_rows(reply, detail)[index])

    blocks = [PageBlock(f"{name}-mean", 2, tokens, codes(0))]
    if rows:
        blocks.append(PageBlock(f"{name}-rows", 2, rows * tokens, codes(1)))
    return blocks


def source_block(name: str, reply: ViewedReply, detail: Detail, sources: Sources) -> PageBlock:
    """Return the block of the attention on each source, for the same rows, the mean first."""
    rows = 1 + detail.row_count(reply)

    def codes() -> NDArray[Any]:
        sums = [attention_on(part, sources) for part in profile_rows(reply, detail)]
        return three_digit_codes(numpy.concatenate(sums))

    return PageBlock(name, 2, rows * len(sources), codes)


def range_block(name: str, sources: Sources) -> PageBlock:
    """Return the block of sources of one range each: uint32, first token and the one after."""
    borders = numpy.array([ranges[0] for ranges in sources], dtype=numpy.uint32)
    return PageBlock(name, 4, 2 * len(sources), borders.ravel)
