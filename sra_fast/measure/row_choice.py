"""Choose the rows of each response whose attention is averaged."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import torch
from torch import Tensor

from sra_fast.measure.spans import BatchRowError, MarkedBatch, MarkedSequence, Response
from sra_fast.names import RowChoice


def is_own_rows(rows: object) -> bool:
    """Return whether the rows are those of the responses' own tokens.

    Raises:
        ValueError: there is no such choice.
        TypeError: it is neither a word nor a tensor.
    """
    if isinstance(rows, Tensor):
        return False
    if not isinstance(rows, str):
        raise TypeError(f"rows: expected a word or a tensor [B, T], got {type(rows).__name__}")
    if rows not in get_args(RowChoice):
        words = ", ".join(map(repr, get_args(RowChoice)))
        raise ValueError(f"rows: expected {words} or a tensor [B, T], got {rows!r}")
    return rows == "response"


def choose_rows(marked: MarkedBatch, rows: RowChoice | Tensor) -> MarkedBatch:
    """Return a batch whose responses have the rows that are asked for.

    Args:
        marked: the batch that was read.
        rows: a word; or ``[B, T]``, bool for a batch with one response per sequence, or int with k
            at the rows of the k-th response of a batch row.

    Raises:
        ValueError: rows of another shape or dtype.
        BatchRowError: a response has no row, or a row that is marked belongs to none.
    """
    if is_own_rows(rows):
        return marked
    if isinstance(rows, Tensor):
        _check_mask(rows, marked)
        rows = rows.cpu()
    stray = rows.bool().clone() if isinstance(rows, Tensor) else None  # rows stays as it was given
    taken: dict[int, int] = {}
    sequences = []
    for sequence in marked.sequences:
        numbered = taken.get(sequence.row, 0)
        taken[sequence.row] = numbered + len(sequence.responses)
        responses = tuple(
            replace(response, rows=_rows_of(rows, sequence, response, numbered + at))
            for at, response in enumerate(sequence.responses, 1)
        )
        sequences.append(replace(sequence, responses=responses))
        if stray is not None:
            for response in responses:
                stray[sequence.row, sequence.start + response.measured] = False
    if stray is not None and isinstance(rows, Tensor) and bool(stray.any()):
        row, at = stray.nonzero()[0].tolist()
        raise BatchRowError(
            row,
            f"`rows` has {rows[row, at].item()} at position {at}, which is a row of no response: "
            "it is padding, or no response of its sequence has that number",
        )
    return replace(marked, sequences=tuple(sequences))


def before_their_span(marked: MarkedBatch) -> str | None:
    """Return which responses end before the first span begins, in words, or None if none does.

    No row of such a response sees the span, so that all its masses on it are 0.
    """
    found = []
    for sequence in marked.sequences:
        first = int(sequence.spans[0].nonzero()[0])
        found += [
            f"row {sequence.row}, turn {response.turn}"
            for response in sequence.responses
            if int(response.measured[-1]) < first
        ]
    if not found:
        return None
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    return (
        f"{found[0]}{more}: the response ends before {marked.names[0]!r} begins, so it pays it no "
        "attention and every mass is 0; were the two masks swapped?"
    )


def _check_mask(rows: Tensor, marked: MarkedBatch) -> None:
    if tuple(rows.shape) != marked.shape or rows.is_floating_point():
        raise ValueError(
            f"rows: expected {list(marked.shape)} bool or int, got {list(rows.shape)} {rows.dtype}"
        )
    most = max(len(sequence.responses) for sequence in marked.sequences)
    if rows.dtype == torch.bool and most > 1:
        raise ValueError(
            f"rows: a sequence has {most} responses, so the rows of each need its number: give int "
            "with k at the rows of the k-th response"
        )


def _rows_of(
    rows: str | Tensor, sequence: MarkedSequence, response: Response, number: int
) -> Tensor:
    if isinstance(rows, str):
        tokens = response.tokens if len(response.tokens) else torch.tensor([response.after])
        return tokens - 1 if rows == "predicting" else tokens[:1] - 1
    here = rows[sequence.row, sequence.start : sequence.end]
    found = here if rows.dtype == torch.bool else here == number
    at = found.nonzero().flatten()
    if not len(at):
        raise BatchRowError(sequence.row, f"`rows` marks none for response {number}")
    return at
