"""Generate replies in batches, with a KV cache that prompts with a common beginning share.

Where the template puts the history first, the prompts of one conversation under several strategies
begin alike. Such a beginning is computed once per group; its keys and values are copied to the
batch rows of the group, and only the rest of each prompt runs batched. Batch rows whose reply has
ended leave the batch.

    columns:     0 .............. C | C .............. T | from T on
    batch row:   padding and cache  | the last S tokens  | new tokens, one by one

T is the length of the longest prompt of the batch, S the most tokens that any prompt has beyond its
group's beginning, C = T - S. Positions count from the first token of a prompt, so padding changes
the results by rounding only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from sra_fast.measure.served import serve
from sra_fast.tools.argument_error import ArgumentError

from .cache import GrowingLayer, growing_cache
from .sampling import Sampling, draw, uniforms

LEAST_SHARED = 32  # tokens; a shorter beginning is not worth a forward pass of its own
_SHRINK = 0.75  # ended replies leave the batch once at most this share of it is unfinished


class GenerationError(ArgumentError):
    """Raised when replies cannot be generated; the message says why and the way out."""


@dataclass(frozen=True)
class Generated:
    """The tokens that a model generated for one prompt.

    Attributes:
        tokens: ids of the new tokens, without the token that ends a reply.
        finished: whether the model ended the reply; False if it was cut at ``max_new_tokens``.
    """

    tokens: tuple[int, ...]
    finished: bool


class LocalModel:
    """A chat model of transformers that replies to batches of prompts.

    Args:
        model: the model, on the device where it runs.
        tokenizer: the tokenizer of the model.
        sampling: how tokens are drawn.
        share: whether the common beginning of a group's prompts is computed once; False computes
            every prompt whole.

    Attributes:
        batches: whether prompts of different lengths can share a forward pass.

    Raises:
        GenerationError: neither the model nor the tokenizer names a token that ends a reply.
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
        self._share = share and plain and self.batches
        self._context = served.context_length

    @torch.inference_mode()
    def reply(
        self, items: Sequence[str], prompts: Sequence[Tensor], groups: Sequence[str]
    ) -> list[Generated]:
        """Return the replies to one batch of prompts, in their order.

        Args:
            items: the name of each prompt, from which its random numbers come.
            prompts: the token ids of each prompt, ``[T_i]`` int64.
            groups: the group of each prompt; prompts of one group begin alike, and stand next to
                each other.

        Raises:
            GenerationError: a prompt and its reply may be longer than the model's context, or the
                logits are NaN.
        """
        longest = max(len(prompt) for prompt in prompts)
        if self._context and longest + self._sampling.max_new_tokens > self._context:
            raise GenerationError(
                f"item {items[max(range(len(prompts)), key=lambda i: len(prompts[i]))]!r}: a prompt"
                f" of {longest} tokens and {self._sampling.max_new_tokens} new ones are more than "
                f"the model's context of {self._context} tokens; lower max_new_tokens, or cut the "
                "history",
                "max_new_tokens",
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
        """Generate whole replies, beginning with the last S columns of the prompts.

        Args:
            ids: the last tokens of each prompt, ``[B, S]`` int64.
            mask: 1 at tokens and 0 at padding, ``[B, T]`` int64.
            cache: keys and values of the first C columns.
            numbers: the random numbers of each prompt, ``[B, max_new_tokens]`` float64 in [0, 1).
        """
        tokens: list[list[int]] = [[] for _ in range(len(ids))]
        finished = [False] * len(ids)
        rows = list(range(len(ids)))  # the prompts that are still in the batch
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
        """Return for each prompt how many tokens its whole group begins with.

        At least one token of each prompt is left to run. A prompt that is alone in its group shares
        with none, but its beginning is computed apart as well: otherwise its length would set S,
        and the other groups' beginnings would be computed again.
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
        """Return the keys and values of the first ``columns`` columns, computed once per group."""
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
        # Column c of a batch row holds token c - (T - length of its prompt); padding comes before.
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
    """Return for each batch row b the columns ``wanted[b]`` of ``states[source[b]]``.

    Args:
        states: keys or values of the groups, ``[G, H, P, D]``.
        source: the group of each batch row, ``[B]`` int64.
        wanted: the wanted columns, ``[B, C]`` int64; those outside take the nearest.

    Returns:
        ``[B, H, C, D]``
    """
    columns = wanted.clamp(min=0, max=states.shape[2] - 1)
    heads = torch.arange(states.shape[1], device=states.device)
    return states[source[:, None, None], heads[None, :, None], columns[:, None, :]]


def _common(prompts: Sequence[Tensor]) -> int:
    """Return how many first tokens all prompts share, less than the whole of any prompt."""
    most = min(len(prompt) for prompt in prompts) - 1
    first = prompts[0][:most]
    for other in prompts[1:]:
        differs = (first != other[: len(first)]).nonzero()
        if len(differs):
            first = first[: int(differs[0])]
    return len(first)


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return the ids of all tokens that end a reply, by the model and by its tokenizer.

    Raises:
        GenerationError: neither of them names such a token.
    """
    found: set[int] = set()
    for value in (model.generation_config.eos_token_id, tokenizer.eos_token_id):
        found.update([value] if isinstance(value, int) else value or [])
    if not found:
        raise GenerationError(
            "neither the model's generation_config nor its tokenizer names a token that ends a "
            "reply (eos_token_id); set one"
        )
    return frozenset(found)
