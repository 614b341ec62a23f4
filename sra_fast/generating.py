"""Generate replies and record their attention in the same forward passes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from sra_fast.definitions import check_definition
from sra_fast.measure.adapter_kinds import refuse_adapters
from sra_fast.measure.batch_keys import BatchContent, read_content
from sra_fast.measure.in_step import Intent, agreed, content_digest
from sra_fast.measure.layerwise.layer_weights import refuse_weights_in_files
from sra_fast.measure.parts_of_models import refuse_first_fsdp
from sra_fast.measure.profiles import check_profile_kind
from sra_fast.measure.recorded_generation import (
    GenerationRecord,
    recorded_generation,
    refuse_sharded_generation,
)
from sra_fast.measure.recorded_replies import RecordedReplies
from sra_fast.measure.self_check import self_check
from sra_fast.measure.served import evaluating, serve, switched, used_by_one
from sra_fast.measure.stopping_watch import OnToken
from sra_fast.measure.trial import tried
from sra_fast.names import PROFILE_BYTES, ProfileKind
from sra_fast.result import SKIPPED


def generate(
    model: nn.Module,
    batch: Mapping[str, Any],
    *,
    definition: str = "paper",
    keep_rows: bool = False,
    profile: ProfileKind | None = None,
    profile_bytes: int = PROFILE_BYTES,
    check: bool = True,
    on_token: OnToken | None = None,
    **generation_arguments: Any,
) -> RecordedReplies:
    """Generate a reply to each prompt of a batch, and measure what it attends to meanwhile.

    The replies are those of ``model.generate`` under exact attention, greedy or sampled. The masses
    come from the same forward passes; where a reply does not end with an end marker, its last token
    goes through the model once more, because its own row is one of those averaged. The scores are
    those that :func:`sra_fast.score` gives for the same token ids.

    Args:
        model: a model that :func:`sra_fast.score` takes, with transformers' ``generate``.
        batch: prompts, with the keys that :func:`sra_fast.score` takes: ``input_ids [B, T]``,
            ``attention_mask [B, T]`` (padded on the left), ``strategy_mask [B, T]`` or
            ``span_masks``, and the model's other inputs. ``response_mask`` may mark earlier replies
            in the prompts.
        definition: the definition that ``.result.sra`` gives.
        keep_rows: whether the result keeps the masses of every row.
        profile: whether to keep the attention on every token, of each step and of each reply, and
            of what kind, as :func:`sra_fast.score` does.
        profile_bytes: the most bytes that the profiles may take.
        check: whether to compare the masses of a few tokens with the model's own eager attention
            when its class and configuration is first measured in this process.
        on_token: called in each step as ``on_token(step, ids, masses)``: the number of the step
            from 0, the new tokens int64 ``[S]``, and float32 ``[S, L, H, G]``, the masses of the
            rows that predicted them, on the model's device. Sequences that have ended go on with
            padding there. It may call the model. What it raises ends the generation.
        generation_arguments: arguments of ``model.generate``, such as ``max_new_tokens``,
            ``do_sample``, ``num_return_sequences``, ``streamer``, ``stopping_criteria`` or a
            ``past_key_values`` that holds the first tokens of the prompts.

    Returns:
        The sequences, the masses of each new token's row, and the scores of the replies.

    Raises:
        UnservedModelError: the model is sharded over processes (``fully_shard``, FSDP1).
        PeerError: the processes of a tensor-parallel model were given different prompts, or drew
            different tokens.
        UnservedGenerationError: beam search, assisted decoding, guidance, ``use_cache=False``,
            ``prefill_chunk_size``, a static cache, or another decoding loop is asked for.
        ValueError: a batch that cannot be generated from (the row is named), prompts padded on the
            right, a cache that does not hold their first tokens, an argument that is the batch's,
            profiles of more than ``profile_bytes``, or a model that is not served.
        SelfCheckError: the masses of a few tokens are not those of the model's own eager attention.
        KeyError: the tokens or a mask are missing, or there is no such definition.
    """
    check_definition(definition)
    if profile is not None:
        check_profile_kind(profile)
    refuse_first_fsdp(model)
    served = serve(model)
    refuse_weights_in_files(served.decoder, served.name, "generate")
    with used_by_one(served.decoder):
        refuse_adapters(served.top)
        refuse_sharded_generation(served)
        served = tried(served)

        def prepare() -> BatchContent:
            content = read_content(served, batch, unanswered=True)
            for name in generation_arguments:
                if name in {**content.tokens, **content.model_inputs} or name == "inputs":
                    raise ValueError(f"{name}: the batch says what to generate from; leave it out")
            return content

        def intent(content: BatchContent) -> Intent:
            settings = f"{definition} {keep_rows} {profile} {check} {sorted(generation_arguments)}"
            return Intent(1, "generate", content_digest(batch), settings)

        content, _ = agreed(served, prepare, intent)
        inputs = {**content.tokens, **content.model_inputs}
        takes_mask = "attention_mask" in inspect.signature(served.whole.forward).parameters
        named = {**inputs, **generation_arguments}
        if takes_mask and "input_ids" in inputs and "attention_mask" not in named:
            # Without one, `generate` takes a prompt's tokens for padding if they have its id.
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        checked = self_check(served, "auto") if check else f"{SKIPPED}switched off"
        record = GenerationRecord(content, definition, keep_rows, profile, profile_bytes, on_token)
        device = served.decoder.get_input_embeddings().weight.device
        found: list[RecordedReplies] = []
        with (
            torch.no_grad(),
            switched(served),
            evaluating(served.whole),
            recorded_generation(served, record, found.append),
        ):
            top: Any = served.top
            moved = {name: _moved(value, device) for name, value in inputs.items()}
            top.generate(**moved, **generation_arguments)
    (replies,) = found
    if replies.result is None:
        return replies
    return replace(replies, result=replace(replies.result, checked=checked))


def _moved(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value
