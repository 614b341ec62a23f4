"""The tensors of a result: which it always has, and which hold one part per response."""

from __future__ import annotations

from torch import Tensor

ALWAYS = ("mass", "conversation", "turn", "response_tokens", "span_tokens")
TENSORS = (
    *ALWAYS,
    "as_written",
    "row_masses",
    "row_counts",
    "by_head",
    "profiles",
    "profile_counts",
    "profile_tokens",
    "profile_spans",
    "profile_sources",
    "response_ranges",
)
OF_RESPONSES = ("source_names", "conversation_ids", "meta")
"""Fields that hold a value for each response, or are empty where nothing is known."""

IN_PARTS = {
    "row_masses": "row_counts",
    "profiles": "profile_counts",
    "profile_tokens": "profile_counts",
    "profile_spans": "profile_counts",
    "profile_sources": "profile_counts",
}
"""Tensors whose first axis is that of all responses' parts, and what says how long each part is."""


def part(counts: Tensor, i: int) -> slice:
    """Return where the part of response ``i`` lies on that axis.

    Args:
        counts: int64 ``[n]``, how long the part of each response is.
        i: number of the response, from the end if negative.

    Raises:
        IndexError: no such response.
    """
    if not -len(counts) <= i < len(counts):
        raise IndexError(
            f"there is no response {i}; the result has {len(counts)}, which are numbered from 0"
        )
    end = int(counts[: i % len(counts) + 1].sum())
    return slice(end - int(counts[i]), end)
