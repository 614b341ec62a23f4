"""Turn marked sequences into the query of the op, and find each response's rows in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sra_fast.kernels.contract import SpanQuery, segment_tensor
from sra_fast.measure.spans import HEAD, NULL, MarkedBatch


@dataclass(frozen=True)
class Placed:
    """The places of one response's rows among the ``R`` rows of a query, as indices ``[r]`` int64.

    Attributes:
        tokens: rows of the response's own tokens.
        predicting: rows of the positions one before, which predict these tokens.
        every: both, ascending, each once.
    """

    tokens: Tensor
    predicting: Tensor
    every: Tensor


def build_query(
    batch: MarkedBatch,
    members: Sequence[int],
    places: Sequence[tuple[int, int]],
    shape: Sequence[int],
) -> tuple[SpanQuery, list[Placed]]:
    """Make the query of the op for some sequences of a batch, in a new layout.

    Args:
        batch: the batch.
        members: indices of the sequences in the batch.
        places: ``(b, start)`` of each in the new layout, in the order of the flat positions.
        shape: ``[B, N]`` of the new layout, with as many queries as keys.

    Returns:
        The query, whose spans are named ``name, name + "_head", …, "null"``, and the rows of every
        response of every member, in order.
    """
    labels = torch.zeros(*shape, dtype=torch.int32)
    rows, segments, placed = [], [], []
    count = 0
    for member, (b, start) in zip(members, places, strict=True):
        sequence = batch.sequences[member]
        end = start + sequence.length
        labels[b, start:end] = _labels(sequence.spans)
        segments.append((b, start, end))
        every = torch.cat(
            [torch.cat([response.tokens - 1, response.tokens]) for response in sequence.responses]
        ).unique()
        rows.append(every + b * shape[1] + start)
        for response in sequence.responses:
            both = torch.cat([response.tokens - 1, response.tokens]).unique()
            placed.append(
                Placed(
                    *(
                        torch.searchsorted(every, positions) + count
                        for positions in (response.tokens, response.tokens - 1, both)
                    )
                )
            )
        count += len(every)
    names = [part for name in batch.names for part in (name, name + HEAD)]
    query = SpanQuery(
        labels, torch.cat(rows), segment_tensor(segments, labels.device), (*names, NULL)
    )
    return query, placed


def query_as_given(batch: MarkedBatch) -> tuple[SpanQuery, list[Placed]]:
    """Make the query of the op for all sequences of a batch, where they lie.

    Returns:
        As :func:`build_query`.
    """
    places = [(sequence.row, sequence.start) for sequence in batch.sequences]
    return build_query(batch, range(len(places)), places, batch.shape)


def _labels(spans: Tensor) -> Tensor:
    """Turn span masks ``[P, T]`` bool into the query's labels ``[T]`` int32, a bit per key set.

    Bit 2p is the p-th span, bit 2p + 1 the same without its last token, and the last bit is key 0.
    """
    labels = torch.zeros(spans.shape[1], dtype=torch.int32)
    for index, span in enumerate(spans):
        head = span.clone()
        head[span.nonzero()[-1:]] = False
        head[0] = False  # the null key is set to zero before the mean is taken
        labels |= span.int() << (2 * index) | head.int() << (2 * index + 1)
    labels[0] |= 1 << (2 * len(spans))
    return labels
