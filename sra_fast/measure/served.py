"""Which part of a model is scored, what is known of it, and switching its attention for a while."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from sra_fast.measure import attention, compat

# Layers that attend; anything else in `config.layer_types` carries a state along the sequence.
_ATTENTION_LAYER_TYPES = {"full_attention", "sliding_attention", "chunked_attention", "attention"}


class UnservedModelError(ValueError):
    """The model cannot be scored; the message says why."""


@dataclass(frozen=True)
class ServedModel:
    """A model that takes the attention implementation, seen as the scoring needs it.

    Attributes:
        top: the model as the user holds it.
        decoder: its text decoder, without the language-model head: what is run.
        attention_layers: ``layer_idx`` of its attention layers, ascending; empty if unknown.
        stateful: other layers carry a state along the sequence (Mamba, convolutions, linear
            attention), so that rows cannot be packed.
        takes_positions: its forward has ``position_ids``, without which rows cannot be packed.
        can_stop: a forward may be ended by an exception after its last attention layer.
    """

    top: nn.Module
    decoder: PreTrainedModel
    attention_layers: tuple[int, ...]
    stateful: bool
    takes_positions: bool
    can_stop: bool

    @property
    def config(self) -> Any:
        """The decoder's configuration."""
        return self.decoder.config

    @property
    def name(self) -> str:
        """What to call the model in messages."""
        return f"{type(self.decoder).__name__} ({self.config.model_type})"

    @property
    def context_length(self) -> int | None:
        """The longest prompt the model's positions reach to, in tokens; None if it does not say."""
        if "dynamic" in rope_types(self.config):
            return None  # its frequencies grow with the prompt
        return getattr(self.config, "max_position_embeddings", None)


def serve(model: nn.Module) -> ServedModel:
    """Finds the decoder of ``model`` (as loaded, PEFT-wrapped, compiled, or multimodal).

    Raises:
        UnservedModelError: no decoder, PEFT prompt learning, or attention that does not follow
            transformers' interface.
    """
    compiled = compat.inside_compiled(model)
    inner: Any = model if compiled is None else compiled
    if hasattr(inner, "peft_config") and hasattr(inner, "get_base_model"):
        if getattr(inner.active_peft_config, "is_prompt_learning", False):
            raise UnservedModelError(
                f"{type(inner).__name__} learns virtual prompt tokens, whose keys no mask can "
                "name; merge or drop the prompt-learning adapter"
            )
        inner = inner.get_base_model()
    if not isinstance(inner, PreTrainedModel):
        raise UnservedModelError(
            f"expected a transformers model, got {type(model).__name__}; "
            "pass what AutoModelForCausalLM.from_pretrained gives"
        )
    decoder: Any = _headless(inner.get_decoder())
    if not isinstance(decoder, PreTrainedModel) or decoder.config.is_encoder_decoder:
        raise UnservedModelError(f"{type(inner).__name__} is not a decoder-only language model")
    if not compat.follows_attention_interface(decoder):
        raise UnservedModelError(
            f"{type(inner).__name__} does not follow transformers' attention interface "
            "(AttentionInterface), so its attention cannot be asked for masses"
        )
    types = set(getattr(decoder.config, "layer_types", None) or ())
    return ServedModel(
        top=model,
        decoder=decoder,
        attention_layers=_attention_layers(decoder),
        stateful=compat.is_stateful(decoder) or bool(types - _ATTENTION_LAYER_TYPES),
        takes_positions="position_ids" in inspect.signature(decoder.forward).parameters,
        can_stop=not compat.is_compiled_in_place(decoder) and not _offloaded(decoder),
    )


@contextmanager
def switched(served: ServedModel) -> Iterator[None]:
    """The decoder attends by ``"sra_fast"`` inside; every config is itself again afterwards."""
    configs = _configs(served.top)
    before = [(config, compat.stored_attn_implementation(config)) for config in configs]
    try:
        served.decoder.set_attn_implementation(attention.NAME)
        yield
    finally:
        for config, implementation in before:
            compat.store_attn_implementation(config, implementation)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """``module.eval()`` inside; each submodule's own mode again afterwards."""
    training = [part for part in module.modules() if part.training]
    try:
        module.eval()
        yield
    finally:
        for part in training:
            part.training = True


def rope_types(config: Any) -> set[str]:
    """The kinds of rotary embedding a config names (models may have one per layer type)."""
    parameters = getattr(config, "rope_parameters", None) or {}
    nested = [value for value in parameters.values() if isinstance(value, dict)]
    return {str(part.get("rope_type", "default")) for part in nested or [parameters]}


def _headless(decoder: Any) -> Any:
    """Some families give themselves as their decoder, language-model head and all."""
    for child in decoder.children():
        if isinstance(child, PreTrainedModel) and child.config is decoder.config:
            return _headless(child)
    return decoder


def _attention_layers(decoder: PreTrainedModel) -> tuple[int, ...]:
    """From transformers' own record of which modules give attentions."""
    found: dict[int, nn.Module] = {}
    for spec in compat.recorded_attentions(decoder):
        target = getattr(spec, "target_class", spec)
        part = getattr(spec, "layer_name", None)
        for name, module in decoder.named_modules():
            matches = isinstance(target, type) and isinstance(module, target)
            index = getattr(module, "layer_idx", None)
            if not matches or index is None or (part and part.strip(".") not in name.split(".")):
                continue
            if index < 0 or found.setdefault(index, module) is not module:
                raise UnservedModelError(
                    f"{type(decoder).__name__} has several attention modules under layer_idx "
                    f"{index}, so their masses cannot be told apart"
                )
    return tuple(sorted(found))


def _offloaded(decoder: nn.Module) -> bool:
    """Whether an accelerate hook moves parameters in and out around a module's forward."""
    return any(
        getattr(hook, "offload", False)
        for module in decoder.modules()
        for hook in compat.accelerate_hooks(module)
    )


def _configs(model: nn.Module) -> list[Any]:
    """Every config object a module of the model holds, sub-configs included, each once."""
    found: dict[int, Any] = {}
    waiting = [getattr(module, "config", None) for module in model.modules()]
    while waiting:
        config = waiting.pop()
        if id(config) in found or not isinstance(config, PreTrainedConfig):
            continue
        found[id(config)] = config
        waiting += [getattr(config, key, None) for key in getattr(config, "sub_configs", ())]
    return list(found.values())
