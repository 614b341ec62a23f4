"""Cut a prompt into sources, and sum the attention on each: messages, sentences, named spans."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy
from numpy.typing import NDArray

from sra_fast.chat.source_places import sentence_ends
from sra_fast.report.viewer.viewed_conversation import (
    PROMPT,
    Numbers,
    TokenRange,
    ViewedConversation,
)

Sources = Sequence[Sequence[TokenRange]]
"""The token ranges of each source."""


def messages(conversation: ViewedConversation) -> list[list[TokenRange]]:
    """Return the token range of every message, in order."""
    return [[(turn.start, turn.end)] for turn in conversation.turns]


def sentences(conversation: ViewedConversation) -> list[list[TokenRange]]:
    """Return the token range of every sentence of every message, in order.

    A token belongs to the sentence that its first visible character stands in, and one of blanks
    alone to that of the token before it. Where messages are not known there are none: what the chat
    template writes could not be told from the text.
    """
    if any(turn.role == PROMPT for turn in conversation.turns):
        return []
    found: list[list[TokenRange]] = []
    for turn in conversation.turns:
        pieces = conversation.tokens[turn.start : turn.end]
        visible: list[int] = []  # the character of each token that tells its sentence
        at = 0
        for piece in pieces:
            blanks = len(piece) - len(piece.lstrip())
            visible.append(at + blanks if piece.strip() else (visible[-1] if visible else 0))
            at += len(piece)
        cuts = numpy.searchsorted(visible, [0, *sentence_ends("".join(pieces))])
        borders = sorted({0, *map(int, cuts), len(pieces)})
        found += [[(turn.start + a, turn.start + b)] for a, b in itertools.pairwise(borders)]
    return found


def attention_on(rows: Numbers, sources: Sources) -> NDArray[numpy.float64]:
    """Return the attention on each source, the sum over its tokens.

    Args:
        rows: attention on every token, ``[N, T]``.
        sources: token ranges of the S sources; what lies beyond T gets no attention.

    Returns:
        float64 ``[N, S]``.
    """
    tokens = rows.shape[1]
    parts = [
        (index, min(start, tokens), min(end, tokens))
        for index, ranges in enumerate(sources)
        for start, end in ranges
        if min(start, tokens) < min(end, tokens)
    ]
    sums = numpy.zeros((rows.shape[0], len(sources)))
    if not parts:
        return sums
    owners, starts, ends = numpy.array(parts).T
    borders = numpy.stack([starts, ends], axis=1).ravel()
    for index, row in enumerate(rows):  # row by row: a copy of all in float64 would be too large
        padded = numpy.append(row.astype(numpy.float64), 0.0)  # for sources that end with the text
        on_parts = numpy.add.reduceat(padded, borders)[::2]
        sums[index] = numpy.bincount(owners, weights=on_parts, minlength=len(sources))
    return sums
