"""Make answered requests with random masses, for tests of what is made of them."""

from __future__ import annotations

import torch
from torch import Tensor

from sra_fast.measure.marked_query import Placed, query_as_given
from sra_fast.measure.request import SpanRequest
from sra_fast.measure.spans import MarkedBatch, read_batch


def marked(replies: list[list[int]], length: int, spans: list[list[int]]) -> dict[str, object]:
    """Return a batch of one sequence, given the positions of its replies and of its spans."""
    numbers = torch.zeros(1, length, dtype=torch.int32)
    for number, positions in enumerate(replies, start=1):
        numbers[0, positions] = number
    masks = {}
    for index, positions in enumerate(spans):
        masks[f"span_{index}"] = torch.zeros(1, length, dtype=torch.bool)
        masks[f"span_{index}"][0, positions] = True
    return {"span_masks": masks, "response_mask": numbers}


def spread(count: int, length: int, longest: int, first: int = 20) -> list[list[int]]:
    """Return the positions of ``count`` replies of different lengths up to ``longest``."""
    step = (length - first) // count
    return [
        list(range(first + k * step, first + k * step + 1 + (37 * k + longest - 1) % longest))
        for k in range(count)
    ]


def answered(
    batch: dict[str, object],
    *,
    layers: int = 3,
    heads: int = 4,
    sinks: tuple[int, ...] = (),
    on_null: float = 0.0,
    seed: int = 0,
) -> tuple[SpanRequest, Placed, MarkedBatch]:
    """Answer the request of a batch with random masses, as a softmax over some keys gives them.

    Args:
        batch: made by :func:`marked`.
        layers: number of layers.
        heads: number of heads.
        sinks: the layers that have attention sinks.
        on_null: added to the logit of key 0.
        seed: of the masses.
    """
    torch.manual_seed(seed)
    read = read_batch(batch)
    query, placed = query_as_given(read)
    request = SpanRequest(query)
    spans = len(query.names)
    held = ((query.key_labels[0, :, None] >> torch.arange(spans)) & 1).any(dim=0)
    for layer in range(layers):
        logits = 3.0 * torch.randn(len(query.rows), heads, spans + 2)
        logits[..., spans - 1] += on_null
        shares: Tensor = logits.softmax(dim=-1)
        request.masses[layer] = shares[..., :spans] * held  # no key, no mass
        if layer in sinks:
            request.sink_masses[layer] = shares[..., spans].contiguous()
    return request, placed, read
