"""Score a batch: its Strategy Relevant Attention in one forward pass, without attention maps."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sra_fast.backends import check_backend
from sra_fast.definitions import check_definition
from sra_fast.measure.packing import Forward, forwards, fresh_rope
from sra_fast.measure.reduction import reduce
from sra_fast.measure.request import REQUEST, ForwardStopped, SpanRequest
from sra_fast.measure.served import ServedModel, evaluating, serve, switched
from sra_fast.measure.spans import BatchRowError, MarkedBatch, build_query, read_batch
from sra_fast.measure.trial import tried
from sra_fast.names import FORWARD_TOKENS
from sra_fast.result import SRAResult


def score(
    model: nn.Module,
    batch: Mapping[str, Any],
    *,
    definition: str = "paper",
    keep_rows: bool = False,
    backend: str = "auto",
    forward_tokens: int = FORWARD_TOKENS,
) -> SRAResult:
    """Measure how much the responses of a batch attend to the spans of their prompts.

    The decoder runs once over each sequence, without logits and KV cache, and a forward pass ends
    as soon as the last attention layer's mass is known; nothing is computed for padding. The model
    is left as it was found, whatever happens. Definitions: :mod:`sra_fast.definitions`
    (arXiv 2402.10453).

    Args:
        model: what ``AutoModelForCausalLM.from_pretrained`` gives; also PEFT-wrapped, quantised,
            dispatched over devices, or multimodal (its text part is scored).
        batch: a mapping with

            - ``input_ids [B, T]`` int64,
            - ``attention_mask [B, T]`` (optional), one run of tokens per row, either side padded,
            - ``strategy_mask [B, T]`` bool, or ``span_masks {name: [B, T] bool}`` for 1 to 15
              spans, the first of which is the one that ``.sra`` is of,
            - ``response_mask [B, T]``, bool, or int with k at the tokens of the k-th response,
            - ``conversation [B]`` and ``turns [B, K]`` int64 and ``as_written [B, K]`` bool
              (optional) as :func:`sra_fast.encode` gives them.

        definition: the definition that ``result.sra`` gives, built-in or one of your own
            (:func:`sra_fast.register_definition`); all are in ``result.scores``.
        keep_rows: whether to keep the masses of every row (``result.rows(i)``).
        backend: backend of the op (:func:`sra_fast.span_attention`).
        forward_tokens: the most tokens of one forward pass (or one sequence, if that is longer);
            bounds the memory and changes no score.

    Returns:
        The scores of all responses, in the order of the batch.

    Raises:
        ValueError: a batch that cannot be scored (the row is named), NaN in the hidden states,
            prompts beyond the model's context, a model that is not served, no such backend, or
            ``forward_tokens`` below 1.
        KeyError: a mask is missing, or there is no such definition.
    """
    check_definition(definition)
    check_backend(backend)
    if forward_tokens < 1:
        raise ValueError(f"forward_tokens must be at least 1, got {forward_tokens}")
    served = tried(serve(model))
    if "input_ids" not in batch:
        raise KeyError("the batch needs `input_ids`")
    marked = read_batch(batch)
    input_ids = batch["input_ids"]
    if input_ids.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"input_ids: expected int64, got {input_ids.dtype}")
    _check_definable(marked, definition)
    _check_lengths(served, marked)
    lengths = [sequence.length for sequence in marked.sequences]
    plan = forwards(served, lengths, forward_tokens)
    with torch.no_grad(), switched(served), evaluating(served.decoder):
        results = [
            _run(served, marked, input_ids, forward, definition, keep_rows, backend)
            for forward in plan
        ]
    done = [
        (member, number)
        for forward in plan
        for member in forward.members
        for number in range(len(marked.sequences[member].responses))
    ]
    in_order = sorted(range(len(done)), key=done.__getitem__)
    return SRAResult.concatenate(results).take(in_order)


def _run(
    served: ServedModel,
    marked: MarkedBatch,
    input_ids: Tensor,
    forward: Forward,
    definition: str,
    keep_rows: bool,
    backend: str,
) -> SRAResult:
    """Run one forward pass, and return the results of its members' responses, in their order."""
    pieces = []
    for member in forward.members:
        sequence = marked.sequences[member]
        pieces.append(input_ids[sequence.row, sequence.start : sequence.end])
    inputs, places = _packed(pieces) if forward.packed else _padded(pieces)
    shape = inputs["input_ids"].shape
    query, placed = build_query(marked, forward.members, places, shape)
    stop = max(served.attention_layers, default=None) if served.can_stop else None
    request = SpanRequest(
        query, stop_after=stop, mass_grad=False, in_outputs=False, backend=backend
    )
    device = _input_device(served)
    inputs = {name: tensor.to(device) for name, tensor in inputs.items()}
    with fresh_rope(served.decoder), contextlib.suppress(ForwardStopped):
        served.decoder(**inputs, use_cache=False, **{REQUEST: request})
    return reduce(
        request, placed, marked, forward.members, served.attention_layers, definition, keep_rows
    )


def _packed(pieces: Sequence[Tensor]) -> tuple[dict[str, Tensor], list[tuple[int, int]]]:
    """Lay sequences one after the other in a single row, with positions from 0 in each.

    Returns:
        The decoder's arguments, and the ``(row, start)`` of each sequence.
    """
    starts = [0]
    for piece in pieces[:-1]:
        starts.append(starts[-1] + len(piece))
    positions = torch.cat([torch.arange(len(piece)) for piece in pieces])
    inputs = {"input_ids": torch.cat(list(pieces))[None], "position_ids": positions[None]}
    return inputs, [(0, start) for start in starts]


def _padded(pieces: Sequence[Tensor]) -> tuple[dict[str, Tensor], list[tuple[int, int]]]:
    """Lay each sequence in a row of its own, padded on the right.

    Returns:
        As :func:`_packed`.
    """
    ids = nn.utils.rnn.pad_sequence(list(pieces), batch_first=True)
    lengths = torch.tensor([len(piece) for piece in pieces])
    mask = torch.arange(ids.shape[1]) < lengths[:, None]
    inputs = {"input_ids": ids, "attention_mask": mask.long()}
    return inputs, [(row, 0) for row in range(len(pieces))]


def _input_device(served: ServedModel) -> torch.device:
    """Return where token ids go; the hook of an offloaded embedding moves them on by itself."""
    device = served.decoder.get_input_embeddings().weight.device
    return torch.device("cpu") if device.type == "meta" else device


def _check_lengths(served: ServedModel, marked: MarkedBatch) -> None:
    limit = served.context_length
    for sequence in marked.sequences:
        if limit is not None and sequence.length > limit:
            raise BatchRowError(
                sequence.row,
                f"{sequence.length} tokens, and {served.name} reaches to {limit}; shorten the "
                "conversation or take a template that keeps fewer turns",
            )


def _check_definable(marked: MarkedBatch, definition: str) -> None:
    if definition not in ("reference", "table1"):
        return
    for sequence in marked.sequences:
        if int(sequence.spans[0].sum()) < 2:
            raise BatchRowError(
                sequence.row,
                f"{definition!r} leaves out the span's last token, and {marked.names[0]!r} has "
                "only one; use definition='paper'",
            )
