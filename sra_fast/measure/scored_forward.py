"""Run one forward pass, and reduce its masses and profiles to the results of its responses."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sra_fast.kernels.contract import SpanQuery
from sra_fast.measure.batch_keys import BatchContent
from sra_fast.measure.few_tokens import every_row_on_every_key, plain_tokens
from sra_fast.measure.laying_out import laid_out, laid_out_once
from sra_fast.measure.marked_query import Placed, build_query, query_as_given
from sra_fast.measure.packing import Forward, fresh_rope
from sra_fast.measure.prefixes import PlacedPrefix
from sra_fast.measure.profiles import ProfileRecord, attach_profiles, with_profiles
from sra_fast.measure.reduction import reduce
from sra_fast.measure.request import REQUEST, ForwardStopped, SpanRequest
from sra_fast.measure.run_as_given import run_whole
from sra_fast.measure.served import ServedModel, may_be_stopped
from sra_fast.measure.spans import MarkedBatch
from sra_fast.names import ProfileKind
from sra_fast.result import SRAResult


@dataclass(frozen=True)
class WantedScores:
    """The scores that are asked of a forward pass, with the meanings of :func:`sra_fast.score`."""

    definition: str
    keep_rows: bool
    backend: str
    profile: ProfileKind | None


@dataclass(frozen=True)
class LaidOutForward:
    """A forward pass over sequences laid out anew, before it runs.

    Attributes:
        members: the indices of its sequences in the batch.
        inputs: the decoder's arguments.
        request: what is asked of its layers.
        placed: where the responses' rows are among those asked for.
    """

    members: Sequence[int]
    inputs: dict[str, Tensor]
    request: SpanRequest
    placed: Placed


def run_laid_out(
    served: ServedModel, content: BatchContent, forward: Forward, wanted: WantedScores
) -> SRAResult:
    """Run the decoder once on sequences laid out anew, and return their results in order."""
    laid = lay_out(served, content, forward, wanted)
    run_decoder(served, laid.inputs, laid.request)
    return results_of(served, content, laid, wanted)


def lay_out(
    served: ServedModel, content: BatchContent, forward: Forward, wanted: WantedScores
) -> LaidOutForward:
    """Lay the sequences of one forward pass out, and make the request for their masses."""
    marked, input_ids = content.marked, content.tokens["input_ids"]
    pieces = []
    for member in forward.members:
        sequence = marked.sequences[member]
        pieces.append(input_ids[sequence.row, sequence.start : sequence.end])
    prefixes: Sequence[PlacedPrefix] = ()
    if forward.prefixes:
        inputs, places, prefixes = laid_out_once(pieces, forward.prefixes)
    else:
        inputs, places = laid_out(pieces, forward.packed)
    shape = inputs["input_ids"].shape
    query, placed = build_query(marked, forward.members, places, shape, prefixes)
    request = _request(served, query, placed, marked, forward.members, places, wanted, prefixes)
    request.stop_after = _last_layer(served) if served.can_stop else None
    return LaidOutForward(forward.members, inputs, request, placed)


def run_decoder(served: ServedModel, inputs: dict[str, Tensor], request: SpanRequest) -> None:
    """Run the decoder on sequences that are laid out, until the last mass is known."""
    device = _input_device(served)
    inputs = {name: tensor.to(device) for name, tensor in inputs.items()}
    with fresh_rope(served.decoder), contextlib.suppress(ForwardStopped):
        served.decoder(**inputs, use_cache=False, **{REQUEST: request})


def results_of(
    served: ServedModel, content: BatchContent, laid: LaidOutForward, wanted: WantedScores
) -> SRAResult:
    """Return the results of a forward pass that has run, in the order of its sequences."""
    return _reduced(served, laid.request, laid.placed, content, laid.members, wanted)


def run_one_token(served: ServedModel) -> None:
    """Run the decoder once on one token, in step with a forward pass of another process."""
    ids = plain_tokens(served)[:1, None]
    query = every_row_on_every_key([1], [(0, 0)], ids.shape)
    request = SpanRequest(query, mass_grad=False, in_outputs=False)
    request.stop_after = _last_layer(served) if served.can_stop else None
    run_decoder(served, {"input_ids": ids}, request)


def run_given(served: ServedModel, content: BatchContent, wanted: WantedScores) -> SRAResult:
    """Run the whole model once on a batch as it was given, and return its results in order."""
    marked = content.marked
    query, placed = query_as_given(marked)
    members = range(len(marked.sequences))
    places = [(sequence.row, sequence.start) for sequence in marked.sequences]
    request = _request(served, query, placed, marked, members, places, wanted)
    request.stop_after = _last_layer(served) if may_be_stopped(served.whole) else None
    with fresh_rope(served.decoder):
        inputs = {**content.tokens, **content.model_inputs}
        run_whole(served, inputs, request, _input_device(served))
    return _reduced(served, request, placed, content, members, wanted)


def _request(
    served: ServedModel,
    query: SpanQuery,
    placed: Placed,
    marked: MarkedBatch,
    members: Sequence[int],
    places: Sequence[tuple[int, int]],
    wanted: WantedScores,
    prefixes: Sequence[PlacedPrefix] = (),
) -> SpanRequest:
    """Make a request for the masses and, if wanted, for the profiles."""
    record = None
    if wanted.profile is not None:
        kind = wanted.profile
        query, record = with_profiles(query, placed, marked, members, places, kind, prefixes)
    return SpanRequest(
        query,
        mass_grad=False,
        in_outputs=False,
        backend=wanted.backend,
        profiles=record,
        heads=served.heads,
    )


def _reduced(
    served: ServedModel,
    request: SpanRequest,
    placed: Placed,
    content: BatchContent,
    members: Sequence[int],
    wanted: WantedScores,
) -> SRAResult:
    """Return the results of the responses of a forward pass, with their profiles if any."""
    marked, layers = content.marked, served.attention_layers
    result = reduce(request, placed, marked, members, layers, wanted.definition, wanted.keep_rows)
    record = request.profiles
    if not isinstance(record, ProfileRecord):
        return result
    ids = content.tokens.get("input_ids")
    return attach_profiles(result, record, marked, members, ids, content.sources)


def _last_layer(served: ServedModel) -> int | None:
    """Return the layer with whose mass a forward pass may end."""
    return max(served.attention_layers, default=None)


def _input_device(served: ServedModel) -> torch.device:
    """Return where token ids go; the hook of an offloaded embedding moves them on by itself."""
    device = served.decoder.get_input_embeddings().weight.device
    return torch.device("cpu") if device.type == "meta" else device
