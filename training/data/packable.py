"""Tell for which models packed rows are exact, and why they are not for the others."""

from __future__ import annotations

from torch import nn

from sra_fast.measure.packing import forwards
from sra_fast.measure.served import rope_types, serve
from sra_fast.measure.trial import tried


def why_not_packed(
    model: nn.Module, *, max_length: int, row_tokens: int | None = None
) -> str | None:
    """Return why a model's packed rows would differ from single sequences, or None if they do not.

    This is for models that attend by "sra_fast", as watched ones do (:func:`sra_fast.monitor`, the
    training callback). transformers' own masks keep packed sequences apart in most families only.

    Args:
        model: a model that ``from_pretrained`` gave, PEFT-wrapped or not.
        max_length: the longest sequence, in tokens.
        row_tokens: the most tokens of a row; two of the longest sequences if None.

    Returns:
        The reason and the way out, in one sentence, or None.

    Raises:
        UnservedModelError: the model does not follow transformers' attention interface.
    """
    served = tried(serve(model))
    row_tokens = 2 * max_length if row_tokens is None else row_tokens
    longest = min(max_length, row_tokens - 1)
    rest = row_tokens - 1 - longest
    first, *others = forwards(served, [1, longest, *[rest] * (rest > 0)], row_tokens)
    if first.packed and not others:
        return None
    if served.stateful:
        return (
            f"{served.name} has layers that carry a state from one packed sequence to the next; "
            "pad its batches (PaddingCollator)"
        )
    if not served.takes_positions:
        return f"{served.name} takes no position_ids; pad its batches (PaddingCollator)"
    if not served.counts_from_zero:
        return (
            f"{served.name} makes positions that do not count from 0, which packed rows would "
            "give it; pad its batches (PaddingCollator)"
        )
    kinds = rope_types(served.config) & {"dynamic", "longrope"}
    if kinds:
        return (
            f"{served.name} has rotary embeddings ({', '.join(sorted(kinds))}) that follow the "
            f"longest sequence of a batch, here up to {max_length} tokens; train on one sequence "
            "per batch"
        )
    return (
        f"{served.name} scales its queries by their place in the row, here up to {row_tokens} "
        "tokens; pack shorter rows, or pad its batches (PaddingCollator)"
    )
