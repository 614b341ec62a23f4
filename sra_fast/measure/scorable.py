"""Refuse batches that a model or a definition cannot score, before anything runs."""

from __future__ import annotations

from torch import Tensor

from sra_fast.measure.served import ServedModel
from sra_fast.measure.spans import BatchRowError, MarkedBatch


def check_lengths(served: ServedModel, marked: MarkedBatch) -> None:
    """Refuse a sequence that is longer than the model's context."""
    limit = served.context_length
    for sequence in marked.sequences:
        if limit is not None and sequence.length > limit:
            raise BatchRowError(
                sequence.row,
                f"{sequence.length} tokens, and {served.name} reaches to {limit}; shorten the "
                "conversation or take a template that keeps fewer turns",
            )


def check_token_ids(served: ServedModel, marked: MarkedBatch, input_ids: Tensor) -> None:
    """Refuse a token without an embedding, which would end all further work on a GPU.

    Padding is not looked at: it is not run, and tokenizers give it numbers of their own.
    """
    known = getattr(served.decoder.get_input_embeddings(), "num_embeddings", None)
    if known is None:
        return
    ids = input_ids.cpu()
    for sequence in marked.sequences:
        here = ids[sequence.row, sequence.start : sequence.end]
        if bool((unknown := (here < 0) | (here >= known)).any()):
            at = int(unknown.nonzero()[0])
            raise BatchRowError(
                sequence.row,
                f"token id {int(here[at])} at position {sequence.start + at}, and {served.name} "
                f"has embeddings for 0 to {known - 1}; encode with the model's own tokenizer, or "
                "call model.resize_token_embeddings if it has new tokens",
            )


def check_definable(marked: MarkedBatch, definition: str) -> None:
    """Refuse a span of one token under a definition that leaves out the span's last one."""
    if definition not in ("reference", "table1"):
        return
    for sequence in marked.sequences:
        if int(sequence.spans[0].sum()) < 2:
            raise BatchRowError(
                sequence.row,
                f"{definition!r} leaves out the span's last token, and {marked.names[0]!r} has "
                "only one; use definition='paper'",
            )
