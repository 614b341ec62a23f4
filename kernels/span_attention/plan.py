"""Read a query's sequences as plain numbers, which each backend loops over.

Reading segments and labels off a tensor waits for the device. So it is done once per query and the
plan is kept on it, for all layers of a model.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .contract import SpanQuery


@dataclass(frozen=True)
class SequencePlan:
    """One segment: its keys, its queries, and which masses are wanted of it.

    Attributes:
        batch: the batch row that the segment lies in.
        keys: the ``slice`` of the key axis that it covers.
        queries: its ``slice`` of the query axis; empty if it ends before the first query.
        asked: the ``slice`` of the ``R`` rows asked for that lie in it.
        rows: ``[r]`` int64, those rows' positions on the query axis.
        labelled: ``[n]`` int64, positions on the key axis of its keys in any span.
        bits: ``[n, G]`` bool, which spans each labelled key is in.
    """

    batch: int
    keys: slice
    queries: slice
    asked: slice
    rows: Tensor
    labelled: Tensor
    bits: Tensor


@dataclass(frozen=True)
class Plan:
    """All sequences of a query for a call with ``M`` queries and ``N`` keys.

    Attributes:
        sequences: one plan per segment, in the order of the batch rows.
        whole: True if every batch row is one segment of all ``N`` keys, so that one call serves
            the whole batch.
    """

    sequences: tuple[SequencePlan, ...]
    whole: bool


def plan(query: SpanQuery, batch: int, m: int, n: int) -> Plan:
    """Return the plan of ``query`` for ``B = batch``, ``M = m`` and ``N = n``.

    The query must fit these sizes (:func:`check`).
    """
    return query.derived(("plan", batch, m, n), lambda: _make(query, batch, m, n))


def _make(query: SpanQuery, batch: int, m: int, n: int) -> Plan:
    """Build the plan that :func:`plan` returns."""
    labels, rows, segments = _numbers(query)

    device, offset = query.key_labels.device, n - m
    shifts = torch.arange(len(query.names), dtype=torch.int32)
    sequences = []
    for b, start, end in segments:
        first, last = max(start - offset, 0), max(end - offset, 0)
        asked = torch.searchsorted(rows, torch.tensor([b * m + first, b * m + last])).tolist()
        labelled = labels[b, start:end].nonzero().squeeze(1) + start
        sequences.append(
            SequencePlan(
                batch=b,
                keys=slice(start, end),
                queries=slice(first, last),
                asked=slice(*asked),
                rows=(rows[asked[0] : asked[1]] - b * m).to(device),
                labelled=labelled.to(device),
                bits=((labels[b, labelled, None] >> shifts) & 1).bool().to(device),
            )
        )
    whole = segments == [(b, 0, n) for b in range(batch)]
    return Plan(tuple(sequences), whole)


def check(query: SpanQuery, batch: int, m: int, n: int) -> None:
    """Refuse a query that does not fit ``B = batch``, ``M = m``, ``N = n``; checked once per query.

    Raises:
        ValueError: labels, segments or rows do not fit these sizes or each other.
    """
    if query.key_labels.shape != (batch, n):
        raise ValueError(
            f"key_labels: expected shape [{batch}, {n}], got {list(query.key_labels.shape)}"
        )
    if m > n:
        raise ValueError(f"{m} queries and {n} keys: queries are the last M key positions")
    query.derived(("fits", batch, m, n), lambda: _check_numbers(query, batch, m, n))


def _numbers(query: SpanQuery) -> tuple[Tensor, Tensor, list[tuple[int, int, int]]]:
    """Return labels, rows and sorted segments of a query on the CPU."""

    def read() -> tuple[Tensor, Tensor, list[tuple[int, int, int]]]:
        segments = sorted((int(b), int(s), int(e)) for b, s, e in query.segments.cpu().tolist())
        return query.key_labels.cpu(), query.rows.cpu().contiguous(), segments

    return query.derived(("numbers",), read)


def _check_numbers(query: SpanQuery, batch: int, m: int, n: int) -> None:
    """Raise an error if segments overlap, or rows, segments or labels lie outside their range."""
    labels, rows, segments = _numbers(query)
    spans = len(query.names)
    end_before = {b: 0 for b in range(batch)}
    for b, start, end in segments:
        if not (0 <= b < batch and 0 <= start <= end <= n):
            raise ValueError(
                f"segments: ({b}, {start}, {end}) lies outside {batch} batch rows of {n} keys"
            )
        if start < end_before[b]:
            raise ValueError(f"segments: ({b}, {start}, {end}) overlaps another of its batch row")
        end_before[b] = end
    if len(rows) and not (
        int(rows[0]) >= 0 and int(rows[-1]) < batch * m and bool((rows.diff() > 0).all())
    ):
        raise ValueError(f"rows: expected ascending positions in [0, {batch * m}), got {rows}")
    if labels.numel() and (int(labels.min()) < 0 or int(labels.max()) >> spans):
        raise ValueError(f"key_labels: a bit is set beyond the {spans} named spans")
