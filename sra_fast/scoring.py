"""Score a batch: its Strategy Relevant Attention in one forward pass, without attention maps."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from sra_fast.backends import check_backend
from sra_fast.definitions import check_definition
from sra_fast.kernels.contract import SpanQuery
from sra_fast.measure.adapter_kinds import refuse_adapters
from sra_fast.measure.batch_keys import BatchContent, read_content
from sra_fast.measure.laying_out import laid_out
from sra_fast.measure.marked_query import Placed, build_query, query_as_given
from sra_fast.measure.packing import Forward, forwards, fresh_rope
from sra_fast.measure.profiles import (
    WITHOUT_PROFILE,
    ProfileRecord,
    attach_profiles,
    check_profile_kind,
    check_profile_size,
    profile_keys,
    with_profiles,
)
from sra_fast.measure.reduction import reduce
from sra_fast.measure.request import REQUEST, ForwardStopped, SpanRequest
from sra_fast.measure.row_choice import before_their_span, choose_rows, is_own_rows
from sra_fast.measure.run_as_given import run_whole
from sra_fast.measure.self_check import self_check
from sra_fast.measure.served import (
    ServedModel,
    evaluating,
    may_be_stopped,
    serve,
    switched,
    used_by_one,
)
from sra_fast.measure.spans import BatchRowError, MarkedBatch
from sra_fast.measure.trial import tried
from sra_fast.names import FORWARD_TOKENS, PROFILE_BYTES, ProfileKind, RowChoice
from sra_fast.result import SKIPPED, SRAResult, joined
from sra_fast.tools.sra_warning import SRAWarning


def score(
    model: nn.Module,
    batch: Mapping[str, Any],
    *,
    definition: str = "paper",
    keep_rows: bool = False,
    backend: str = "auto",
    forward_tokens: int = FORWARD_TOKENS,
    check: bool = True,
    profile: ProfileKind | None = None,
    profile_bytes: int = PROFILE_BYTES,
    rows: RowChoice | Tensor = "response",
) -> SRAResult:
    """Measure how much the responses of a batch attend to the spans of their prompts.

    The decoder runs once over each sequence, without logits and KV cache, and a forward pass ends
    as soon as the last attention layer's mass is known; nothing is computed for padding. The model
    is left as it was found, whatever happens; threads that score with one model take turns.
    Definitions: :mod:`sra_fast.definitions` (arXiv 2402.10453).

    A batch with inputs that are worked in above the decoder, such as images, or with positions that
    are not 0, 1, 2, … in each sequence runs through the whole model, as it was given. So does every
    batch where a hook or a forward method above the decoder changes what the decoder is given.

    Args:
        model: what ``AutoModelForCausalLM.from_pretrained`` gives; also PEFT-wrapped, quantised,
            dispatched over devices, or multimodal.
        batch: a mapping with

            - ``input_ids [B, T]`` int64, or ``inputs_embeds [B, T, H]``,
            - ``attention_mask [B, T]`` (optional), one run of tokens per row, either side padded,
            - ``position_ids [B, T]`` int64 (optional); where they start anew in a row and there is
              no ``attention_mask``, the row holds several sequences,
            - ``strategy_mask [B, T]`` bool, or ``span_masks {name: [B, T] bool}`` for 1 to 15
              spans, the first of which is the one that ``.sra`` is of,
            - ``response_mask [B, T]``, bool, or int with k at the tokens of the k-th response of
              the row; without it the tokens whose ``labels [B, T]`` are not -100,
            - ``conversation [B]`` and ``turns [B, K]`` int64 and ``as_written [B, K]`` bool
              (optional) as :func:`sra_fast.encode` gives them,
            - whatever else the model's forward pass takes: ``pixel_values``, ``token_type_ids``, ….

            - ``source_ids [B, T]`` int32, s at the tokens of the s-th of any number of disjoint
              sources of a row (0: none), and their ``source_names`` (both optional, with a
              profile; :func:`sra_fast.mark` makes them).

            ``labels``, ``strategies`` and ``length`` may be there too, and change no mass.

        definition: the definition that ``result.sra`` gives, built-in or one of your own
            (:func:`sra_fast.register_definition`); all are in ``result.scores``.
        keep_rows: whether to keep the masses of every row (``result.rows(i)``).
        backend: backend of the op (:func:`sra_fast.span_attention`).
        forward_tokens: the most tokens of one forward pass (or one sequence, if that is longer);
            bounds the memory and changes no score. A batch that runs as it was given is one pass.
        check: whether to compare the masses of a few tokens with the model's own eager attention
            when its class and configuration is first scored in this process
            (:mod:`sra_fast.measure.self_check`); ``result.checked`` says how that went.
        profile: whether to keep, for each response, the mean over its rows of their attention on
            every token (``result.profile(i)``): "heads" of every head, "layers" as each layer's
            mean over heads, "mean" as the mean over layers and heads. None for no profile.
        profile_bytes: the most bytes that the profiles may take.
        rows: the rows whose attention is averaged, in masses, scores and profiles: "response" for a
            response's own tokens; "predicting" for the positions one before each, which predict
            them; "last_prompt" for the one that predicts the first token, or the last token of a
            sequence without a response; or a mask ``[B, T]``, bool, or int with k at the rows of
            the k-th response. Under all but the first, the definitions that look at predicting rows
            look at the chosen ones.

    Returns:
        The scores of all responses, in the order of the batch.

    Raises:
        ValueError: a batch that cannot be scored (the row is named), a key that neither the model
            nor this function reads, inputs with which the model is not served (images that it sees
            both ways), profiles that would take more than ``profile_bytes``, NaN in the
            hidden states, prompts beyond the model's context, a model that is not served, no such
            backend, or ``forward_tokens`` below 1.
        SelfCheckError: what would be measured is not what the model does.
        KeyError: the tokens or a mask are missing, or there is no such definition.

    Warns:
        SRAWarning: a response ends before the first span begins, so that all its masses are 0.
    """
    check_definition(definition)
    check_backend(backend)
    if forward_tokens < 1:
        raise ValueError(f"forward_tokens must be at least 1, got {forward_tokens}")
    own_rows = is_own_rows(rows)
    if profile is not None:
        check_profile_kind(profile)
    asked = _Asked(
        definition,
        keep_rows,
        backend,
        forward_tokens,
        check,
        profile,
        profile_bytes,
        rows,
        own_rows,
    )
    served = serve(model)
    with used_by_one(served.decoder):
        return _score(served, batch, asked)


@dataclass(frozen=True)
class _Asked:
    """What is asked of a score, as its arguments say, and whether rows are a response's own."""

    definition: str
    keep_rows: bool
    backend: str
    forward_tokens: int
    check: bool
    profile: ProfileKind | None
    profile_bytes: int
    rows: RowChoice | Tensor
    own_rows: bool


def _score(served: ServedModel, batch: Mapping[str, Any], asked: _Asked) -> SRAResult:
    """Measure a batch with a model that nobody else scores with meanwhile, as :func:`score`."""
    refuse_adapters(served.top)
    served = tried(served)
    content = read_content(served, batch, unanswered=not asked.own_rows)
    content = replace(content, marked=choose_rows(content.marked, asked.rows))
    marked = content.marked
    if (told := before_their_span(marked)) is not None:
        warnings.warn(told, SRAWarning, stacklevel=3)
    if asked.profile is not None:
        config = served.decoder.config
        check_profile_size(profile_keys(marked), asked.profile, config, asked.profile_bytes)
    elif content.sources is not None:
        raise ValueError(WITHOUT_PROFILE)
    _check_definable(marked, asked.definition)
    _check_lengths(served, marked)
    lengths = [sequence.length for sequence in marked.sequences]
    laid_out_anew = content.only_tokens and not served.fed_from_above
    if laid_out_anew:
        _check_ids(served, marked, content.tokens["input_ids"])
    plan = [Forward(tuple(range(len(lengths))), packed=False)]
    if laid_out_anew:
        plan = forwards(served, lengths, asked.forward_tokens)
    checked = self_check(served, asked.backend) if asked.check else f"{SKIPPED}switched off"
    with torch.no_grad(), switched(served), evaluating(served.whole):
        results = [
            _run(served, content, forward, asked)
            if laid_out_anew
            else _run_as_given(served, content, asked)
            for forward in plan
        ]
    done = [
        (member, number)
        for forward in plan
        for member in forward.members
        for number in range(len(marked.sequences[member].responses))
    ]
    in_order = sorted(range(len(done)), key=done.__getitem__)
    return replace(joined(results).take(in_order), checked=checked)


def _run(served: ServedModel, content: BatchContent, forward: Forward, asked: _Asked) -> SRAResult:
    """Run one forward pass, and return the results of its members' responses, in their order."""
    marked, input_ids = content.marked, content.tokens["input_ids"]
    pieces = []
    for member in forward.members:
        sequence = marked.sequences[member]
        pieces.append(input_ids[sequence.row, sequence.start : sequence.end])
    inputs, places = laid_out(pieces, forward.packed)
    shape = inputs["input_ids"].shape
    query, placed = build_query(marked, forward.members, places, shape)
    request = _request(query, placed, marked, forward.members, places, asked)
    request.stop_after = _last_layer(served) if served.can_stop else None
    device = _input_device(served)
    inputs = {name: tensor.to(device) for name, tensor in inputs.items()}
    with fresh_rope(served.decoder), contextlib.suppress(ForwardStopped):
        served.decoder(**inputs, use_cache=False, **{REQUEST: request})
    return _reduced(served, request, placed, content, forward.members, asked)


def _run_as_given(served: ServedModel, content: BatchContent, asked: _Asked) -> SRAResult:
    """Run the whole model once on a batch whose inputs cannot be laid out anew."""
    marked = content.marked
    query, placed = query_as_given(marked)
    members = range(len(marked.sequences))
    places = [(sequence.row, sequence.start) for sequence in marked.sequences]
    request = _request(query, placed, marked, members, places, asked)
    request.stop_after = _last_layer(served) if may_be_stopped(served.whole) else None
    with fresh_rope(served.decoder):
        inputs = {**content.tokens, **content.model_inputs}
        run_whole(served, inputs, request, _input_device(served))
    return _reduced(served, request, placed, content, members, asked)


def _request(
    query: SpanQuery,
    placed: Placed,
    marked: MarkedBatch,
    members: Sequence[int],
    places: Sequence[tuple[int, int]],
    asked: _Asked,
) -> SpanRequest:
    """Make a request for the masses and, if wanted, for the profiles."""
    record = None
    if asked.profile is not None:
        query, record = with_profiles(query, placed, marked, members, places, asked.profile)
    return SpanRequest(
        query, mass_grad=False, in_outputs=False, backend=asked.backend, profiles=record
    )


def _reduced(
    served: ServedModel,
    request: SpanRequest,
    placed: Placed,
    content: BatchContent,
    members: Sequence[int],
    asked: _Asked,
) -> SRAResult:
    """Return the results of the responses of a forward pass, with their profiles if any."""
    marked, layers = content.marked, served.attention_layers
    result = reduce(request, placed, marked, members, layers, asked.definition, asked.keep_rows)
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


def _check_lengths(served: ServedModel, marked: MarkedBatch) -> None:
    limit = served.context_length
    for sequence in marked.sequences:
        if limit is not None and sequence.length > limit:
            raise BatchRowError(
                sequence.row,
                f"{sequence.length} tokens, and {served.name} reaches to {limit}; shorten the "
                "conversation or take a template that keeps fewer turns",
            )


def _check_ids(served: ServedModel, marked: MarkedBatch, input_ids: Tensor) -> None:
    """Check that every token has an embedding; on a GPU an unknown one would end all further work.

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
