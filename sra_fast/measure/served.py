"""Find the part of a model that is scored."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock, RLock
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn
from transformers import AttentionInterface, PreTrainedModel

from sra_fast.measure import compat, mask_borders, model_kinds
from sra_fast.measure.above_decoder import is_hooked_above, package_of
from sra_fast.measure.parts_of_models import missing_part
from sra_fast.measure.sharded_parameters import sharding_group
from sra_fast.measure.split_heads import SplitHeads, split_heads
from sra_fast.measure.switched_attention import switched
from sra_fast.measure.unserved import UnservedModelError

__all__ = [
    "ServedModel",
    "UnservedModelError",
    "evaluating",
    "rope_types",
    "serve",
    "switched",
    "used_by_one",
]


_LOCKS: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()  # decoder -> its RLock
_LOCKS_LOCK = Lock()


@dataclass(frozen=True)
class ServedModel:
    """A model whose masses can be asked for, and what the scoring needs to know of it.

    Attributes:
        top: the model as the user holds it.
        whole: the model inside its wrappers, with its head and, if it is multimodal, its encoders.
        decoder: its text decoder, without the language-model head: the part that is run.
        attention_layers: ``layer_idx`` of its attention layers, ascending; empty if unknown.
        stateful: whether other layers carry a state along the sequence (Mamba, convolutions, linear
            attention), so that sequences cannot be packed.
        takes_positions: whether its forward has ``position_ids``, without which sequences cannot be
            packed.
        can_stop: whether an exception may end a forward pass after its last attention layer.
        counts_from_zero: whether the positions that it makes itself count from 0, so that
            ``position_ids`` may be made for it; False as long as nobody has tried
            (:func:`sra_fast.measure.trial.tried`).
        fed_from_above: whether something above the decoder changes what it is given, such as a
            hook, so that the whole model has to run.
        first_run: what the layers answered in the trial's first run, if that was made just now; the
            self-check goes on from it.
        heads: how its heads are split over processes; None if this one holds all.
        shards: the group of processes that keep its parameters together (``fully_shard``); None if
            this one has its own.
    """

    top: nn.Module
    whole: PreTrainedModel
    decoder: PreTrainedModel
    attention_layers: tuple[int, ...]
    stateful: bool
    takes_positions: bool
    can_stop: bool
    counts_from_zero: bool = False
    fed_from_above: bool = False
    first_run: mask_borders.SightedRequest | None = None
    heads: SplitHeads | None = None
    shards: Any | None = None

    @property
    def config(self) -> Any:
        """The configuration of the decoder."""
        return self.decoder.config

    @property
    def name(self) -> str:
        """The name of the model in messages: its class and its model type."""
        return f"{type(self.decoder).__name__} ({self.config.model_type})"

    @property
    def attention_shape(self) -> tuple[int, int]:
        """The number of attention layers (of all layers, if unknown) and of heads in each."""
        layers = len(self.attention_layers) or self.config.num_hidden_layers
        return layers, self.config.num_attention_heads

    @property
    def context_length(self) -> int | None:
        """The longest prompt, in tokens, that the model's positions reach to; None for no limit."""
        if "dynamic" in rope_types(self.config):
            return None  # its frequencies grow with the prompt
        return getattr(self.config, "max_position_embeddings", None)


def serve(model: nn.Module) -> ServedModel:
    """Find the decoder of ``model`` (as loaded, PEFT-wrapped, compiled, or multimodal).

    Raises:
        UnservedModelError: there is no decoder, PEFT prompt learning is active, the attention does
            not follow transformers' interface, or this process holds some layers of the model only.
    """
    if isinstance(model, nn.parallel.DistributedDataParallel):
        model = model.module  # each process holds the whole
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
    if getattr(inner.config, "is_encoder_decoder", False):
        raise UnservedModelError(
            f"{type(inner).__name__} is an encoder-decoder model: its prompt and its reply attend "
            "in different places"
        )
    decoder: Any = _headless(_decoder(inner))
    attention = _attention_modules(decoder)
    heads = split_heads(model, decoder, attention, type(inner).__name__)
    if part := missing_part(inner, decoder):
        raise UnservedModelError(f"{type(inner).__name__} cannot be scored here: {part}")
    model_kinds.refuse(type(inner).__name__, decoder)
    _refuse_implementation(decoder)
    types = set(getattr(decoder.config, "layer_types", None) or ())
    return ServedModel(
        top=model,
        whole=inner,
        decoder=decoder,
        attention_layers=tuple(sorted(attention)),
        stateful=compat.is_stateful(decoder) or bool(types - model_kinds.ATTENTION_LAYER_TYPES),
        takes_positions="position_ids" in inspect.signature(decoder.forward).parameters,
        can_stop=may_be_stopped(decoder),
        fed_from_above=is_hooked_above(inner, decoder),
        heads=heads,
        shards=sharding_group(model),
    )


def may_be_stopped(module: nn.Module) -> bool:
    """Return whether an exception may end the forward pass of a module half-way."""
    return not compat.is_compiled_in_place(module) and not _offloaded(module)


@contextmanager
def used_by_one(decoder: nn.Module) -> Iterator[None]:
    """Let one thread at a time into the block with ``decoder``.

    Its attention is switched there, and put back to what was found: two threads at once would
    compute with each other's, and leave behind what the other had set.
    """
    with _LOCKS_LOCK:
        lock = _LOCKS.setdefault(decoder, RLock())
    with lock:
        yield


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put ``module`` into evaluation mode inside the block; restore every mode afterwards."""
    training = [part for part in module.modules() if part.training]
    try:
        module.eval()
        yield
    finally:
        for part in training:
            part.training = True


def rope_types(config: Any) -> set[str]:
    """Return the kinds of rotary embedding that a config names, of which it may have several."""
    parameters = getattr(config, "rope_parameters", None) or {}
    nested = [value for value in parameters.values() if isinstance(value, dict)]
    return {str(part.get("rope_type", "default")) for part in nested or [parameters]}


def _refuse_implementation(decoder: PreTrainedModel) -> None:
    """Refuse a decoder that attends by a function of the user's own, which may be any function.

    Raises:
        UnservedModelError: it does.
    """
    name = compat.attn_implementation(decoder.config)
    function = AttentionInterface().get(name)
    source = package_of(function) if function is not None and "/" not in str(name) else None
    if source not in (None, "transformers", "sra_fast"):
        raise UnservedModelError(
            f"{type(decoder).__name__} attends by {name!r}, a function that {source} registered "
            "and that may do anything, so its masses are not known; if it stands for ordinary "
            "attention, call model.set_attn_implementation('eager') first"
        )


def _decoder(model: PreTrainedModel) -> Any:
    """Return the part of a model that transformers calls its decoder.

    transformers looks for it by name, and ModernBERT's decoder calls its LM head `decoder`: what
    embeds no tokens is no decoder, and then it is the model's base.
    """
    found = model.get_decoder()
    return found if isinstance(found, PreTrainedModel) else model.base_model


def _headless(decoder: Any) -> Any:
    """Return the decoder without the language-model head that some families give along with it."""
    for child in decoder.children():
        if isinstance(child, PreTrainedModel) and child.config is decoder.config:
            return _headless(child)
    return decoder


def _attention_modules(decoder: PreTrainedModel) -> dict[int, nn.Module]:
    """Return all attention layers by ``layer_idx``, from transformers' own record of them."""
    found: dict[int, nn.Module] = {}
    for spec in compat.recorded_attentions(decoder):
        target = getattr(spec, "target_class", spec)
        part = getattr(spec, "layer_name", None)
        for name, module in decoder.named_modules():
            matches = isinstance(target, type) and isinstance(module, target)
            index = getattr(module, "layer_idx", None)
            if not matches or index is None or (part and part.strip(".") not in name.split(".")):
                continue
            if model_kinds.is_linear(module, decoder.config) or model_kinds.looks_elsewhere(module):
                continue
            if index < 0 or found.setdefault(index, module) is not module:
                raise UnservedModelError(
                    f"{type(decoder).__name__} has several attention modules under layer_idx "
                    f"{index}, so their masses cannot be told apart"
                )
    return found


def _offloaded(model: nn.Module) -> bool:
    """Return whether an accelerate hook moves parameters in and out around a module's forward."""
    return any(
        getattr(hook, "offload", False)
        for module in model.modules()
        for hook in compat.accelerate_hooks(module)
    )
