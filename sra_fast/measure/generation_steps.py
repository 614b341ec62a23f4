"""Record the forward passes of one call of ``generate``: the attention of each step's last row.

Hooks on the decoder hand a request to every pass and collect its answer. A pass's last row predicts
the next token; the row of the last new token itself exists only if that token is fed to the model,
which ``generate`` leaves undone and :meth:`GenerationSteps.feed` does, on a cache that is dropped.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sra_fast.measure.generation_modes import UnservedGenerationError
from sra_fast.measure.last_row import LastRowRequest, PromptKeys
from sra_fast.measure.reduction import UnansweredRequestError
from sra_fast.measure.request import REQUEST
from sra_fast.measure.served import ServedModel
from sra_fast.names import ProfileKind

_CACHES = ("past_key_values", "cache_params", "state", "mems", "past_buckets_states")
_LAST_REPEATED = ("token_type_ids",)
_ZERO_ADDED = ("mm_token_type_ids", "moe_mm_token_type_ids")
_MADE_ANEW = ("input_ids", "inputs_embeds", "attention_mask", "position_ids", "return_dict")


class GenerationSteps:
    """The steps of one call of ``generate``.

    Args:
        served: the model.
        prompts: the labelled keys of its sequences.
        profile: the kind of profile to keep of each step's row; None for none.
        check: called before each pass; raises if it must not run.

    Attributes:
        layers: the ``layer_idx`` of the L layers that answer, ascending.
        masses: the masses of each step's row, ``[S, L, H, G]``.
        sinks: the sinks' share of each step's row, ``{layer_idx: [S, H]}`` for layers with sinks.
        profiles: the attention of each step's row on every token, ``[S, N]``, ``[S, L, N]`` or
            ``[S, L, H, N]``; empty without a profile.
    """

    def __init__(
        self,
        served: ServedModel,
        prompts: PromptKeys,
        profile: ProfileKind | None,
        check: Callable[[], None],
    ) -> None:
        self.layers: tuple[int, ...] = ()
        self.masses: list[Tensor] = []
        self.sinks: list[dict[int, Tensor]] = []
        self.profiles: list[Tensor] = []
        self._served = served
        self._prompts = prompts
        self._profile = profile
        self._check = check
        self._request: LastRowRequest | None = None
        self._call: dict[str, Any] = {}
        self._cache: tuple[str, Any] | None = None
        self._paused = False
        self._thread: int | None = None
        self._ended = 0

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record every pass of the model that this thread makes inside the block."""
        whole, decoder = self._served.whole, self._served.decoder
        self._thread = threading.get_ident()
        hooks = [
            whole.register_forward_pre_hook(self._enter_whole, with_kwargs=True),
            whole.register_forward_hook(self._leave_whole),
            decoder.register_forward_pre_hook(self._enter, with_kwargs=True),
            decoder.register_forward_hook(self._leave),
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            self._request = None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave passes of the model inside the block alone: they are no steps."""
        self._paused = True
        try:
            yield
        finally:
            self._paused = False

    def end_step(self) -> None:
        """Let the next pass be that of another step: the new token of this one is known."""
        self._ended += 1

    @property
    def _not_ours(self) -> bool:
        """True while passes of the model are not steps of the generation."""
        return self._paused or threading.get_ident() != self._thread

    @torch.no_grad()
    def feed(self, ids: Tensor, keep_cache: bool) -> None:
        """Run one more pass, over the last token of each sequence, and record its row.

        Args:
            ids: ``[S, T + n]``, all tokens, where the model has seen all but the last.
            keep_cache: whether the cache must stay as it is; else it is used up.
        """
        call, whole = self._call, self._served.whole
        rest = {key: value for key, value in call.items() if key not in (*_MADE_ANEW, *_CACHES)}
        for name in (*_LAST_REPEATED, *_ZERO_ADDED):
            if isinstance(value := rest.get(name), Tensor):
                last = value[..., -1:]
                new = last if name in _LAST_REPEATED else torch.zeros_like(last)
                rest[name] = torch.cat([value, new], dim=-1)
        mask, positions = call.get("attention_mask"), call.get("position_ids")
        if isinstance(mask, Tensor):
            rest["attention_mask"] = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=-1)
        if positions is not None:
            rest["position_ids"] = torch.cat([positions, positions[..., -1:] + 1], dim=-1)
        length = None
        if self._cache is not None:
            name, cache = self._cache
            rest[name] = copy.deepcopy(cache) if keep_cache else cache
            length = 1
        inputs = whole.prepare_inputs_for_generation(ids, next_sequence_length=length, **rest)
        whole(**inputs, return_dict=True)
        self._call, self._cache = {}, None

    def _enter_whole(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        if not self._not_ours:
            self._check()
            self._call = kwargs

    def _leave_whole(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._not_ours:
            return
        for holder in (output, self._call):
            for name in _CACHES:
                found = holder.get(name) if hasattr(holder, "get") else None
                if found is not None:
                    self._cache = (name, found)
                    return

    def _enter(
        self, module: nn.Module, args: Any, kwargs: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]] | None:
        if self._not_ours:
            return None
        if len(self.masses) > self._ended:
            raise UnservedGenerationError(
                f"step {self._ended}: a second forward pass, by a logits processor, a streamer or "
                "a stopping criterion that calls the model, is not recorded; call it in on_token"
            )
        history = self._prompts.length + len(self.masses)
        sliding = getattr(kwargs.get("past_key_values"), "is_sliding", ())
        heads = self._served.heads
        self._request = LastRowRequest(self._prompts, history, self._profile, sliding, heads)
        return args, {**kwargs, REQUEST: self._request}

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._not_ours:
            return
        request, self._request = self._request, None
        if request is None:
            return
        layers = tuple(sorted(request.masses))
        missing = sorted(set(self._served.attention_layers) - set(layers))
        if missing or not layers or (self.layers and layers != self.layers):
            raise UnansweredRequestError(
                f"no mass came back from layers {missing or 'at all'} in step {len(self.masses)}: "
                "the model does not pass the request on to every attention layer"
            )
        self.layers = layers
        self.masses.append(_stacked(request.masses, layers))
        self.sinks.append(request.sink_masses)
        if self._profile == "mean":
            self.profiles.append(request.profiles[-1] / len(layers))
        elif self._profile is not None:
            self.profiles.append(_stacked(request.profiles, layers))


def _stacked(by_layer: dict[int, Tensor], layers: tuple[int, ...]) -> Tensor:
    """Return what layers brought, ``[S, L, …]``, on the device of the first."""
    device = by_layer[layers[0]].device
    return torch.stack([by_layer[layer].to(device) for layer in layers], dim=1)
