"""Let a model attend eagerly with a bias in its 4-D masks: the truth of steered models."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sra_fast.measure import model_kinds
from sra_fast.measure.served import serve


@contextmanager
def biased_masks(
    model: Any,
    span: Tensor,
    bias: float,
    layers: tuple[int, ...] | None = None,
    heads: tuple[int, ...] | None = None,
    first_row: int = 0,
    rows: Tensor | None = None,
) -> Iterator[None]:
    """Let a model attend eagerly, with the bias added to the mask of its layers."""
    model.set_attn_implementation("eager")
    hooks = []

    def add(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        given = kwargs["attention_mask"]  # [B, 1, M, N], or a dict that holds such masks
        cache = kwargs.get("past_key_values")
        if isinstance(given, dict):
            masks = {
                name: biased(module, mask, cache) if mask is not None and mask.ndim == 4 else mask
                for name, mask in given.items()
            }
            return args, {**kwargs, "attention_mask": masks}
        return args, {**kwargs, "attention_mask": biased(module, given, cache)}

    def biased(module: nn.Module, mask: Tensor, cache: Any) -> Tensor:
        total = total_of(module, mask, cache)
        known = nn.functional.pad(span, (0, max(0, total - span.shape[1])))[:, :total]
        known = known.repeat_interleave(len(mask) // len(known), 0)[:, -mask.shape[3] :]
        steered = torch.arange(total - mask.shape[2], total) >= first_row
        at = known[:, None, None] & steered[:, None]
        if rows is not None:
            at = at & rows[:, None, :, None]
        if heads is not None:
            chosen = torch.zeros(module.config.num_attention_heads, dtype=torch.bool)
            chosen[list(heads)] = True
            at = at & chosen[:, None, None]
        return torch.where(at, mask + bias, mask)

    def total_of(module: nn.Module, mask: Tensor, cache: Any) -> int:
        past = 0 if cache is None else cache.get_seq_length(module.layer_idx)
        return int(past) + mask.shape[2]

    for module in model.modules():
        index = getattr(module, "layer_idx", None)
        if _attends(module) and index in (layers or serve(model).attention_layers):
            hooks.append(module.register_forward_pre_hook(add, with_kwargs=True))
    assert hooks
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _attends(module: nn.Module) -> bool:
    """Return whether a module is an attention layer itself, and does not hold one."""
    return model_kinds.is_attention(module) and not any(
        model_kinds.is_attention(inner) and hasattr(inner, "layer_idx")
        for inner in module.modules()
        if inner is not module
    )


def assert_same_replies(found: Any, wanted: Any) -> None:
    assert torch.equal(found.sequences, wanted.sequences)
    for mine, theirs in zip(found.logits, wanted.logits, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3)
