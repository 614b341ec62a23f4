"""Test that `sra_fast.steer` steers a model's own calls as a bias in its eager mask would."""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sra_fast
from marked_batches import marked_batch
from model_families import FAMILIES, HYBRIDS, Family, random_tokens
from sra_fast.kernels.steering import SteeredGradientError
from sra_fast.measure import compat
from sra_fast.measure.served import serve

BY_NAME = {family.name: family for family in FAMILIES}
LLAMA = BY_NAME["llama"]
NEW_TOKENS = 7
GREEDY: dict[str, Any] = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS}
GREEDY |= {"do_sample": False, "output_logits": True, "return_dict_in_generate": True}


def prompts(*lengths: int) -> dict[str, Any]:
    """Return left-padded prompts with a span each at positions 3 to 6, and no reply."""
    batch = marked_batch(lengths, "left")
    del batch["response_mask"]
    return batch


def inputs(batch: dict[str, Any]) -> dict[str, Any]:
    return {key: batch[key] for key in ("input_ids", "attention_mask")}


@contextmanager
def biased_masks(
    model: Any,
    span: Tensor,
    bias: float,
    layers: tuple[int, ...] | None = None,
    heads: tuple[int, ...] | None = None,
    first_row: int = 0,
) -> Iterator[None]:
    """Let a model attend eagerly, with the bias added to the mask of its layers."""
    model.set_attn_implementation("eager")
    hooks = []

    def add(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        mask = kwargs["attention_mask"]  # [B, 1, M, N]
        cache = kwargs.get("past_key_values")
        total = total_of(module, mask, cache)
        known = nn.functional.pad(span, (0, max(0, total - span.shape[1])))[:, :total]
        known = known.repeat_interleave(len(mask) // len(known), 0)[:, -mask.shape[3] :]
        steered = torch.arange(total - mask.shape[2], total) >= first_row
        at = known[:, None, None] & steered[:, None]
        if heads is not None:
            chosen = torch.zeros(module.config.num_attention_heads, dtype=torch.bool)
            chosen[list(heads)] = True
            at = at & chosen[:, None, None]
        return args, {**kwargs, "attention_mask": torch.where(at, mask + bias, mask)}

    def total_of(module: nn.Module, mask: Tensor, cache: Any) -> int:
        past = 0 if cache is None else cache.get_seq_length(module.layer_idx)
        return int(past) + mask.shape[2]

    for module in model.modules():
        index = getattr(module, "layer_idx", None)
        if index is not None and hasattr(module, "o_proj"):
            if layers is None or index in layers:
                hooks.append(module.register_forward_pre_hook(add, with_kwargs=True))
    assert hooks
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def assert_same_replies(found: Any, wanted: Any) -> None:
    assert torch.equal(found.sequences, wanted.sequences)
    for mine, theirs in zip(found.logits, wanted.logits, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("bias", [-math.inf, -2.0, 3.0])
@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma2", "gpt_oss"])
def test_greedy_replies_are_those_of_eager_with_the_bias_in_its_mask(
    name: str, bias: float
) -> None:
    batch = prompts(30, 22)
    strength = {"knock_out": True} if bias == -math.inf else {"bias": bias}
    model = BY_NAME[name].build()
    with sra_fast.steer(model, batch, **strength):
        found = model.generate(**inputs(batch), **GREEDY)
    with biased_masks(BY_NAME[name].build(), batch["strategy_mask"], bias) as _:
        pass
    eager = BY_NAME[name].build()
    plain = eager.generate(**inputs(batch), **GREEDY)
    with biased_masks(eager, batch["strategy_mask"], bias):
        wanted = eager.generate(**inputs(batch), **GREEDY)
    assert_same_replies(found, wanted)
    assert not torch.allclose(plain.logits[0], wanted.logits[0], atol=1e-2)
