"""Build what is measured: models with random weights, and a prompt with a span and a response."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

Dtype = Literal["float32", "bfloat16"]

SPAN = slice(8, 14)  # the span: six tokens near the beginning
RESPONSE = 128  # tokens of the response, which ends the prompt


@dataclass(frozen=True)
class Shape:
    """The sizes of a Llama model; ``head_width`` is D, and the embeddings are tied."""

    name: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_width: int
    vocabulary: int


SMOLLM2 = Shape("SmolLM2-135M shape", 30, 576, 1536, 9, 3, 64, 49152)
SMALL = Shape("8 layers × 512", 8, 512, 1536, 8, 4, 64, 32000)
# Four of Llama-3.2-1B's sixteen layers. A small vocabulary does: embeddings are only looked up.
WIDE = Shape("Llama-3.2-1B shape, 4 layers", 4, 2048, 8192, 32, 8, 64, 8192)


@dataclass(frozen=True)
class ModelCase:
    """A case to run: a model's shape, a dtype, and a batch of one prompt of ``tokens`` tokens.

    The last ``response`` tokens are the response.
    """

    shape: Shape
    tokens: int
    dtype: Dtype = "float32"
    response: int = RESPONSE

    def __str__(self) -> str:
        return f"{self.shape.name}, {self.dtype}, T={self.tokens}"


def build_model(case: ModelCase) -> LlamaForCausalLM:
    """Build the case's model with the same random weights at every call and in every dtype.

    All weights are numbers that bfloat16 has. With a standard deviation of 0.04 the maps are uneven
    (the largest weight of a row is about 15 times the mean), as a check of one alternative by
    another needs them.
    """
    shape = case.shape
    config = LlamaConfig(
        num_hidden_layers=shape.layers,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_width,
        vocab_size=shape.vocabulary,
        tie_word_embeddings=True,
        max_position_embeddings=8192,
    )
    # By way of the meta device, because every measurement of memory builds its own model and
    # the usual way draws all the weights twice.
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model.to_empty(device="cpu")
    model.tie_weights()
    model.model.rotary_emb = type(model.model.rotary_emb)(
        config
    )  # the table of positions is no parameter
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.fill_(1.0)
            else:
                parameter.normal_(0.0, 0.04, generator=generator)
                parameter.copy_(parameter.bfloat16())
    return model.to(getattr(torch, case.dtype)).eval()


def build_batch(case: ModelCase) -> dict[str, Any]:
    """Build the mapping that :func:`sra_fast.score` takes, with one row and no padding."""
    generator = torch.Generator().manual_seed(1)
    strategy = torch.zeros(1, case.tokens, dtype=torch.bool)
    strategy[:, SPAN] = True
    response = torch.zeros(1, case.tokens, dtype=torch.bool)
    response[:, -case.response :] = True
    ids: Tensor = torch.randint(case.shape.vocabulary, (1, case.tokens), generator=generator)
    return {"input_ids": ids, "strategy_mask": strategy, "response_mask": response}
