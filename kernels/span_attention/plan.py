"""Read a query's sequences as plain numbers, which each backend loops over.

Segments and labels are read in the host's memory, where a query is made (of one that was made on a
device, that waits for the device). It is done once per query and the plan is kept on it, for all
layers of a model.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .contract import SpanQuery
from .transfers import send


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
    numbers, device = query.numbers(), query.key_labels.device
    rows, segments = numbers.rows, numbers.segments
    edges = torch.tensor(segments, dtype=torch.int64).reshape(-1, 3)
    row, keys = edges[:, :1], edges[:, 1:]
    queries = (keys - (n - m)).clamp(min=0)
    asked = torch.searchsorted(rows, row * m + queries)
    flat = numbers.labels.flatten()
    labelled = flat.nonzero().flatten()  # b·N + j, ascending
    held = torch.searchsorted(labelled, row * n + keys)
    shifts = torch.arange(len(query.names), dtype=torch.int32)
    bits = send(((flat[labelled, None] >> shifts) & 1).bool(), device)
    labelled = send(labelled % max(n, 1), device)
    rows = send(rows % max(m, 1), device)
    sequences = [
        SequencePlan(
            batch=b,
            keys=slice(start, end),
            queries=slice(*queries_here),
            asked=slice(*asked_here),
            rows=rows[slice(*asked_here)],
            labelled=labelled[slice(*held_here)],
            bits=bits[slice(*held_here)],
        )
        for (b, start, end), queries_here, asked_here, held_here in zip(
            segments, queries.tolist(), asked.tolist(), held.tolist(), strict=True
        )
    ]
    whole = segments == tuple((b, 0, n) for b in range(batch))
    return Plan(tuple(sequences), whole)


def check(query: SpanQuery, batch: int, m: int, n: int) -> None:
    """Refuse a query that does not fit ``B = batch``, ``M = m``, ``N = n``.

    It is looked at once, and again if somebody wrote into its tensors.

    Raises:
        ValueError: labels, segments or rows do not fit these sizes or each other.
    """
    query.forget_if_written()
    if query.key_labels.shape != (batch, n):
        raise ValueError(
            f"key_labels: expected shape [{batch}, {n}], got {list(query.key_labels.shape)}"
        )
    if m > n:
        raise ValueError(f"{m} queries and {n} keys: queries are the last M key positions")
    query.derived(("fits", batch, m, n), lambda: _check_numbers(query, batch, m, n))


def _check_numbers(query: SpanQuery, batch: int, m: int, n: int) -> None:
    """Raise an error if segments overlap, or rows, segments or labels lie outside their range."""
    numbers = query.numbers()
    labels, rows, segments = numbers.labels, numbers.rows, numbers.segments
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
