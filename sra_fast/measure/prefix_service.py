"""Decide whether a model computes a beginning that sequences share once, or each sequence whole.

It is exact where tokens meet in softmax attention alone, and where positions say all that a layer
knows of a token's place. So sequences are left whole by

- layers that carry a state from token to token;
- positions that do not count from 0, or that the decoder makes itself;
- ``dynamic`` RoPE, under which each sequence runs alone;
- chunked attention, whose chunks would be cut in the row and not in the sequence;
- backends that take whole sequences only;
- models that several processes hold together, which have to run the same number of passes.

Windows are served exactly, ``longrope`` among sequences on one side of its limit, ``yarn`` and the
other kinds of RoPE without conditions.

No list says what else a model may do with neighbouring tokens. So each decoder is tried once on a
few tokens, before it first shares a prefix: the masses of three sequences must be the same whether
their beginning is there once or three times.
"""

from __future__ import annotations

import itertools
from contextlib import suppress
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from sra_fast.kernels import parents
from sra_fast.kernels.contract import SpanQuery, segment_tensor
from sra_fast.measure.few_tokens import every_row_on_every_key, plain_tokens
from sra_fast.measure.laying_out import laid_out, laid_out_once
from sra_fast.measure.packing import fresh_rope
from sra_fast.measure.parts_of_models import is_under_deepspeed
from sra_fast.measure.prefixes import PackedPrefix
from sra_fast.measure.request import REQUEST, ForwardStopped, SpanRequest
from sra_fast.measure.self_check import GROSS, TOLERANCE
from sra_fast.measure.served import ServedModel, evaluating, rope_types, switched

BEGINNING, TAILS = 4, (2, 6, 3)
_FOUND: WeakKeyDictionary[nn.Module, tuple[tuple[object, ...], str | None]] = WeakKeyDictionary()


def why_whole(served: ServedModel, backend: str) -> str | None:
    """Return why sequences are left whole that share a beginning, or None if it is computed once.

    Args:
        served: the model, after its trial.
        backend: backend of the op.
    """
    if "dynamic" in rope_types(served.config):
        return "its rotary positions follow the longest sequence, so that each runs alone"
    if served.stateful:
        return "it has layers that carry a state from token to token"
    if not served.counts_from_zero:
        return "it makes its positions itself"
    if "chunked_attention" in (getattr(served.config, "layer_types", None) or ()):
        return "it has layers with chunked attention"
    if served.shards is not None or served.heads is not None or is_under_deepspeed(served.top):
        return "several processes hold it together"
    for device in sorted({parameter.device.type for parameter in served.decoder.parameters()}):
        if reason := parents.unserved(backend, torch.device(device), grad=False):
            return reason
    return _tried(served, backend)


def _tried(served: ServedModel, backend: str) -> str | None:
    """Return what a trial said against a decoder; one is made for its modules and a backend."""
    tried = (backend, *(id(part) for part in served.decoder.modules()))
    found = _FOUND.get(served.decoder)
    if found is None or found[0] != tried:
        found = _FOUND[served.decoder] = (tried, _try(served, backend))
    return found[1]


def _try(served: ServedModel, backend: str) -> str | None:
    """Compare the masses of a few tokens whose beginning is there once and several times."""
    pieces = _some_tokens(served)
    ends = [BEGINNING + tail for tail in TAILS]
    inputs, places = laid_out(pieces, packed=True)
    whole = every_row_on_every_key(ends, places, inputs["input_ids"].shape)
    kept = torch.cat(
        [start + torch.arange(BEGINNING, end) for (_, start), end in zip(places, ends, strict=True)]
    )
    once, _, _ = laid_out_once(pieces, [PackedPrefix(0, len(pieces), BEGINNING)])
    with torch.no_grad(), switched(served), evaluating(served.decoder):
        wanted = _masses(served, inputs, whole, backend)
        found = _masses(served, once, _asked_once(), backend)
    dtypes = {parameter.dtype for parameter in served.decoder.parameters()}
    exact = dtypes <= {torch.float32, torch.float64}
    for layer, mass in wanted.items():
        apart = (found[layer] - mass[kept]).abs()  # [R, H, G]
        same = apart.max() <= TOLERANCE if exact else apart.sum(-1).mean() / 2 <= GROSS
        if not bool(same):
            return f"a beginning that is there once changes the attention of its layer {layer}"
    return None


def _asked_once() -> SpanQuery:
    """Ask for the mass of every tail's rows on every key, when the beginning is there once."""
    begin = torch.arange(BEGINNING)
    places = [begin, *(BEGINNING + torch.arange(tail) for tail in TAILS)]
    edges = [0, BEGINNING]
    for tail in TAILS:
        edges.append(edges[-1] + tail)
    return SpanQuery(
        (1 << torch.cat(places)).to(torch.int32)[None],
        torch.arange(BEGINNING, edges[-1]),
        segment_tensor([(0, *edge) for edge in itertools.pairwise(edges)], begin.device),
        tuple(f"key {key}" for key in range(BEGINNING + max(TAILS))),
        parents=torch.tensor([-1, *(0 for _ in TAILS)], dtype=torch.int32),
    )


def _masses(
    served: ServedModel, inputs: dict[str, Tensor], query: SpanQuery, backend: str
) -> dict[int, Tensor]:
    """Run the decoder, and return the masses of its layers in the host's memory."""
    stop = max(served.attention_layers, default=None)
    request = SpanRequest(
        query, stop_after=stop, mass_grad=False, in_outputs=False, backend=backend
    )
    device = served.decoder.get_input_embeddings().weight.device
    given = {name: tensor.to(device) for name, tensor in inputs.items()}
    with fresh_rope(served.decoder), suppress(ForwardStopped):
        served.decoder(**given, use_cache=False, **{REQUEST: request})
    return {layer: mass.cpu() for layer, mass in request.masses.items()}


def _some_tokens(served: ServedModel) -> list[Tensor]:
    """Return three sequences that begin with the same tokens, from all over the vocabulary."""
    plain, number = plain_tokens(served), BEGINNING + sum(TAILS)
    chosen = plain[(2 * torch.arange(number) + 1) * len(plain) // (2 * number)]
    beginning, *tails = chosen.split([BEGINNING, *TAILS])
    return [torch.cat([beginning, tail]) for tail in tails]
