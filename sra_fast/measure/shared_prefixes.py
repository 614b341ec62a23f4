"""Find the beginnings that sequences of a batch share, so that each is computed once.

A prefix is shared as far as nothing differs: token ids, what spans they are in, and, as each
sequence counts its positions from 0, their positions. It ends before the first row whose attention
is asked for, so that every such row is in a tail, and each sequence keeps one.

Of a tree of common beginnings, such as the turns of one conversation, one level is shared: each
sequence has at most one prefix. Which ones is chosen by the number of tokens that they save.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy
from torch import Tensor

from sra_fast.measure.marked_query import key_labels
from sra_fast.measure.prefixes import SharedPrefix
from sra_fast.measure.spans import MarkedBatch, MarkedSequence

LEAST_TOKENS = 32
"""The fewest tokens that are shared.

Each tail costs a second call of attention in every layer, and what most batches have in common is
short: a chat template's opening, of 5 to 30 tokens."""


def find_shared(marked: MarkedBatch, input_ids: Tensor) -> list[SharedPrefix]:
    """Find which sequences of a batch share a beginning of :data:`LEAST_TOKENS` tokens or more.

    Args:
        marked: the batch, with the rows that are asked for.
        input_ids: ``[B, T]`` of the batch.

    Returns:
        Disjoint groups of sequences, in the order of their first members.
    """
    ids = input_ids.cpu().numpy()
    openings: dict[bytes, list[int]] = {}
    for index, sequence in enumerate(marked.sequences):
        if _rows_begin(sequence) >= LEAST_TOKENS:
            opening = ids[sequence.row, sequence.start : sequence.start + LEAST_TOKENS]
            openings.setdefault(opening.tobytes(), []).append(index)
    found: list[SharedPrefix] = []
    for members in openings.values():
        if len(members) > 1:
            texts = _texts([marked.sequences[member] for member in members], ids)
            for prefix in longest_shared(texts, LEAST_TOKENS):
                at = tuple(members[one] for one in prefix.members)
                found.append(SharedPrefix(at, prefix.length))
    return sorted(found, key=lambda prefix: prefix.members)


def longest_shared(texts: Sequence[numpy.ndarray], least: int) -> list[SharedPrefix]:
    """Choose beginnings that save the most tokens, or nearly so, at one prefix a text.

    Args:
        texts: what each of n sequences may share, ``[length]`` int64.
        least: the fewest tokens of a prefix.
    """
    order = sorted(range(len(texts)), key=lambda index: texts[index].tobytes())
    # Sorted, the texts under one node of the tree of beginnings are neighbours. The nodes on the
    # way to the last text are open, from the root down, with their finished children.
    nodes: list[tuple[int, list[_Choice]]] = [(0, [_Choice([order[0]], [order[0]])])]
    for before, index in itertools.pairwise(order):
        common = _common(texts[before], texts[index])
        common = common if common >= least else 0
        if common > nodes[-1][0]:
            nodes.append((common, [nodes[-1][1].pop()]))
        while common < nodes[-1][0]:
            closed = _closed(*nodes.pop())
            if nodes[-1][0] < common:
                nodes.append((common, []))
            nodes[-1][1].append(closed)
        nodes[-1][1].append(_Choice([index], [index]))
    while len(nodes) > 1:
        closed = _closed(*nodes.pop())
        nodes[-1][1].append(closed)
    return [prefix for choice in nodes[0][1] for prefix in choice.prefixes]


@dataclass
class _Choice:
    """A choice of shared prefixes below a node of the tree of common beginnings.

    Attributes:
        members: the sequences below it.
        alone: those that no prefix has yet.
        prefixes: the prefixes of the others.
    """

    members: list[int]
    alone: list[int]
    prefixes: list[SharedPrefix] = field(default_factory=list)

    @property
    def saved(self) -> int:
        return sum(prefix.saved for prefix in self.prefixes)


def _closed(length: int, children: Sequence[_Choice]) -> _Choice:
    """Choose at a node whether it becomes a prefix: of all below a child, or of those still alone.

    Sharing it among m sequences saves (m − 1)·length tokens, and what is given up for it.
    """
    members = [one for child in children for one in child.members]
    sharing: list[int] = []
    kept: list[SharedPrefix] = []
    saved = -length
    for child in children:
        of_all, of_rest = len(child.members) * length, child.saved + len(child.alone) * length
        sharing += child.members if of_all > of_rest else child.alone
        kept += [] if of_all > of_rest else child.prefixes
        saved += max(of_all, of_rest)
    if len(sharing) > 1 and saved > sum(child.saved for child in children):
        return _Choice(members, [], [*kept, SharedPrefix(tuple(sorted(sharing)), length)])
    alone = [one for child in children for one in child.alone]
    return _Choice(members, alone, [one for child in children for one in child.prefixes])


def _texts(sequences: Sequence[MarkedSequence], ids: numpy.ndarray) -> list[numpy.ndarray]:
    """Return what sequences may share, token by token: the token id and the spans that it is in."""
    labels = key_labels(sequences)
    texts = []
    for sequence, spans in zip(sequences, labels, strict=True):
        here = slice(sequence.start, sequence.start + _rows_begin(sequence))
        tokens = ids[sequence.row, here].astype(numpy.int64)
        texts.append((tokens << 32) | spans.numpy()[: len(tokens)].astype(numpy.int64))
    return texts


def _rows_begin(sequence: MarkedSequence) -> int:
    """Return the position of the first row of a sequence that is asked for."""
    rows = [
        int(response.measured[0]) - (response.rows is None)
        for response in sequence.responses
        if len(response.measured)
    ]
    return min(rows, default=sequence.length - 1)


def _common(one: numpy.ndarray, other: numpy.ndarray) -> int:
    """Return how many first numbers two arrays have in common."""
    length = min(len(one), len(other))
    apart = (one[:length] != other[:length]).nonzero()[0]
    return int(apart[0]) if len(apart) else length
