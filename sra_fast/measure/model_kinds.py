"""Tell kinds of models and layers apart by what they are made of, and say why one is not served."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from sra_fast.measure import compat
from sra_fast.measure.unserved import UnservedModelError

# The layers that attend; any other in `config.layer_types` carries a state along the sequence.
ATTENTION_LAYER_TYPES = {"full_attention", "sliding_attention", "chunked_attention", "attention"}

_ATTENTION = re.compile(r"Attention|Attn|MLA")
_QUERIES = re.compile(r"(?:^|[._])(?:w?q(?:kv)?|query|c_attn)(?:$|[._])", re.IGNORECASE)


def refuse(name: str, decoder: Any) -> None:
    """Refuse a decoder whose kind cannot be served, before it runs.

    Args:
        name: the name of the model in the message.
        decoder: the model's text decoder.

    Raises:
        UnservedModelError: it has no softmax attention, chooses its keys by an index, wants more
            than a text, or does not ask transformers' attention interface.
    """
    if not isinstance(decoder, PreTrainedModel) or decoder.config.is_encoder_decoder:
        raise UnservedModelError(f"{name} is not a decoder-only language model")
    attentions = [module for module in decoder.modules() if is_attention(module)]
    if not attentions and compat.is_stateful(decoder):
        raise UnservedModelError(
            f"{name} has no attention layers: it carries a state from token to token"
        )
    index = next(_indexers(decoder), None)
    if index is not None:
        raise UnservedModelError(
            f"{name} chooses by an index of its own which keys a query sees ({index}), which no "
            "mask of sequences and windows can say"
        )
    wanted = _wanted_arguments(decoder)
    if wanted:
        raise UnservedModelError(
            f"{name} does not read a text alone: its decoder {type(decoder).__name__} wants "
            f"{', '.join(wanted)} too"
        )
    if compat.follows_attention_interface(decoder):
        return
    if not any(_compares(module) for module in attentions):
        raise UnservedModelError(
            f"{name} has no softmax attention: its layers of that name make no queries"
        )
    raise UnservedModelError(
        f"{name} does not follow transformers' attention interface (AttentionInterface), so "
        "its attention cannot be asked for masses"
    )


def layer_type(module: nn.Module, config: Any) -> str | None:
    """Return what a configuration calls the layer of a module, or None where it says nothing."""
    types: list[str] = getattr(config, "layer_types", None) or []
    index: Any = getattr(module, "layer_idx", None)
    return types[index] if index is not None and 0 <= index < len(types) else None


def is_linear(module: nn.Module, config: Any) -> bool:
    """Return whether a module, though it is named an attention, carries a state instead."""
    return layer_type(module, config) == "linear_attention"


def looks_elsewhere(module: nn.Module) -> bool:
    """Return whether a module attends from the text to something else, such as images."""
    return "CrossAttention" in type(module).__name__


def _wanted_arguments(decoder: PreTrainedModel) -> list[str]:
    """Return the arguments beside the tokens without which a decoder cannot be called."""
    single = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [
        parameter.name
        for parameter in inspect.signature(decoder.forward).parameters.values()
        if parameter.default is parameter.empty and parameter.kind in single
        if parameter.name != "input_ids"
    ]


def is_attention(module: nn.Module) -> bool:
    """Return whether a module is named an attention."""
    return bool(_ATTENTION.search(type(module).__name__))


def _compares(module: nn.Module) -> bool:
    """Return whether a module makes queries, which it compares with keys."""
    return any(_QUERIES.search(name) for name, _ in module.named_parameters())


def _indexers(decoder: nn.Module) -> Iterator[str]:
    for module in decoder.modules():
        if type(module).__name__.endswith("Indexer"):
            yield type(module).__name__
