"""Cut a prompt into sources, and sum the attention on each: messages, sentences, named spans."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

import numpy
from numpy.typing import NDArray

from sra_fast.report.viewer.viewed_conversation import Numbers, TokenRange, ViewedConversation

# A sentence ends after its sign and the spaces that follow, or at a line break. Signs of Chinese
# and Japanese have no space after them; the danda, the Urdu full stop and the Arabic question mark
# do.
_SENTENCE_END = re.compile(r"[.!?…।۔؟]+[\"'”’)\]]*\s+|[。！？]+[」』”’）]*\s*|\s*\n\s*")

Sources = Sequence[Sequence[TokenRange]]
"""The token ranges of each source."""


def messages(conversation: ViewedConversation) -> list[list[TokenRange]]:
    """Return the token range of every message, in order."""
    return [[(turn.start, turn.end)] for turn in conversation.turns]


def sentences(conversation: ViewedConversation) -> list[list[TokenRange]]:
    """Return the token range of every sentence of every message, in order.

    A token belongs to the sentence that its first visible character stands in, and one
    of spaces alone to that before it.
    """
    found: list[list[TokenRange]] = []
    for turn in conversation.turns:
        pieces = conversation.tokens[turn.start : turn.end]
        text = "".join(pieces)
        begins = itertools.accumulate((len(piece) for piece in pieces), initial=0)
        visible = [
            at + (len(piece) - len(piece.lstrip()) if piece.strip() else 0)
            for at, piece in zip(begins, pieces, strict=False)
        ]
        ends = [match.end() for match in _SENTENCE_END.finditer(text)]
        cuts = numpy.searchsorted(numpy.asarray(visible, dtype=numpy.int64), [0, *ends])
        cuts = numpy.unique(numpy.append(cuts, [0, len(pieces)])) + turn.start
        found += [[(int(a), int(b))] for a, b in itertools.pairwise(cuts)]
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
