"""Read a query's sequences as plain numbers, which each backend loops over.

Segments and labels are read in the host's memory, where a query is made (of one that was made on a
device, that waits for the device). It is done once per query and the plan is kept on it, for all
layers of a model.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

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
        before: the ``slice`` of the key axis with its parent's keys; empty without a parent.
        labelled: ``[n]`` int64, positions on the key axis of its keys in any span, the parent's
            first.
        places: ``[n]`` int64, the positions from which those keys are seen: the same, but for the
            parent's keys, which stand right before its own.
        bits: ``[n, G]`` bool, which spans each labelled key is in.
    """

    batch: int
    keys: slice
    queries: slice
    asked: slice
    rows: Tensor
    before: slice
    labelled: Tensor
    places: Tensor
    bits: Tensor

    @property
    def first(self) -> int:
        """The position from which its first key is seen, which may be the parent's."""
        first: int = self.keys.start - (self.before.stop - self.before.start)
        return first

    @property
    def shift(self) -> int:
        """The distance from a parent's key on the key axis to where it is seen from."""
        return int(self.keys.start - self.before.stop) if self.before.stop else 0


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
    sequences: list[SequencePlan] = []
    for (b, start, end), parent, queries_here, asked_here, held_here in zip(
        segments, numbers.parents, queries.tolist(), asked.tolist(), held.tolist(), strict=True
    ):
        own = slice(*held_here)
        part = SequencePlan(
            batch=b,
            keys=slice(start, end),
            queries=slice(*queries_here),
            asked=slice(*asked_here),
            rows=rows[slice(*asked_here)],
            before=slice(0, 0),
            labelled=labelled[own],
            places=labelled[own],
            bits=bits[own],
        )
        sequences.append(part if parent < 0 else _after(part, sequences[parent]))
    whole = segments == tuple((b, 0, n) for b in range(batch))
    return Plan(tuple(sequences), whole)


def _after(part: SequencePlan, parent: SequencePlan) -> SequencePlan:
    """Return the plan of a segment with the keys of its parent before its own."""
    part = replace(part, before=parent.keys)
    return replace(
        part,
        labelled=torch.cat([parent.labelled, part.labelled]),
        places=torch.cat([parent.labelled + part.shift, part.labelled]),
        bits=torch.cat([parent.bits, part.bits]),
    )


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
    if m < n and query.parents is not None:
        raise ValueError(f"parents: expected as many queries as keys, got {m} and {n}")
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
    _check_parents(segments, numbers.parents)
    if len(rows) and not (
        int(rows[0]) >= 0 and int(rows[-1]) < batch * m and bool((rows.diff() > 0).all())
    ):
        raise ValueError(f"rows: expected ascending positions in [0, {batch * m}), got {rows}")
    if labels.numel() and (int(labels.min()) < 0 or int(labels.max()) >> spans):
        raise ValueError(f"key_labels: a bit is set beyond the {spans} named spans")


def _check_parents(segments: tuple[tuple[int, int, int], ...], parents: tuple[int, ...]) -> None:
    """Raise an error if a segment's parent is none that stands whole before it in its row."""
    for index, (segment, parent) in enumerate(zip(segments, parents, strict=True)):
        if parent == -1:
            continue
        if not 0 <= parent < len(segments):
            raise ValueError(f"parents: {parent} is none of the {len(segments)} segments, nor -1")
        if parent >= index or segments[parent][0] != segment[0]:
            raise ValueError(
                f"parents: {segments[parent]} does not lie before {segment} in its batch row"
            )
        if parents[parent] != -1:
            raise ValueError(f"parents: {segments[parent]}, a parent, has a parent itself")
