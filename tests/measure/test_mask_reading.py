"""Test that pieces and windows are read off a mask function as it is, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import masking_utils as masks

from sra_fast.measure.mask_reading import UnreadableMaskError, read_mask, written_mask

BATCH = 2
LONG = 200  # more pairs than are all looked at

MaskFunction = Callable[..., Tensor]


def positions(*lengths: int) -> Tensor:
    return torch.cat([torch.arange(length) for length in lengths]).expand(BATCH, -1)


def packed(inner: MaskFunction, *lengths: int) -> MaskFunction:
    number = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    apart = masks.packed_sequence_mask_function(number.expand(BATCH, -1))
    place = positions(*lengths)

    def remapped(b: Any, h: Any, q: Any, k: Any) -> Tensor:
        return inner(b, h, place[b, q], place[b, k])

    return masks.and_masks(apart, remapped)


def chunked(size: int, padding: int = 0) -> MaskFunction:
    return masks.chunked_causal_mask_function(size, torch.full((BATCH,), padding))


def whole(function: MaskFunction, queries: int, keys: int, offset: int = 0) -> Tensor:
    """Return which query sees which key, `[B, M, N]`, as the function itself says."""
    b, place = torch.arange(BATCH)[:, None, None], torch.arange(keys) + offset
    seen = function(b, 0, place[keys - queries :, None], place)
    return seen.expand(BATCH, queries, keys)


def described(mask: Tensor | None, queries: int, keys: int) -> Tensor:
    """Return which query sees which key, `[B, M, N]`, as the written mask says."""
    causal = torch.arange(keys) <= torch.arange(keys - queries, keys)[:, None]
    if mask is None:
        return causal.expand(BATCH, -1, -1)
    reading = read_mask(mask)
    seen = torch.zeros(BATCH, keys, keys, dtype=torch.bool)
    for b, start, end in reading.pieces:
        seen[b, start:end, start:end] = True
    if reading.window is not None:
        seen &= torch.ones(keys, keys).triu(1 - reading.window).bool()
    return seen[:, keys - queries :] & causal


@pytest.mark.parametrize(
    ("function", "keys"),
    [
        (masks.causal_mask_function, LONG),
        (masks.sliding_window_causal_mask_function(8), 40),
        (masks.sliding_window_causal_mask_function(8), LONG),
        (masks.sliding_window_causal_mask_function(1), 20),
        (masks.sliding_window_causal_mask_function(300), LONG),
        (chunked(16), 40),
        (chunked(16, padding=5), LONG),
        (packed(masks.causal_mask_function, 13, 27), 40),
        (packed(masks.sliding_window_causal_mask_function(8), 3, 180, 17), LONG),
        (packed(masks.sliding_window_causal_mask_function(8), 3, 5, 7), 15),
        (packed(chunked(16), 37, 63), 100),
    ],
)
@pytest.mark.parametrize("queries", [1, 7, None], ids=["decoding", "some", "all"])
def test_what_is_written_is_what_the_function_says(
    function: MaskFunction, keys: int, queries: int | None
) -> None:
    queries = queries or keys
    mask = written_mask(function, BATCH, queries, keys, 0, None)
    assert torch.equal(described(mask, queries, keys), whole(function, queries, keys))


@pytest.mark.parametrize("offset", [0, 5, 30])
def test_a_cache_that_holds_the_last_keys_only_is_asked_at_their_places(offset: int) -> None:
    for function in (chunked(16), masks.sliding_window_causal_mask_function(8)):
        mask = written_mask(function, BATCH, 3, 20, offset, None)
        assert torch.equal(described(mask, 3, 20), whole(function, 3, 20, offset))


def test_a_full_causal_mask_needs_no_mask() -> None:
    assert written_mask(masks.causal_mask_function, BATCH, 5, 5, 0, None) is None
    wide = masks.sliding_window_causal_mask_function(5)
    assert written_mask(wide, BATCH, 5, 5, 0, None) is None


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (masks.bidirectional_mask_function, "later keys"),
        (masks.sliding_window_bidirectional_mask_function(4), "later keys"),
        (lambda b, h, q, k: (k <= q) & ((q - k) % 3 < 2), "neither causal"),
        (lambda b, h, q, k: (k <= q) & ((k < 4) | (k > q - 8)), "neither causal"),
        (lambda b, h, q, k: (k <= q) & (k > q - 4 - b * 2), "neither causal"),
    ],
    ids=["bidirectional", "both sides", "dilated", "first keys kept", "a window per row"],
)
@pytest.mark.parametrize("keys", [40, LONG])
def test_other_masks_are_told_by_name(function: MaskFunction, problem: str, keys: int) -> None:
    with pytest.raises(UnreadableMaskError, match=problem):
        written_mask(function, BATCH, keys, keys, 0, None)


def test_a_mask_of_zeros_and_ones_is_read_as_one_piece_a_row() -> None:
    reading = read_mask(torch.tensor([[0, 1, 1, 1], [1, 1, 0, 0]]).bool())
    assert reading.pieces == ((0, 1, 4), (1, 0, 2))
    assert reading.window is None


def test_layers_that_share_a_written_mask_share_its_reading() -> None:
    mask = written_mask(masks.sliding_window_causal_mask_function(8), BATCH, 20, 20, 0, None)
    assert mask is not None
    assert read_mask(mask) is read_mask(mask)
    assert read_mask(mask.clone()) == read_mask(mask)
