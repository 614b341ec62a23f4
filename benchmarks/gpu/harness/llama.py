"""Build a model of Llama's shape with random weights on the device, and prompts with replies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.gpu.harness.sizes import Sizes
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


def flops(shape: Shape, tokens: int, *, products: float = 1.0, attention: float = 1.0) -> float:
    """Return the operations of a forward pass without logits: products and causal attention.

    Args:
        shape: the model's shape.
        tokens: T.
        products, attention: how many times each is done; more than once in training.
    """
    projections = 2 * (shape.heads + shape.kv_heads) * shape.head_width * shape.hidden
    weights = projections + 3 * shape.hidden * shape.intermediate
    pairs = shape.heads * shape.head_width * tokens  # q·k and p·v of T²/2 pairs, per token
    return 2.0 * shape.layers * tokens * (products * weights + attention * pairs)


def batch(
    shape: Shape, sizes: Sizes, tokens: int, *, replies: int = 1, half: bool = False
) -> dict[str, Tensor]:
    """Build what :func:`sra_fast.score` takes, one row, on the CPU.

    Args:
        shape: the model's shape, for its vocabulary.
        sizes: the span's length, and the number of rows of a single reply: its tokens and the
            position before them.
        tokens: T.
        replies: how many replies there are, spread over the second half; one ends the prompt.
        half: whether the span is the first half of the prompt, and every later token the reply.
    """
    generator = torch.Generator().manual_seed(1)
    strategy = torch.zeros(1, tokens, dtype=torch.bool)
    strategy[:, FIRST_KEY : FIRST_KEY + sizes.span] = True
    response = torch.zeros(1, tokens, dtype=torch.int64)
    slot = tokens // 2 // replies
    length = min(sizes.rows - 1, slot - 1)
    for number in range(replies):
        end = tokens - slot * (replies - 1 - number)
        response[:, end - length : end] = number + 1
    if half:
        strategy[:, : tokens // 2] = True
        response[:, 1:] = 1
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


class PeakMemory:
    """Watch how much memory tensors take during calls, at most; nothing on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._found: dict[str, tuple[float, float]] = {}

    def watched(self, name: str, call: Callable[[], Any]) -> Callable[[], Any]:
        """Return the same call, of which the memory is kept under a name; it is not slowed."""
        if self._device.type != "cuda":
            return call

        def measured() -> Any:
            torch.cuda.reset_peak_memory_stats(self._device)
            before = torch.cuda.memory_allocated(self._device)
            result = call()
            most = torch.cuda.max_memory_allocated(self._device)  # as the host allocates it
            self._found[name] = (most - before) / 1e9, most / 1e9
            return result

        return measured

    def fields(self) -> dict[str, float]:
        """Return ``NAME_peak_gb`` above what was there before, and ``NAME_total_gb``."""
        above = {f"{name}_peak_gb": peak for name, (peak, _) in self._found.items()}
        return above | {f"{name}_total_gb": total for name, (_, total) in self._found.items()}
