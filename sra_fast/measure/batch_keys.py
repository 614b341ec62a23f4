"""Tell of every key of a batch whether it is read here, passed to the model, or refused by name.

Whoever takes batches asks here, so that there is one reading of keys: :func:`sra_fast.score`, and
what watches a model's own calls. Which inputs a model takes is asked of its ``forward``.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers.utils import TransformersKwargs

from sra_fast.measure.given_positions import (
    BOUNDARY_KEYS,
    POSITIONS,
    GivenPositions,
    read_positions,
)
from sra_fast.measure.request import REQUEST
from sra_fast.measure.served import ServedModel
from sra_fast.measure.source_ids import SOURCE_KEYS, SourceMarks, read_sources
from sra_fast.measure.spans import COLUMN_KEYS, MASK_KEYS, MarkedBatch, read_batch
from sra_fast.tools.suggestions import did_you_mean

STRATEGIES, LENGTH = "strategies", "length"
WITHOUT_EFFECT = ("labels", STRATEGIES, LENGTH)
"""Keys that collators and trainers add, and that cannot change a mass."""

IGNORED_LABEL = -100  # the label of tokens that the loss leaves out

_MARKS = (*MASK_KEYS, *COLUMN_KEYS, *SOURCE_KEYS)
_TOKENS = ("input_ids", "inputs_embeds", "attention_mask", POSITIONS)
_CACHES = ("past_key_values", "cache_params", "cache_position", "cache")
_OUTPUTS = (
    "use_cache",
    "return_dict",
    "logits_to_keep",
    "num_items_in_batch",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
)


@dataclass(frozen=True)
class BatchContent:
    """The contents of a batch, read and checked.

    Attributes:
        marked: its sequences, with their spans and responses.
        positions: what its positions say.
        tokens: its tokens as the model takes them: ``input_ids`` or ``inputs_embeds``, and
            ``attention_mask`` and ``position_ids`` if there are any.
        model_inputs: the model's other inputs, such as images.
        sources: what the tokens are sources of; None if the batch has no sources.
    """

    marked: MarkedBatch
    positions: GivenPositions
    tokens: dict[str, Any]
    model_inputs: dict[str, Any]
    sources: SourceMarks | None = None

    @property
    def only_tokens(self) -> bool:
        """Whether token ids alone make the result, so that sequences can be laid out anew."""
        return not (self.model_inputs or self.positions.own or "inputs_embeds" in self.tokens)


def read_content(
    served: ServedModel, batch: Mapping[str, Any], *, unanswered: bool = False
) -> BatchContent:
    """Read a batch that is to be scored.

    Args:
        served: the model.
        batch: the batch.
        unanswered: whether its sequences may have no response yet.

    Raises:
        TypeError: the batch is no mapping.
        ValueError: a key that nobody reads, or a value that cannot be; both are named.
        KeyError: the tokens or a mask are missing.
    """
    _check_mapping(batch)
    taken = _arguments(served)
    inputs = {}
    for key, value in batch.items():
        if key in (*_MARKS, *BOUNDARY_KEYS, *_TOKENS, *WITHOUT_EFFECT):
            continue
        if value is None and key in taken:
            continue
        if key in _CACHES:
            raise ValueError(
                f"{key}: a batch is scored from its first token, without a cache; give every "
                "sequence whole, and leave this key out"
            )
        if key in _OUTPUTS:
            raise ValueError(
                f"{key}: this asks a model for other outputs and is no part of a batch; leave it "
                "out (masses need none of them)"
            )
        if key not in taken:
            raise _unknown(served, key, taken)
        inputs[key] = value
    tokens = {key: batch[key] for key in _TOKENS if batch.get(key) is not None}
    shape = _token_shape(tokens)
    given = {**batch, "response_mask": _responses(batch, shape if unanswered else None)}
    positions = read_positions(batch, shape)
    if POSITIONS in tokens and served.takes_positions and not served.counts_from_zero:
        positions = replace(positions, own=True)  # what it makes itself is something else
    if positions.own and POSITIONS not in taken:
        raise ValueError(f"{POSITIONS}: {type(served.whole).__name__} takes none; leave them out")
    if positions.own:
        _check_reach(served, tokens[POSITIONS])
    if positions.own or served.fed_from_above:  # the row runs as it was given
        _check_packable(served, positions)
    marked = read_batch(given, positions.segments, unanswered=unanswered)
    return BatchContent(
        marked,
        positions,
        {key: value for key, value in tokens.items() if key != POSITIONS or POSITIONS in taken},
        inputs,
        read_sources(batch, marked),
    )


def _check_mapping(batch: object) -> None:
    if isinstance(batch, Mapping):
        return
    if isinstance(batch, (list, tuple)) and batch and all(isinstance(b, Mapping) for b in batch):
        if all("role" in one for one in batch):
            way = "messages become a batch by sra_fast.mark(tokenizer, messages, spans=...)"
        elif all("messages" in one for one in batch):
            way = "conversations become a batch by sra_fast.encode(tokenizer, conversations)"
        else:
            way = "sra_fast.join makes one batch of several"
        raise TypeError(f"batch: expected one mapping, got {type(batch).__name__} of them; {way}")
    raise TypeError(
        "batch: expected a mapping of tensors, as sra_fast.mark makes it of a prompt and "
        f"sra_fast.encode of conversations, got {type(batch).__name__}"
    )


def check_call(served: ServedModel, inputs: Mapping[str, Any]) -> None:
    """Check the arguments of a forward call that is watched because it carries masks.

    Raises:
        ValueError: an argument that neither the model nor the library reads, or a filled cache.
    """
    cache: Any = inputs.get("past_key_values")
    seen = 0 if cache is None else int(cache.get_seq_length())
    if seen:
        raise ValueError(
            f"past_key_values: the call goes on from a cache of {seen} tokens, and masks "
            "are read for calls that hold the whole sequence; give prompt and reply in one call, "
            "without a cache"
        )
    taken = _arguments(served)
    for key in inputs:
        if not _is_argument(served, key, taken):
            raise _unknown(served, key, taken)


def check_other_call(served: ServedModel, inputs: Mapping[str, Any]) -> None:
    """Check that a call without masks has none under a name that is nearly right.

    Raises:
        ValueError: an argument that nobody reads, whose name is near to that of a mask.
    """
    taken = _arguments(served)
    for key in inputs:
        if not _is_argument(served, key, taken) and did_you_mean(key, MASK_KEYS):
            raise _unknown(served, key, taken)


def carries_masks(inputs: Mapping[str, Any]) -> bool:
    """Return whether the arguments of a model call hold any of the masks."""
    return any(inputs.get(key) is not None for key in MASK_KEYS)


def without_marks(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return those arguments of a call that are the model's own, without masks and names."""
    ours = (*_MARKS, STRATEGIES, LENGTH)
    return {key: value for key, value in inputs.items() if key not in ours}


def read_marks(served: ServedModel, inputs: Mapping[str, Any]) -> MarkedBatch:
    """Read the marked sequences from the arguments of a model call.

    Without ``response_mask``, the tokens whose ``labels`` are not -100 are a sequence's response.
    Rows of the batch are packed if ``position_ids`` start anew and there is no ``attention_mask``.

    Raises:
        ValueError, KeyError: as :func:`read_content`.
    """
    responses = _responses(inputs)
    tokens = {key: inputs[key] for key in _TOKENS if inputs.get(key) is not None}
    positions = read_positions(inputs, _token_shape(tokens))
    _check_packable(served, positions)
    return read_batch({**inputs, "response_mask": responses}, positions.segments)


def _responses(inputs: Mapping[str, Any], unanswered: tuple[int, int] | None = None) -> Any:
    """Return the mask of the responses, which the labels tell where there is none.

    Of prompts that may be ``unanswered [B, T]`` it is empty without either.
    """
    mask, labels = inputs.get("response_mask"), inputs.get("labels")
    if mask is not None:
        return mask
    if labels is None and unanswered is not None:
        return torch.zeros(unanswered, dtype=torch.int32)
    if not isinstance(labels, Tensor):
        raise KeyError(
            "the batch needs `response_mask`, or `labels` that are -100 outside of the responses"
        )
    return labels != IGNORED_LABEL


def _token_shape(tokens: Mapping[str, Any]) -> tuple[int, int]:
    """Return ``[B, T]`` of the tokens or embeddings, of which there must be exactly one."""
    ids, embeddings = tokens.get("input_ids"), tokens.get("inputs_embeds")
    if ids is None and embeddings is None:
        raise KeyError("the batch needs `input_ids`, or `inputs_embeds` instead of them")
    if ids is not None and embeddings is not None:
        raise ValueError("the batch has both input_ids and inputs_embeds; give one of them")
    name, wanted, dimensions = (
        ("input_ids", "[B, T]", 2) if embeddings is None else ("inputs_embeds", "[B, T, H]", 3)
    )
    value = tokens[name]
    if not isinstance(value, Tensor) or value.ndim != dimensions:
        given = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"{name}: expected a tensor {wanted}, got {given}")
    if embeddings is None and value.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"{name}: expected int64, got {value.dtype}")
    return value.shape[0], value.shape[1]


def _check_reach(served: ServedModel, positions: Tensor) -> None:
    limit = served.context_length
    lowest, highest = int(positions.min()), int(positions.max())
    if lowest < 0 or (limit is not None and highest >= limit):
        upwards = "0 upwards" if limit is None else f"0 to {limit - 1}"
        raise ValueError(
            f"{POSITIONS}: {served.name} has positions from {upwards}, and these go from {lowest} "
            f"to {highest}"
        )


def _check_packable(served: ServedModel, positions: GivenPositions) -> None:
    if served.stateful and positions.packed:
        raise ValueError(f"{served.name} carries a state along the row, so rows cannot be packed")


def _arguments(served: ServedModel) -> dict[str, inspect.Parameter]:
    """Return the named arguments of the forward pass of the model that the user calls.

    Trainers put functions of their own around it, which read arguments of their own.
    """
    found: dict[str, inspect.Parameter] = {}
    for function in (served.whole.forward, type(served.whole).forward):
        wrapped: Any = function
        while wrapped is not None:
            parameters = inspect.signature(wrapped, follow_wrapped=False).parameters
            found |= {name: found.get(name, each) for name, each in parameters.items()}
            wrapped = getattr(wrapped, "__wrapped__", None)
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name: each for name, each in found.items() if each.kind in named and name != "self"}


def _is_argument(served: ServedModel, key: str, taken: Mapping[str, Any]) -> bool:
    """Return whether a call may name ``key``: for the model, its loss, or who watches the call."""
    if key in taken or key in (*_MARKS, *WITHOUT_EFFECT, REQUEST):
        return True
    if key in (*TransformersKwargs.__annotations__, *_OUTPUTS):
        return True
    return key in inspect.signature(served.whole.loss_function).parameters


def _unknown(served: ServedModel, key: str, taken: Iterable[str]) -> ValueError:
    inputs = [name for name in taken if name not in (*_CACHES, *_OUTPUTS)]
    known = [*_MARKS, *WITHOUT_EFFECT, *_TOKENS, *inputs]
    return ValueError(
        f"{key!r} is no key of a batch, and {type(served.whole).__name__} takes no such input"
        f"{did_you_mean(key, known) or '; leave it out'}"
    )
