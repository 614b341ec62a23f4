"""Batched generation with a KV cache that prompts with a common beginning share.

The strategies of one conversation have the same history in front of them where the template puts it
first. Such a beginning is computed once per group; its keys and values are copied to the group's
rows, and only what is left of each prompt runs batched. Rows that have ended leave the batch.

    columns:   0 .......... C | C ......... T | new tokens
    row:       pads and cache | the last S    | one by one

T is the longest prompt of the batch, S the most that any row has beyond its group's beginning,
C = T - S. Positions count from a row's first token, so pads change nothing but roundings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from sra_fast.measure.served import serve

from .cache import GrowingLayer, growing_cache
from .sampling import Sampling, draw, uniforms

LEAST_SHARED = 32  # tokens; a shorter beginning is not worth a forward pass of its own
_SHRINK = 0.75  # the batch is cut to its live rows when no more than this share lives


class GenerationError(ValueError):
    """Replies cannot be generated; the message says why and the way out."""


@dataclass(frozen=True)
class Generated:
    """A reply as it came.

    Attributes:
        tokens: the new ones, without the one that ends a reply.
        finished: the model ended it itself; False where it was cut at ``max_new_tokens``.
    """

    tokens: tuple[int, ...]
    finished: bool


class LocalModel:
    """A chat model of transformers that replies to batches of prompts.

    Args:
        model: on its device.
        tokenizer: its tokenizer.
        sampling: how tokens are drawn.
        share: compute common beginnings once; False computes every prompt whole.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        sampling: Sampling,
        *,
        share: bool = True,
    ) -> None:
        self._model = model.eval()
        self._sampling = sampling
        self._ends = end_tokens(model, tokenizer)
        served = serve(model)
        self._decoder: Any = served.decoder
        layers = growing_cache(model.config).layers
        plain = all(isinstance(layer, GrowingLayer) for layer in layers)
        self.batches = not served.stateful
        """Whether prompts of several lengths can share a forward pass."""
        self._share = share and plain and self.batches
        self._context = served.context_length

    @torch.inference_mode()
    def reply(
        self, items: Sequence[str], prompts: Sequence[Tensor], groups: Sequence[str]
    ) -> list[Generated]:
        """Replies to one batch.

        Args:
            items: name of each prompt; its random numbers come from it.
            prompts: token ids ``[T_i]`` int64.
            groups: prompts of one group begin alike, and stand next to each other.

        Raises:
            GenerationError: a prompt and its reply may be longer than the model's context, or the
                logits are NaN.
        """
        longest = max(len(prompt) for prompt in prompts)
        if self._context and longest + self._sampling.max_new_tokens > self._context:
            raise GenerationError(
                f"item {items[max(range(len(prompts)), key=lambda i: len(prompts[i]))]!r}: a prompt"
                f" of {longest} tokens and {self._sampling.max_new_tokens} new ones are more than "
                f"the model's context of {self._context}; lower max_new_tokens or cut the history"
            )
        if not self.batches and len(prompts) > 1:
            return [
                one
                for item, prompt, group in zip(items, prompts, groups, strict=True)
                for one in self.reply([item], [prompt], [group])
            ]
        device = self._model.device
        shared = self._beginnings(prompts, groups) if self._share else [0] * len(prompts)
        rest = max(len(prompt) - length for prompt, length in zip(prompts, shared, strict=True))
        cache = self._filled_cache(prompts, groups, shared, longest - rest)
        ids = torch.zeros(len(prompts), longest, dtype=torch.int64)
        mask = torch.zeros(len(prompts), longest, dtype=torch.int64)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :] = prompt
            mask[row, longest - len(prompt) :] = 1
        numbers = torch.stack([uniforms(self._sampling, item) for item in items])
        return self._decode(ids[:, longest - rest :].to(device), mask.to(device), cache, numbers)

    def _decode(
        self, ids: Tensor, mask: Tensor, cache: DynamicCache, numbers: Tensor
    ) -> list[Generated]:
        """From the last columns of the prompts to whole replies."""
        tokens: list[list[int]] = [[] for _ in range(len(ids))]
        finished = [False] * len(ids)
        rows = list(range(len(ids)))  # of the batch as it is now
        positions = (mask.cumsum(dim=-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        for step in range(self._sampling.max_new_tokens):
            output = self._model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            logits = output.logits[:, -1]
            if not bool(logits.isfinite().any(dim=-1).all()):
                raise GenerationError("the model's logits are NaN; prefer bfloat16 to float16")
            drawn = draw(logits, numbers[rows, step], self._sampling)
            for row, token in zip(rows, drawn.tolist(), strict=True):
                if finished[row]:
                    continue
                if token in self._ends:
                    finished[row] = True
                else:
                    tokens[row].append(token)
            live = [place for place, row in enumerate(rows) if not finished[row]]
            if not live:
                break
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            positions, ids = positions[:, -1:] + 1, drawn[:, None]
            if len(live) <= _SHRINK * len(rows):
                kept = torch.tensor(live, device=ids.device)
                cache.batch_select_indices(kept)
                ids, mask, positions = ids[kept], mask[kept], positions[kept]
                rows = [rows[place] for place in live]
        return [Generated(tuple(new), done) for new, done in zip(tokens, finished, strict=True)]

    def _beginnings(self, prompts: Sequence[Tensor], groups: Sequence[str]) -> list[int]:
        """Of each prompt the number of tokens that its whole group begins with.

        At least one token of each is left to run. Groups of one share with nobody, but their
        beginning runs apart as well, so that the others' is not run again for their sake.
        """
        members: dict[str, list[int]] = {}
        for index, group in enumerate(groups):
            members.setdefault(group, []).append(index)
        common = {
            group: _common([prompts[index] for index in indices])
            for group, indices in members.items()
        }
        if not any(
            len(members[group]) > 1 and length >= LEAST_SHARED for group, length in common.items()
        ):
            return [0] * len(prompts)
        return [common[group] for group in groups]

    def _filled_cache(
        self,
        prompts: Sequence[Tensor],
        groups: Sequence[str],
        shared: Sequence[int],
        columns: int,
    ) -> DynamicCache:
        """Keys and values of the first ``columns`` columns, computed once per group."""
        cache = growing_cache(self._model.config)
        if columns == 0 or not any(shared):
            return cache
        rest = max(len(prompt) for prompt in prompts) - columns
        names = list(dict.fromkeys(groups))
        firsts = [groups.index(name) for name in names]
        wanted_of = {
            name: max(len(prompts[row]) for row, other in enumerate(groups) if other == name) - rest
            for name in names
        }
        lengths = [max(min(shared[groups.index(name)], wanted_of[name]), 1) for name in names]
        width = max(lengths)
        ids = torch.zeros(len(firsts), width, dtype=torch.int64)
        mask = torch.zeros(len(firsts), width, dtype=torch.int64)
        for row, (first, length) in enumerate(zip(firsts, lengths, strict=True)):
            ids[row, :length] = prompts[first][:length]
            mask[row, :length] = 1
        device = self._model.device
        filled = self._decoder(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            use_cache=True,
            past_key_values=DynamicCache(config=self._model.config),
        ).past_key_values
        longest = max(len(prompt) for prompt in prompts)
        # Column c of a row holds token c - (T - its length); before that come pads.
        offsets = torch.tensor([longest - len(prompt) for prompt in prompts], device=device)
        wanted = torch.arange(columns, device=device) - offsets[:, None]  # [B, C]
        source = torch.tensor([names.index(group) for group in groups], device=device)
        for index, layer in enumerate(filled.layers):
            keys, values = (
                _gathered(states, source, wanted) for states in (layer.keys, layer.values)
            )
            cache.update(keys, values, index)
        return cache


def _gathered(states: Tensor, source: Tensor, wanted: Tensor) -> Tensor:
    """``[G, H, P, D]`` to ``[B, H, C, D]``: of row ``source[b]`` the columns ``wanted[b]``."""
    columns = wanted.clamp(min=0, max=states.shape[2] - 1)
    heads = torch.arange(states.shape[1], device=states.device)
    return states[source[:, None, None], heads[None, :, None], columns[:, None, :]]


def _common(prompts: Sequence[Tensor]) -> int:
    """How many tokens all of them begin with, short of the whole of any."""
    most = min(len(prompt) for prompt in prompts) - 1
    first = prompts[0][:most]
    for other in prompts[1:]:
        differs = (first != other[: len(first)]).nonzero()
        if len(differs):
            first = first[: int(differs[0])]
    return len(first)


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Every token that ends a reply, by the model and by its tokenizer."""
    found: set[int] = set()
    for value in (model.generation_config.eos_token_id, tokenizer.eos_token_id):
        found.update([value] if isinstance(value, int) else value or [])
    if not found:
        raise GenerationError(
            "neither the model's generation_config nor its tokenizer names a token that ends a "
            "reply (eos_token_id); set one"
        )
    return frozenset(found)
