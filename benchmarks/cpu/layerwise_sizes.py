"""Count what a model takes layer by layer, from its configuration alone.

Nothing is loaded: the model is built on the device meta, and its weights are counted there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedConfig

from sra_fast.measure.layerwise.layer_doors import decoder_layers
from sra_fast.measure.served import serve

TOKENS = 100_000
"""The number of tokens of one pass over the weights for which hidden states are counted."""

_VOCABULARY = {"vocab_size": 128_256, "num_key_value_heads": 8, "tie_word_embeddings": False}
EXAMPLES: Mapping[str, PreTrainedConfig] = {
    "Llama 3.1 8B": LlamaConfig(
        hidden_size=4096,
        intermediate_size=14_336,
        num_hidden_layers=32,
        num_attention_heads=32,
        **_VOCABULARY,
    ),
    "Llama 3.1 70B": LlamaConfig(
        hidden_size=8192,
        intermediate_size=28_672,
        num_hidden_layers=80,
        num_attention_heads=64,
        **_VOCABULARY,
    ),
}
"""Configurations of models that are larger than the memory of many machines."""


@dataclass(frozen=True)
class LayerwiseSizes:
    """The bytes of a model that is scored layer by layer.

    Attributes:
        whole: all of its weights.
        layer: the weights of its largest layer.
        read: the weights that one pass reads: all layers, and what the decoder has besides.
        hidden: the hidden states of :data:`TOKENS` tokens.
    """

    whole: int
    layer: int
    read: int
    hidden: int


def layerwise_sizes(
    config: PreTrainedConfig, dtype: torch.dtype = torch.bfloat16, tokens: int = TOKENS
) -> LayerwiseSizes:
    """Count the bytes of a model of a configuration.

    Args:
        config: the configuration of a causal language model.
        dtype: the number format of weights and hidden states.
        tokens: the number of tokens of one pass.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    decoder = serve(model).decoder
    of_layers = [_bytes(layer) for layer in decoder_layers(decoder)]
    hidden = tokens * config.hidden_size * dtype.itemsize
    return LayerwiseSizes(_bytes(model), max(of_layers), _bytes(decoder), hidden)


def _bytes(module: torch.nn.Module) -> int:
    return sum(parameter.nbytes for parameter in module.parameters())
