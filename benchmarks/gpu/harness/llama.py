"""Build a model of Llama's shape with random weights on the device, and a prompt with a reply."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.gpu.harness.bench import Sizes
from benchmarks.gpu.harness.tensors import FIRST_KEY
from benchmarks.measuring.cases import Shape

SHAPES = {
    shape.name: shape
    for shape in (
        # A score computes no logits, so a small vocabulary will do; training needs the whole one.
        Shape("Llama-3-8B shape", 32, 4096, 14336, 32, 8, 128, 8192),
        Shape("Llama-3-8B", 32, 4096, 14336, 32, 8, 128, 128256),
        Shape("tiny", 2, 64, 128, 4, 2, 16, 100),
    )
}
LONGEST = 131072  # the longest prompt of the models, in tokens
DEVIATION = 0.02  # the standard deviation of the weights, as transformers draws them


def build(shape: Shape, device: torch.device, dtype: torch.dtype) -> LlamaForCausalLM:
    """Build the model by way of the meta device, so that every weight is made once and in place."""
    config = LlamaConfig(
        num_hidden_layers=shape.layers,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_width,
        vocab_size=shape.vocabulary,
        tie_word_embeddings=False,
        max_position_embeddings=LONGEST,
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model.to(dtype).to_empty(device=device)
    # The table of positions is no parameter, and stays in float32.
    model.model.rotary_emb = type(model.model.rotary_emb)(config).to(device)
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.fill_(1.0)  # the weights of norms, as in a new model
            else:
                parameter.normal_(0.0, DEVIATION, generator=generator)
    return model.eval()


def flops(shape: Shape, tokens: int) -> float:
    """Return the operations of a forward pass without logits: products and causal attention."""
    projections = 2 * (shape.heads + shape.kv_heads) * shape.head_width * shape.hidden
    weights = projections + 3 * shape.hidden * shape.intermediate
    attention = 2 * shape.heads * shape.head_width * tokens
    return 2.0 * shape.layers * tokens * (weights + attention / 2)


def batch(shape: Shape, sizes: Sizes, tokens: int) -> dict[str, Tensor]:
    """Build what :func:`sra_fast.score` takes, with ``sizes.rows`` rows asked for, on the CPU.

    Those rows are the reply's tokens and the one before them.
    """
    generator = torch.Generator().manual_seed(1)
    strategy = torch.zeros(1, tokens, dtype=torch.bool)
    strategy[:, FIRST_KEY : FIRST_KEY + sizes.span] = True
    response = torch.zeros(1, tokens, dtype=torch.bool)
    response[:, 1 - sizes.rows :] = True
    ids = torch.randint(shape.vocabulary, (1, tokens), generator=generator)
    return {"input_ids": ids, "strategy_mask": strategy, "response_mask": response}


def plain_forward(model: LlamaForCausalLM, ids: Tensor) -> Callable[[], Tensor]:
    """Return a call of the base model by SDPA alone: no logits, no cache, no gradients, no SRA."""

    def call() -> Tensor:
        with torch.no_grad():
            output: Any = model.model(ids, use_cache=False)
        states: Tensor = output.last_hidden_state
        return states

    model.set_attn_implementation("sdpa")
    return call
