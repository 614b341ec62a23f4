"""Steer the calls of a model: hooks on its decoder lay the keys of a batch over each of them.

A call may hold the batch's tokens, their beginning, or more after them (a reply), and it may go on
from a cache that calls under the same steering have filled. Rows of the batch may be repeated. A
multimodal model gives its decoder embeddings, so tokens are looked at where the model is called.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn
from uuid import uuid4

import torch
from torch import Tensor, nn

from sra_fast.measure import compat
from sra_fast.measure.layer_steering import STEERING, CallSteering
from sra_fast.measure.reduction import UnansweredRequestError
from sra_fast.measure.served import ServedModel
from sra_fast.measure.strengths.strength import Strength

_STEERED = "_sra_fast_steered"


@dataclass(frozen=True, eq=False)
class SteeredBatch:
    """The tokens of a batch, in the host's memory, and what is steered of them.

    Attributes:
        keys: ``[B, T]`` bool, the tokens whose logits are changed.
        tokens: ``[B, T]`` bool, those that are no padding.
        input_ids: ``[B, T]``; None if the batch has embeddings.
        rows: ``[B, T]`` bool, the tokens whose attention is steered, beside all that come after the
            batch's; None for all.
    """

    keys: Tensor
    tokens: Tensor
    input_ids: Tensor | None
    rows: Tensor | None


class SteeredModel:
    """The hooks on a model's decoder that steer its calls, until they are removed.

    Args:
        served: the model.
        batch: the batch whose tokens are steered.
        strength: what is done to the steered keys.
        heads: the heads that are steered, as :class:`CallSteering` takes them.

    Raises:
        ValueError: the model is steered already.
    """

    def __init__(
        self,
        served: ServedModel,
        batch: SteeredBatch,
        strength: Strength,
        heads: Mapping[int, tuple[int, ...] | None],
    ) -> None:
        for hook in compat.forward_pre_hooks(served.decoder):
            if isinstance(getattr(hook, "__self__", None), SteeredModel):
                raise ValueError(f"steer: {served.name} is steered already; leave that block first")
        self._served = served
        self._batch = batch
        self._strength = strength
        self._heads = heads
        self._block = uuid4().hex  # written on caches, with how many of their tokens were steered
        self._given: dict[int, Tensor] = {}  # thread -> the token ids that it called the model with
        self._hooks = [
            served.whole.register_forward_pre_hook(self._enter, with_kwargs=True),
            served.whole.register_forward_hook(self._leave, always_call=True),
            served.decoder.register_forward_pre_hook(self._before, with_kwargs=True),
            served.decoder.register_forward_hook(self._after, with_kwargs=True),
        ]

    def remove(self) -> None:
        """Take the hooks off the model."""
        for hook in self._hooks:
            hook.remove()

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        """Refuse to be copied along with the model.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"steer: {self._served.name} is steered, and a copy of it would stay so for ever; copy "
            "it before the block"
        )

    @torch.compiler.disable
    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = args[0] if args else kwargs.get("input_ids")
        if isinstance(ids, Tensor):
            self._given[threading.get_ident()] = ids
            if len(ids) % len(self._batch.tokens) == 0:  # others are refused by `_before`
                self._check_mask(args[1] if len(args) > 1 else kwargs.get("attention_mask"))

    @torch.compiler.disable
    def _leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._given.pop(threading.get_ident(), None)

    @torch.compiler.disable
    def _before(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        ids = args[0] if args else kwargs.get("input_ids")
        tokens = kwargs.get("inputs_embeds") if ids is None else ids
        if not isinstance(tokens, Tensor):
            raise ValueError("steer: a call needs `input_ids` or `inputs_embeds`")
        given = self._given.get(threading.get_ident()) if ids is None else ids
        if given is None and self._batch.input_ids is not None:
            raise ValueError(
                "steer: inputs_embeds: they cannot be compared with the batch's input_ids; call "
                "the model with input_ids, or give a batch of these inputs_embeds"
            )
        past = self._past(kwargs.get("past_key_values"))
        self._check_positions(kwargs, past, past + tokens.shape[1])
        repeats, rest = divmod(tokens.shape[0], self._batch.keys.shape[0])
        if rest or not repeats:
            raise ValueError(
                f"steer: the batch has {self._batch.keys.shape[0]} rows and a call has "
                f"{tokens.shape[0]}, which is no multiple of them"
            )
        total = past + tokens.shape[1]
        if given is not None and self._batch.input_ids is not None:
            if given.shape != tokens.shape[:2]:
                raise ValueError(
                    f"steer: {self._served.name} makes {tokens.shape[1]} tokens of the "
                    f"{given.shape[1]} of a call, so it is not known where the span is"
                )
            self._check_tokens(given, past, repeats)
        keys = _reaching(self._batch.keys, total, False).repeat_interleave(repeats, dim=0)
        rows = None
        if self._batch.rows is not None:
            rows = _reaching(self._batch.rows, total, True)[:, past:]
            rows = rows.repeat_interleave(repeats, dim=0)
        steering = CallSteering(self._strength, self._heads, keys, rows, self._served.heads)
        return args, {**kwargs, STEERING: steering}

    @torch.compiler.disable
    def _after(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        missed = set(self._served.attention_layers) - kwargs[STEERING].reached
        if missed:
            raise UnansweredRequestError(
                f"{self._served.name} did not pass the steering on to the attention of its layers "
                f"{sorted(missed)}, so this call was not steered"
            )
        for cache in (getattr(output, "past_key_values", None), kwargs.get("past_key_values")):
            if cache is not None and hasattr(cache, "get_seq_length"):
                setattr(cache, _STEERED, (self._block, int(cache.get_seq_length())))

    def _past(self, cache: Any) -> int:
        """Return how many tokens a call's cache holds, all of them steered as they should be."""
        if cache is None:
            return 0
        past = int(cache.get_seq_length())
        block, steered = getattr(cache, _STEERED, ("", 0))  # copied with the cache
        if self._batch.rows is None and past > (steered if block == self._block else 0):
            raise ValueError(
                f"steer: past_key_values: {past} tokens of this cache were not computed inside the "
                "block, so their attention was not steered; leave the cache out, or steer with "
                'rows="generated"'
            )
        return past

    def _check_mask(self, mask: Any) -> None:
        """Refuse a call that does not hide the padding of the batch.

        A mask that somebody has made ready for the layers is not looked into.
        """
        known = self._batch.tokens
        if bool(known.all()) or not (mask is None or (isinstance(mask, Tensor) and mask.ndim == 2)):
            return
        if mask is not None:
            repeats, rest = divmod(len(mask), len(known))
            common = min(mask.shape[1], known.shape[1])
            wanted = known[:, :common].repeat_interleave(max(1, repeats), dim=0)
            if rest or torch.equal(mask[:, :common].cpu() != 0, wanted):
                return
        raise ValueError(
            "steer: attention_mask: the batch has padding, and a call does not hide it; call the "
            "model with the batch's own attention_mask"
        )

    def _check_positions(self, inputs: Mapping[str, Any], past: int, total: int) -> None:
        """Refuse a cache of this block that has lost its first tokens, as positions tell."""
        block, steered = getattr(inputs.get("past_key_values"), _STEERED, ("", 0))
        positions = inputs.get("position_ids")
        if block != self._block or past >= steered or not isinstance(positions, Tensor):
            return
        if positions.ndim == 2 and int(positions.max()) >= total:
            raise ValueError(
                f"steer: past_key_values: the cache holds {past} tokens and a call is at position "
                f"{int(positions.max())}, so its first tokens were dropped and the span's keys "
                "cannot be told; take a cache that keeps all keys"
            )

    def _check_tokens(self, ids: Tensor, past: int, repeats: int) -> None:
        """Refuse a call whose tokens are not those of the batch, as far as these go."""
        assert self._batch.input_ids is not None
        common = min(self._batch.keys.shape[1] - past, ids.shape[1])
        if common <= 0:
            return
        here = slice(past, past + common)
        known = self._batch.input_ids[:, here].repeat_interleave(repeats, dim=0)
        compared = self._batch.tokens[:, here].repeat_interleave(repeats, dim=0)
        wrong = (ids[:, :common].cpu() != known) & compared
        if bool(wrong.any()):
            row, at = wrong.nonzero()[0].tolist()
            raise ValueError(
                f"steer: row {row} of a call has another token at position {past + at} than the "
                "batch, so the span is not there; inside the block, call the model with the "
                "batch's own tokens in their places (score, which lays them out anew, and "
                "guidance_scale do not)"
            )


def _reaching(mask: Tensor, length: int, beyond: bool) -> Tensor:
    """Return ``mask [B, T]`` cut or continued with ``beyond`` to ``[B, length]``."""
    return nn.functional.pad(mask[:, :length], (0, max(0, length - mask.shape[1])), value=beyond)
