"""Turn marked sequences into the query of the op, and find each response's rows in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sra_fast.kernels.contract import SpanQuery, segment_tensor
from sra_fast.measure.prefixes import PlacedPrefix
from sra_fast.measure.spans import HEAD, NULL, MarkedBatch, MarkedSequence


@dataclass(frozen=True)
class Placed:
    """The places of n responses' rows among the ``R`` rows of a query, one response after another.

    Attributes:
        tokens: ``[K]`` int64, rows of the responses' own tokens, or those chosen instead.
        predicting: ``[K]`` int64, rows of the positions one before, which predict these tokens;
            the same as ``tokens`` where rows were chosen.
        every: ``[E]`` int64, both, ascending in each response, each once.
        counts: ``[n]`` int64, how many of ``tokens`` are of each response.
        row_counts: ``[n]`` int64, how many of ``every`` are of each response.
    """

    tokens: Tensor
    predicting: Tensor
    every: Tensor
    counts: Tensor
    row_counts: Tensor


def build_query(
    batch: MarkedBatch,
    members: Sequence[int],
    places: Sequence[tuple[int, int]],
    shape: Sequence[int],
    prefixes: Sequence[PlacedPrefix] = (),
) -> tuple[SpanQuery, Placed]:
    """Make the query of the op for some sequences of a batch, in a new layout.

    Args:
        batch: the batch.
        members: indices of the sequences in the batch.
        places: ``(b, start)`` of each in the new layout, in the order of the flat positions.
        shape: ``[B, N]`` of the new layout, with as many queries as keys.
        prefixes: the beginnings that are there once for several of the members, without a row that
            is asked for. The place of such a member is where its first token would stand right
            before its tail.

    Returns:
        The query, whose spans are named ``name, name + "_head", …, "null"``, and the rows of every
        response of every member, in order.
    """
    # Positions below count through the members' tokens, one sequence after another.
    sequences = [batch.sequences[member] for member in members]
    lengths = [sequence.length for sequence in sequences]
    ends = torch.tensor(lengths).cumsum(0)
    starts = ends - torch.tensor(lengths)
    tokens, counts = _response_tokens(sequences, starts)
    # Rows that were chosen are looked at alone, without those that predict them.
    chosen = any(one.rows is not None for sequence in sequences for one in sequence.responses)
    predicting = tokens if chosen else tokens - 1
    asked = torch.zeros(sum(lengths), dtype=torch.bool)
    asked[tokens] = True
    asked[predicting] = True
    rows = asked.nonzero().flatten()
    place = torch.zeros(sum(lengths), dtype=torch.int64)  # of a position among those asked for
    place[rows] = torch.arange(len(rows))
    every, row_counts = (tokens, counts) if chosen else _with_those_before(tokens, counts)
    placed = Placed(place[tokens], place[predicting], place[every], counts, row_counts)

    shared = [0] * len(sequences)
    for prefix in prefixes:
        shared[prefix.members] = [prefix.length] * len(shared[prefix.members])
    labels = torch.zeros(*shape, dtype=torch.int32)
    pieces = key_labels(sequences)
    for (b, start), piece, first in zip(places, pieces, shared, strict=True):
        labels[b, start + first : start + len(piece)] = piece[first:]
    for prefix in prefixes:
        piece = pieces[prefix.members.start]
        labels[prefix.row, prefix.start : prefix.start + prefix.length] = piece[: prefix.length]
    moved = torch.tensor([b * shape[1] + start for b, start in places]) - starts
    rows += moved[torch.searchsorted(ends, rows, right=True)]
    names = [part for name in batch.names for part in (name, name + HEAD)]
    segments = [
        (b, start + first, start + length)
        for (b, start), length, first in zip(places, lengths, shared, strict=True)
    ]
    parents = None
    if prefixes:
        parents = torch.full((len(segments) + len(prefixes),), -1, dtype=torch.int32)
        for prefix in prefixes:
            parents[prefix.members] = len(segments)
            segments.append((prefix.row, prefix.start, prefix.start + prefix.length))
    query = SpanQuery(
        labels,
        rows,
        segment_tensor(segments, labels.device),
        (*names, NULL),
        parents=parents,
    )
    return query, placed


def key_labels(sequences: Sequence[MarkedSequence]) -> list[Tensor]:
    """Return the labels of each sequence's keys, ``[length]`` int32, as the query has them."""
    lengths = [sequence.length for sequence in sequences]
    ends = torch.tensor(lengths).cumsum(0)
    spans = torch.cat([sequence.spans for sequence in sequences], dim=1)
    return list(_labels(spans, ends - torch.tensor(lengths), ends).split(lengths))


def query_as_given(batch: MarkedBatch) -> tuple[SpanQuery, Placed]:
    """Make the query of the op for all sequences of a batch, where they lie.

    Returns:
        As :func:`build_query`.
    """
    places = [(sequence.row, sequence.start) for sequence in batch.sequences]
    return build_query(batch, range(len(places)), places, batch.shape)


def _response_tokens(sequences: Sequence[MarkedSequence], starts: Tensor) -> tuple[Tensor, Tensor]:
    """Return the positions of all responses' rows, ``[K]``, and their numbers, ``[n]``."""
    tokens = [response.measured for sequence in sequences for response in sequence.responses]
    counts = torch.tensor([len(one) for one in tokens])
    replies = torch.tensor([len(sequence.responses) for sequence in sequences])
    return torch.cat(tokens) + starts.repeat_interleave(replies).repeat_interleave(counts), counts


def _with_those_before(tokens: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Return each response's positions and those one before, ``[E]``, and their numbers, ``[n]``.

    ``tokens [K]`` are ascending in each response; so is the result, with each position once.
    """
    both = torch.stack([tokens - 1, tokens], dim=1)
    new = torch.ones(both.shape, dtype=torch.bool)
    new[1:, 0] = tokens.diff() != 1  # else the one before is a token of the same response …
    new[counts.cumsum(0) - counts, 0] = True  # … or of another one
    before = torch.cat([counts.new_zeros(1), new[:, 0].cumsum(0)])
    ends = counts.cumsum(0)
    return both[new], counts + before[ends] - before[ends - counts]


def _labels(spans: Tensor, starts: Tensor, ends: Tensor) -> Tensor:
    """Turn span masks ``[P, T]`` bool into the query's labels ``[T]`` int32, a bit per key set.

    Bit 2p is the p-th span, bit 2p + 1 the same without its last token, and the last bit is key 0;
    the last and the first token are those of each sequence, which are given by their borders.
    """
    labels = torch.zeros(spans.shape[1], dtype=torch.int32)
    heads = 0
    for index, span in enumerate(spans):
        at = span.nonzero().flatten()
        labels[at] |= 3 << (2 * index)
        head = 2 << (2 * index)
        first, after = torch.searchsorted(at, starts), torch.searchsorted(at, ends)
        labels[at[after[first < after] - 1]] &= ~head
        heads |= head
    labels[starts] &= ~heads  # the null key is set to zero before the mean is taken
    labels[starts] |= 1 << (2 * len(spans))
    return labels
