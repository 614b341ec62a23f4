"""Average rows over the responses that they belong to, for all responses at once.

The rows of n responses stand one response after another. A response's mean is

    x̄ = 1/r · Σ_b Σ_{i in block b} x_i

over blocks of at most 256 of its r rows. So a device adds up the blocks of a long response at the
same time, and in an order that no other response has a part in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from sra_fast.definitions import RowMasses
from sra_fast.measure.marked_query import Placed
from sra_fast.measure.one_copy import sent

BLOCK = 256  # rows that one thread of a device adds up


@dataclass(frozen=True)
class ResponseRows:
    """Where n responses' rows are among the ``R`` rows of a query, on the device of the masses.

    Attributes:
        tokens: ``[K]`` int64, rows of the responses' own tokens, one response after another.
        predicting: ``[K]`` int64, rows of the positions one before each of these.
        order: ``[K]`` int64, 0, 1, 2, ….
        firsts: ``[n]`` int64, where each response begins among the K.
        blocks: ``[b]`` int64, where each block begins among the K.
        first_blocks: ``[n]`` int64, where each response begins among the b blocks.
        counts: ``[n]`` int64, how many of the K are of each response.
        span_counts: ``[n, P]`` int64, tokens of each response's spans.
    """

    tokens: Tensor
    predicting: Tensor
    order: Tensor
    firsts: Tensor
    blocks: Tensor
    first_blocks: Tensor
    counts: Tensor
    span_counts: Tensor

    @classmethod
    def on(cls, device: torch.device, placed: Placed, span_counts: Tensor) -> ResponseRows:
        """Send the places of the responses' rows to a device, in one copy."""
        counts = placed.counts
        ends = counts.cumsum(0)
        blocks = (counts + BLOCK - 1) // BLOCK
        first_blocks = blocks.cumsum(0) - blocks
        firsts = ends - counts
        number = torch.arange(int(blocks.sum())) - first_blocks.repeat_interleave(blocks)
        starts = firsts.repeat_interleave(blocks) + BLOCK * number
        order = torch.arange(len(placed.tokens))
        table = (placed.tokens, placed.predicting, order, firsts, starts, first_blocks, counts)
        return cls(*sent((*table, span_counts), device))

    def means(self, values: Tensor, rows: Tensor) -> Tensor:
        """Return each response's mean of some rows of ``values [R, …]``: ``[n, …]``.

        ``rows [K]`` says which, one response after another.
        """
        flat = values.flatten(1)
        sums = F.embedding_bag(rows, flat, self.blocks, mode="sum")
        sums = F.embedding_bag(self.order[: len(self.blocks)], sums, self.first_blocks, mode="sum")
        return (sums / self.counts[:, None]).view(-1, *values.shape[1:])

    def masses(self, heads: Tensor, rest: Tensor) -> AllRowMasses:
        """Return the masses of all responses' rows as the definitions take them.

        Args:
            heads: ``[R, L, G]``, head means.
            rest: ``[R, L]``, mass on all keys but key 0.
        """
        predicting = heads.index_select(0, self.predicting)
        return AllRowMasses(
            tokens=heads.index_select(0, self.tokens)[..., 0:-1:2],
            head=predicting[..., 1:-1:2],
            rest=rest.index_select(0, self.predicting)[..., None],
            counts=self.span_counts[:, None],
            rows=self,
        )


@dataclass(frozen=True)
class AllRowMasses(RowMasses):
    """The masses of the rows of n responses, one response after another, averaged over heads.

    The built-in definitions take them as they take those of one response, and give ``[n, L, P]``.

    Attributes:
        tokens: ``[K, L, P]``, rows of the responses' own tokens, mass on each span.
        head: ``[K, L, P]``, rows that predict these tokens, mass on each span without its last.
        rest: ``[K, L, 1]``, rows that predict these tokens, mass on all keys but key 0.
        counts: ``[n, 1, P]``, number of tokens of each span.
        rows: where the responses begin and end.
    """

    rows: ResponseRows

    def mean(self, values: Tensor) -> Tensor:
        """Return each response's mean over its rows: ``[K, L, P]`` -> ``[n, L, P]``."""
        return self.rows.means(values, self.rows.order)

    def first(self, values: Tensor) -> Tensor:
        """Return each response's first row: ``[K, L, P]`` -> ``[n, L, P]``."""
        return values.index_select(0, self.rows.firsts)

    def of_each(self, counts: list[int]) -> list[RowMasses]:
        """Return the masses of each response apart, which has ``counts`` of the rows."""
        parts = (each.transpose(0, 1).split(counts, dim=1) for each in self._by_row())
        return [
            RowMasses(tokens, head, rest, spans)
            for tokens, head, rest, spans in zip(*parts, self.counts[:, 0], strict=True)
        ]

    def with_layers_of(self, others: Sequence[AllRowMasses]) -> AllRowMasses:
        """Return these masses with the layers of others behind their own, on the same device."""
        device = self.tokens.device
        parts = [[each.to(device) for each in other._by_row()] for other in (self, *others)]
        tokens, head, rest = (torch.cat(each, dim=1) for each in zip(*parts, strict=True))
        return replace(self, tokens=tokens, head=head, rest=rest)

    def _by_row(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.tokens, self.head, self.rest
