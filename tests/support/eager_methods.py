"""Let a model attend eagerly by a published steering method: the formula, on weights after softmax.

A method is a function of the weights ``[B, Hq, M, N]`` of a layer, a sink's as one more column, and
of a :class:`Place`; it returns the weights that are used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from sra_fast.measure.served import serve

NAME = "eager_by_method"


@dataclass(frozen=True)
class Place:
    """The place of the weights of a layer.

    Attributes:
        layer: its ``layer_idx``.
        span: ``[B, N]`` bool, the columns of the span; a sink's column is none.
        prompt: ``[B, N]`` bool, those of the prompt.
        rows: ``[B, M]`` bool, the rows that are no padding.
    """

    layer: int
    span: Tensor
    prompt: Tensor
    rows: Tensor


Method = Callable[[Tensor, Place], Tensor]


def instaboost(multiplier: float) -> Method:
    """Multiply the weights on the instruction, and normalise."""

    def change(weights: Tensor, place: Place) -> Tensor:
        factors = torch.where(place.span, multiplier, 1.0)[:, None, None]
        return normalised(weights * factors)

    return change


def spotlight(share: float, heads: list[int] | None = None) -> Method:
    """Multiply the weights on the span by the wanted share over its mean, where that is above 1."""

    def change(weights: Tensor, place: Place) -> Tensor:
        changed = weights.clone()
        some = slice(None) if heads is None else heads
        for b, rows in enumerate(place.rows):
            here = weights[b, some][:, rows]
            mean = here[..., place.span[b]].sum() / (here.shape[0] * here.shape[1])
            if 0 < mean < share:
                factors = torch.where(place.span[b], share / mean, 1.0)
                changed[b, some] = normalised(weights[b, some] * factors)
        return changed

    return change


def pasta(factor: float, heads: dict[int, list[int]]) -> Method:
    """Multiply the weights on the prompt's other tokens in some heads, and normalise."""

    def change(weights: Tensor, place: Place) -> Tensor:
        changed, some = weights.clone(), heads.get(place.layer, [])
        factors = torch.where(place.prompt & ~place.span, factor, 1.0)[:, None, None]
        changed[:, some] = normalised(weights[:, some] * factors)
        return changed

    return change


def normalised(weights: Tensor) -> Tensor:
    return weights / weights.sum(dim=-1, keepdim=True)


@contextmanager
def eager_method(
    model: Any, span: Tensor, method: Method, prompt: Tensor | None = None
) -> Iterator[dict[int, list[Tensor]]]:
    """Let a model attend eagerly by a method; yield the weights that each layer used, by call.

    Args:
        model: the model; it keeps this attention afterwards.
        span: ``[B, T]`` bool, the tokens of the span in the prompts.
        method: what becomes of the weights.
        prompt: ``[B, T]`` bool, the tokens of the prompts; None for all.
    """
    prompt = torch.ones_like(span) if prompt is None else prompt
    call: dict[str, Any] = {}
    used: dict[int, list[Tensor]] = {}

    def see(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        cache = kwargs.get("past_key_values")
        ids = args[0] if args else kwargs["input_ids"]
        total = ids.shape[1] + (0 if cache is None else int(cache.get_seq_length()))
        given = kwargs.get("attention_mask")
        real = torch.ones(len(ids), total).bool() if given is None else given.bool()
        call.update(total=total, rows=real[:, -ids.shape[1] :])

    def attend(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        softcap: float | None = None,
        s_aux: Tensor | None = None,
        **_: Any,
    ) -> tuple[Tensor, None]:
        heads, width = query.shape[1], query.shape[3]
        n, groups = key.shape[2], heads // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        logits = query @ key.transpose(2, 3) * (width**-0.5 if scaling is None else scaling)
        if softcap is not None:
            logits = softcap * torch.tanh(logits / softcap)
        if attention_mask is not None:
            logits = logits + attention_mask[..., :n]
        if s_aux is not None:
            logits = torch.cat([logits, s_aux.view(1, -1, 1, 1).expand(*logits.shape[:3], 1)], -1)
        columns = logits.shape[-1]

        def columns_of(tokens: Tensor) -> Tensor:
            whole = nn.functional.pad(tokens, (0, max(0, call["total"] - tokens.shape[1])))
            held = whole[:, : call["total"]][:, -n:]
            return nn.functional.pad(held, (0, columns - n))

        layer = int(module.layer_idx)  # type: ignore[arg-type]
        place = Place(layer, columns_of(span), columns_of(prompt), call["rows"])
        weights = method(logits.softmax(dim=-1), place)[..., :n]
        used.setdefault(layer, []).append(weights)
        return (weights @ value).transpose(1, 2).contiguous(), None

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, eager_mask)
    hook = serve(model).decoder.register_forward_pre_hook(see, with_kwargs=True)
    model.set_attn_implementation(NAME)
    try:
        yield used
    finally:
        hook.remove()
