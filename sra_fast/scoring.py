"""Score a batch: its Strategy Relevant Attention in one forward pass, without attention maps."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from sra_fast.backends import check_backend
from sra_fast.definitions import check_definition
from sra_fast.measure.adapter_kinds import refuse_adapters
from sra_fast.measure.batch_keys import BatchContent, read_content
from sra_fast.measure.idle_process import all_passes, is_idle, made_up_batch
from sra_fast.measure.in_step import (
    LAID_OUT,
    Intent,
    agreed,
    any_process,
    content_digest,
    runs_together,
)
from sra_fast.measure.layerwise.layerwise_options import Layerwise
from sra_fast.measure.layerwise.layerwise_scores import layerwise_scorer, refuse_whole
from sra_fast.measure.packing import Forward
from sra_fast.measure.parts_of_models import refuse_first_fsdp
from sra_fast.measure.planned_forwards import planned
from sra_fast.measure.profiles import (
    WITHOUT_PROFILE,
    check_profile_kind,
    check_profile_size,
    profile_keys,
)
from sra_fast.measure.row_choice import before_their_span, choose_rows, is_own_rows
from sra_fast.measure.scorable import check_definable, check_lengths, check_token_ids
from sra_fast.measure.scored_forward import WantedScores, run_given, run_laid_out
from sra_fast.measure.self_check import self_check
from sra_fast.measure.served import ServedModel, evaluating, serve, switched, used_by_one
from sra_fast.measure.spans import MarkedBatch
from sra_fast.measure.trial import tried
from sra_fast.names import FORWARD_TOKENS, PROFILE_BYTES, ProfileKind, RowChoice
from sra_fast.result import SKIPPED, SRAResult
from sra_fast.result_joining import joined
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
    share_prefixes: bool = True,
    layerwise: bool | Layerwise = False,
) -> SRAResult:
    """Measure how much the responses of a batch attend to the spans of their prompts.

    The decoder runs once over each sequence, without logits and KV cache, and a forward pass ends
    as soon as the last attention layer's mass is known; nothing is computed for padding. The model
    is left as it was found, whatever happens; threads that score with one model take turns.
    Definitions: :mod:`sra_fast.definitions` (arXiv 2402.10453).

    A tensor-parallel model is called in every one of its processes with the same batch, and each
    gets the whole result. A model under ``fully_shard`` is called in every process with a batch of
    its own, which may have no rows (``input_ids [0, T]``): its result then has no responses.

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
            (:mod:`sra_fast.measure.self_check`); ``result.checked`` says how that went. Processes
            that share a model under ``fully_shard`` compare if one of them is to.
        profile: whether to keep, for each response, the mean over its rows of their attention on
            every token (``result.profile(i)``): "heads" of every head, "layers" as each layer's
            mean over heads, "mean" as the mean over layers and heads. None for no profile.
        profile_bytes: the most bytes that the profiles may take.
        rows: the rows whose attention is averaged, in masses, scores and profiles: "response" for a
            response's own tokens; "predicting" for the positions one before each, which predict
            them; "last_prompt" for the one that predicts the first token, or the last token of a
            sequence without a response; or a mask ``[B, T]``, bool, or int with k at the rows of
            the k-th response, and nothing at other rows. Under all but the first, the definitions
            that look at predicting rows look at the chosen ones.
        share_prefixes: whether a beginning that sequences of the batch have in common is computed
            once for all of them, where that is exact: on a CPU, by models whose tokens meet in
            attention alone (:mod:`sra_fast.measure.prefix_service`). Scores then differ in their
            last digits; ``result.prefixes`` says how much was shared. Layer by layer nothing is.
        layerwise: whether to run a model of :func:`sra_fast.layerwise_model` layer by layer, with
            the weights of one layer in memory at a time. ``forward_tokens`` are then the tokens
            that go through a layer before the next one is read. A :class:`sra_fast.Layerwise`
            says more than True.

    Returns:
        The scores of all responses, in the order of the batch.

    Raises:
        TypeError: the batch is no mapping; :func:`sra_fast.join` makes one of several.
        ValueError: a batch that cannot be scored (the row is named), a key that neither the model
            nor this function reads, inputs with which the model is not served (images that it sees
            both ways), profiles that would take more than ``profile_bytes``, NaN in the
            hidden states, prompts beyond the model's context, a model that is not served, no such
            backend, or ``forward_tokens`` below 1.
        SelfCheckError: what would be measured is not what the model does.
        PeerError: another process that holds a part of the model failed, or was given something
            that cannot run in step with this; a RuntimeError.
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
    refuse_first_fsdp(model)
    served = serve(model)
    with (
        used_by_one(served.decoder),
        layerwise_scorer(served, layerwise) as by_layer,
        runs_together(served),
    ):
        refuse_adapters(served.top)
        served = tried(served)
        wanted = WantedScores(definition, keep_rows, backend, profile)
        idle = is_idle(served, batch)
        most_tokens = forward_tokens
        if by_layer is not None:
            most_tokens = min(forward_tokens, by_layer.call_tokens)

        def prepare() -> _Prepared:
            given = made_up_batch(served, batch) if idle else batch
            content = read_content(served, given, unanswered=not own_rows)
            if not idle:
                content = replace(content, marked=choose_rows(content.marked, rows))
            if (told := before_their_span(content.marked)) is not None:
                warnings.warn(told, SRAWarning, stacklevel=4)
            _check_profiles(served, content, profile, profile_bytes)
            check_definable(content.marked, definition)
            check_lengths(served, content.marked)
            if content.only_tokens and not served.fed_from_above:
                check_token_ids(served, content.marked, content.tokens["input_ids"])
                share = share_prefixes and by_layer is None
                return _Prepared(
                    content, *planned(served, content, most_tokens, backend, share=share)
                )
            if by_layer is not None:
                refuse_whole(served)
            return _Prepared(content)

        def intent(prepared: _Prepared) -> Intent:
            passes, way = (0, LAID_OUT) if idle else _passes_and_way(prepared)
            content = content_digest({**batch, "rows of score": rows})
            chosen = "a mask" if isinstance(rows, Tensor) else rows
            return Intent(passes, way, content, f"{wanted} {forward_tokens} {check} {chosen}")

        prepared, most = agreed(served, prepare, intent)
        content, plan = prepared.content, prepared.plan
        checked = f"{SKIPPED}switched off"
        if any_process(served, check):  # its passes, too, are made by all processes or by none
            checked = self_check(served, backend)
        with torch.no_grad(), switched(served), evaluating(served.whole):
            if by_layer is not None and plan is not None:
                results = by_layer.run(served, content, plan, wanted, forward_tokens)
            else:
                passes = [functools.partial(run_given, served, content, wanted)]
                if plan is not None:
                    run = functools.partial(run_laid_out, served, content, wanted=wanted)
                    passes = [functools.partial(run, forward) for forward in plan]
                results = all_passes(served, passes, most)
        result = joined(results)
        if idle:
            result = result.take([])
        elif plan is not None:
            result = result.take(_order(plan, content.marked))
        return replace(result, checked=checked, prefixes=prepared.prefixes)


@dataclass(frozen=True)
class _Prepared:
    """A batch that was read and found right, before anything of it runs.

    Attributes:
        content: the batch.
        plan: the forward passes that its sequences are laid out in; None to run them as given.
        prefixes: what is said of beginnings that its sequences share.
    """

    content: BatchContent
    plan: list[Forward] | None = None
    prefixes: str = ""


def _passes_and_way(prepared: _Prepared) -> tuple[int, str]:
    """Return the number of a batch's forward passes, and how they run, in words."""
    if prepared.plan is not None:
        return len(prepared.plan), LAID_OUT
    content = prepared.content
    keys = ", ".join([*content.tokens, *content.model_inputs])
    return 1, f"the whole model on {keys}"


def _order(plan: Sequence[Forward], marked: MarkedBatch) -> list[int]:
    """Return which response of the passes, one pass after another, is each one of the batch."""
    done = [
        (member, number)
        for forward in plan
        for member in forward.members
        for number in range(len(marked.sequences[member].responses))
    ]
    return sorted(range(len(done)), key=done.__getitem__)


def _check_profiles(
    served: ServedModel, content: BatchContent, profile: ProfileKind | None, most: int
) -> None:
    """Refuse profiles of more than so many bytes, and sources without profiles."""
    if profile is not None:
        check_profile_size(profile_keys(content.marked), profile, served.attention_shape, most)
    elif content.sources is not None:
        raise ValueError(WITHOUT_PROFILE)
