"""Ask each attention layer of one step of ``generate`` for the attention of its last row.

The last row of a call predicts the next token, and is the only one asked for. It sees every key
that is not hidden, so it needs no plan, whatever the step: with ``s_j = scale · q·k_j``, capped,

    P_j = exp(s_j) / (Σ_j exp s_j + exp sink)
    mass_g = Σ_{j in span g} P_j                out = Σ_j P_j v_j

In a step of one token that softmax gives out and mass together. Where the call has more rows (the
prompt), or computes in half precision, the output is that of a call that asks for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from weakref import ref

import torch
from torch import Tensor, nn

from sra_fast.kernels.steering import Steering
from sra_fast.measure import model_kinds
from sra_fast.measure.mask_reading import MaskReading
from sra_fast.measure.plain_attention import plain_attention
from sra_fast.measure.row_weights import row_weights, weights_among_others
from sra_fast.measure.split_heads import SplitHeads
from sra_fast.measure.unserved import UnservedModelError
from sra_fast.names import ProfileKind


class PromptKeys:
    """The labelled keys of the prompts that are generated from, on any device.

    Args:
        labels: ``[S, T]`` int32, bit g set at the tokens of key set g.
        starts: the first token of each of the S sequences; padding is before it.
        sets: G, the number of key sets.
        first_span: where the first span lies in each sequence, in words.
    """

    def __init__(self, labels: Tensor, starts: tuple[int, ...], sets: int, first_span: str) -> None:
        self.starts = starts
        self.length = labels.shape[1]
        self.first_span = first_span
        self._bits = ((labels[..., None] >> torch.arange(sets, dtype=torch.int32)) & 1).bool()
        self._on: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def bits(self, like: Tensor) -> Tensor:
        """Return which sets each token is in, ``[S, T, G]`` of the device and dtype of a tensor."""
        key = (like.device, like.dtype)
        if key not in self._on:
            self._on[key] = self._bits.to(device=like.device, dtype=like.dtype)
        return self._on[key]


class LastRowRequest:
    """A request for the last row of one forward call of ``generate``, with its answers.

    It travels as a :class:`~sra_fast.measure.request.SpanRequest` does.

    Args:
        prompts: the labelled keys.
        history: the number of tokens up to the last row, padding and cached ones included.
        profile: the kind of profile to keep of the row; None for none.
        sliding: for each layer's index, whether its cache forgets what lies outside its window.
        heads: how the heads are split over processes; None if they are all here.

    Attributes:
        masses: ``{layer_idx: [S, Hq, G]}``.
        sink_masses: ``{layer_idx: [S, Hq]}``, of layers with sinks only.
        profiles: ``{layer_idx: [S, Hq, N]}`` of kind "heads", ``{layer_idx: [S, N]}`` of "layers",
            and of "mean" their sum over layers alone, under -1.
    """

    def __init__(
        self,
        prompts: PromptKeys,
        history: int,
        profile: ProfileKind | None = None,
        sliding: Sequence[bool] = (),
        heads: SplitHeads | None = None,
    ) -> None:
        self.prompts = prompts
        self.history = history
        self.profile = profile
        self.sliding = sliding
        self.heads = heads
        self.masses: dict[int, Tensor] = {}
        self.sink_masses: dict[int, Tensor] = {}
        self.profiles: dict[int, Tensor] = {}
        self._queries: dict[int, ref[Tensor]] = {}
        self._hidden: dict[tuple[int, int, torch.device], tuple[MaskReading, Tensor | None]] = {}

    def attend(
        self,
        module: nn.Module,
        layer: int,
        given: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        reading: MaskReading,
        scale: float | None,
        softcap: float | None,
        sinks: Tensor | None,
        steer: Steering | None = None,
    ) -> Tensor:
        """Return a layer's attention ``[B, Hq, M, Dv]``, and keep what is asked of its last row.

        Args:
            module: the attention layer.
            layer: its ``layer_idx``.
            given: its queries before any cast; a layer may attend twice with the same ones.
            query: ``[B, Hq, M, D]``.
            key: ``[B, Hkv, N, D]``.
            value: ``[B, Hkv, N, Dv]``.
            reading: what the mask lets tokens see.
            scale: factor on ``q·k``; ``1/√D`` if None.
            softcap: bound on the logits.
            sinks: ``[Hq]``, the logits of attention sinks.
            steer: the steering of the layer; None for none. What is kept is the attention after it.

        Raises:
            ValueError: the layer does not see the batch's prompts: others, or not all of them.
            UnservedModelError: the layer attends a second time in the call.
        """
        batch, heads, m, width = query.shape
        hidden = self._seen(module, layer, key, reading)
        factor = width**-0.5 if scale is None else scale
        if steer is not None and steer.pooled_share is not None and m > 1:
            out, weights = weights_among_others(
                query, key, value, reading, factor, softcap, sinks, steer
            )
            self._keep(module, layer, given, weights, key.shape[2], sinks is not None)
            return out
        row = query if m == 1 else query[:, :, -1:]
        weights = row_weights(row, key, hidden, factor, softcap, sinks, steer)
        if m == 1 and weights.dtype == value.dtype:
            groups, n, out_width = value.shape[1:]
            grouped = weights[..., :n].reshape(batch * groups, heads // groups, n)
            out = torch.bmm(grouped, value.reshape(batch * groups, n, out_width))
            out = out.view(batch, heads, 1, out_width)
        else:
            out = plain_attention(query, key, value, reading, scale, softcap, sinks, steer)
        self._keep(module, layer, given, weights, key.shape[2], sinks is not None)
        return out

    def _keep(
        self, module: nn.Module, layer: int, given: Tensor, weights: Tensor, n: int, sink: bool
    ) -> None:
        if layer in self.masses:
            if self._queries[layer]() is given:
                return
            raise UnservedModelError(
                f"{type(module).__name__} of layer {layer} attends more than once in a step, so "
                "its masses cannot be told apart"
            )
        self._queries[layer] = ref(given)
        if self.heads is not None:
            weights = self.heads.gathered(weights)
        unseen = self.history - n
        of_prompt = self.prompts.bits(weights)[:, unseen:]
        device = weights.device.type
        cast = torch.is_autocast_enabled(device)
        with torch.autocast(device, enabled=False) if cast else nullcontext():  # stay in float32
            self.masses[layer] = torch.bmm(weights[..., : of_prompt.shape[1]], of_prompt)
        if sink:
            self.sink_masses[layer] = weights[..., n]
        if self.profile is None:
            return
        kept = weights[..., :n] if self.profile == "heads" else weights[..., :n].mean(dim=1)
        if unseen:
            kept = nn.functional.pad(kept, (unseen, 0))
        if self.profile == "mean":
            layer = -1
            if layer in self.profiles:
                kept = kept + self.profiles[layer].to(kept.device)
        self.profiles[layer] = kept

    def _seen(
        self, module: nn.Module, layer: int, key: Tensor, reading: MaskReading
    ) -> Tensor | None:
        """Return what the last rows do not see, ``[B, 1, N]`` bool; None if they see every key."""
        batch, _, n, _ = key.shape
        place = (id(reading), n, key.device)
        if place not in self._hidden:
            self._hidden[place] = (reading, self._checked(module, layer, batch, n, reading, key))
        return self._hidden[place][1]

    def _checked(
        self,
        module: nn.Module,
        layer: int,
        batch: int,
        n: int,
        reading: MaskReading,
        key: Tensor,
    ) -> Tensor | None:
        unseen = self.history - n
        config = getattr(module, "config", None)
        chunked = model_kinds.layer_type(module, config) == "chunked_attention"
        forgets = chunked or (layer < len(self.sliding) and self.sliding[layer])
        if unseen < 0 or (unseen > 0 and not forgets):
            raise ValueError(
                f"layer {layer} holds {n} keys where prompt and reply have {self.history} tokens: "
                "a cache was cut, or holds other tokens than the batch's "
                f"({self.prompts.first_span} would not be where it is marked); give a batch of all "
                "the tokens, and a cache of the first of them"
            )
        starts = reading.first_keys(batch, n)
        window = 0 if reading.window is None else n - reading.window
        expected = tuple(max(start - unseen, window, 0) for start in self.prompts.starts)
        if batch != len(expected):
            raise ValueError(
                f"a pass of {batch} rows where {len(expected)} sequences are generated; only the "
                "passes of one generate() are recorded"
            )
        if starts is None:
            raise ValueError("the last token of a prompt is padding; pad prompts on the left")
        if starts != expected and not chunked:
            raise ValueError(
                f"the attention mask lets layer {layer} see tokens from {list(starts)} on, and the "
                f"batch's sequences begin at {list(expected)}; give generate() the batch's own "
                "attention_mask, or ones if it has none"
            )
        if not any(starts):
            return None
        with torch.inference_mode(False):
            first = torch.tensor(starts, device=key.device)
            return (torch.arange(n, device=key.device) < first[:, None])[:, None]
