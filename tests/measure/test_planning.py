"""Test that a query says what a plain loop over sequences, responses and tokens says."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from pretended_device import PretendedDevices, pretend
from sra_fast.kernels.contract import SpanQuery
from sra_fast.kernels.plan import check, plan
from sra_fast.measure.marked_query import build_query
from sra_fast.measure.sequences import numbered_runs
from sra_fast.measure.spans import MarkedBatch, read_batch

WIDTH = 40


def random_batch(seed: int) -> tuple[dict[str, Any], list[tuple[int, int, int]]]:
    """Return masks of packed rows with gaps between sequences, and where the sequences lie."""
    draw = random.Random(seed)
    rows, spans = draw.randint(1, 3), draw.randint(1, 3)
    responses = torch.zeros(rows, WIDTH, dtype=torch.int64)
    masks = {f"span_{p}": torch.zeros(rows, WIDTH, dtype=torch.bool) for p in range(spans)}
    segments = []
    for row in range(rows):
        borders = sorted(draw.sample(range(WIDTH + 1), 4))
        for start, end in ((borders[0], borders[1]), (borders[2], borders[3])):
            if end - start < 2:
                continue
            segments.append((row, start, end))
            for at in range(start + 1, end):
                responses[row, at] = draw.choice((0, 0, 1, 2, 5))
            responses[row, draw.randrange(start + 1, end)] = 3  # at least one
            for p, mask in enumerate(masks.values()):
                for at in range(start, end):
                    mask[row, at] = draw.random() < 0.3
                if p == 0:
                    mask[row, draw.randrange(start, end)] = True
    if not segments:
        return random_batch(seed + 1000)
    return {"span_masks": masks, "response_mask": responses}, segments


def layouts(batch: MarkedBatch, seed: int) -> Iterator[tuple[list[int], list[Any], list[int]]]:
    """Yield members, their places and the shape of a packed and of a padded layout."""
    members = list(range(len(batch.sequences)))
    random.Random(seed).shuffle(members)
    lengths = [batch.sequences[member].length for member in members]
    starts = [sum(lengths[:index]) for index in range(len(lengths))]
    yield members, [(0, start) for start in starts], [1, sum(lengths)]
    yield members, [(row, 2) for row in range(len(members))], [len(members), max(lengths) + 3]


@pytest.mark.parametrize("seed", range(40))
def test_a_query_asks_for_what_the_masks_mark(seed: int) -> None:
    masks, segments = random_batch(seed)
    batch = read_batch(masks, segments)
    assert [(one.row, one.start, one.end) for one in batch.sequences] == segments
    for members, places, shape in layouts(batch, seed):
        query, placed = build_query(batch, members, places, shape)
        labels = torch.zeros(*shape, dtype=torch.int32)
        rows: set[int] = set()
        replies = []  # of each response: the flat positions of its tokens
        for member, (b, first) in zip(members, places, strict=True):
            row, start, end = segments[member]
            for p, mask in enumerate(masks["span_masks"].values()):
                held = [at for at in range(start, end) if mask[row, at]]
                for at in held:
                    labels[b, first + at - start] |= 1 << 2 * p
                for at in held[:-1]:
                    if at > start:
                        labels[b, first + at - start] |= 2 << 2 * p
            labels[b, first] |= 1 << 2 * len(masks["span_masks"])
            numbers = masks["response_mask"][row, start:end].tolist()
            for number in sorted({*numbers} - {0}):
                flat = [b * shape[1] + first + i for i, one in enumerate(numbers) if one == number]
                replies.append(flat)
                rows |= {at for token in flat for at in (token - 1, token)}
        assert torch.equal(query.key_labels, labels)
        assert query.rows.tolist() == sorted(rows)
        assert placed.counts.tolist() == [len(flat) for flat in replies]
        each = [sorted({at for token in flat for at in (token - 1, token)}) for flat in replies]
        assert placed.row_counts.tolist() == [len(flat) for flat in each]
        for found, expected in (
            (placed.tokens, replies),
            (placed.predicting, [[token - 1 for token in flat] for flat in replies]),
            (placed.every, each),
        ):
            assert query.rows[found].tolist() == [at for flat in expected for at in flat]
        check(query, *shape[:1], shape[1], shape[1])


@pytest.mark.parametrize("seed", range(20))
def test_runs_are_those_of_a_walk_along_each_row(seed: int) -> None:
    torch.manual_seed(seed)
    numbers = torch.randint(0, 3, (3, 17))
    expected = []
    for b, row in enumerate(numbers.tolist()):
        start = 0
        for at in range(1, len(row) + 1):
            if at == len(row) or row[at] != row[start]:
                if row[start]:
                    expected.append((b, start, at))
                start = at
    assert numbered_runs(numbers) == expected


@pytest.mark.parametrize("m", [WIDTH, 7])
def test_a_plan_has_the_rows_and_the_labelled_keys_of_each_segment(m: int) -> None:
    torch.manual_seed(0)
    labels = torch.randint(0, 4, (2, WIDTH), dtype=torch.int32) * (torch.rand(2, WIDTH) < 0.3)
    rows = (torch.rand(2 * m) < 0.4).nonzero().flatten()
    segments = [(1, 20, 40), (0, 0, 13), (0, 13, 13), (0, 36, 40), (1, 3, 20)]
    tensor = torch.tensor(segments, dtype=torch.int32)
    query = SpanQuery(labels.int(), rows, tensor, ("a", "b"))
    check(query, 2, m, WIDTH)
    found = plan(query, 2, m, WIDTH)
    assert not found.whole
    for part, (b, start, end) in zip(found.sequences, sorted(segments), strict=True):
        queries = [i for i in range(m) if start <= i + WIDTH - m < end]
        assert (part.batch, part.keys) == (b, slice(start, end))
        assert list(range(part.queries.start, part.queries.stop)) == queries
        asked = [i for i in queries if b * m + i in rows.tolist()]
        assert part.rows.tolist() == asked
        assert rows[part.asked].tolist() == [b * m + i for i in asked]
        held = [key for key in range(start, end) if labels[b, key]]
        assert part.labelled.tolist() == held
        bits = [[bool(int(labels[b, key]) & bit) for bit in (1, 2)] for key in held]
        assert part.bits.tolist() == bits


def test_a_query_that_was_moved_to_a_device_is_never_copied_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretend(monkeypatch)
    masks, segments = random_batch(0)
    batch = read_batch(masks, segments)
    query, _ = build_query(batch, *next(layouts(batch, 0)))
    n = query.key_labels.shape[1]
    with PretendedDevices() as devices, devices.counting() as counts:
        moved = query.to(torch.device("cuda:0"))
        assert moved is query.to(torch.device("cuda:0"))
        assert moved.rows.device.type == "cuda"
        check(moved, 1, n, n)
        parts = plan(moved, 1, n, n).sequences
        moved.packs(), moved.cut_at([(0, 0, n)])
    assert not counts.waits
    assert counts.uploads <= 3 + 3 + 1
    for part, same in zip(parts, plan(query, 1, n, n).sequences, strict=True):
        for name in ("rows", "labelled", "bits"):
            on_device = getattr(part, name)
            assert on_device.device.type == "cuda"
            assert torch.equal(on_device.inner, getattr(same, name))


def test_a_query_that_was_made_on_a_device_is_copied_back_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretend(monkeypatch)
    with PretendedDevices() as devices:
        query = SpanQuery(
            devices.send(torch.ones(1, 8, dtype=torch.int32)),
            devices.send(torch.tensor([5, 7])),
            devices.send(torch.tensor([[0, 0, 8]], dtype=torch.int32)),
            ("span",),
        )
        with devices.counting() as counts:
            for _ in range(3):
                check(query, 1, 8, 8)
                plan(query, 1, 8, 8)
        assert counts.downloads <= 3
