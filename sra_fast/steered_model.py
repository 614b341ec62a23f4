"""Steer a model: raise or lower its attention on a marked span, in its own calls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Integral
from typing import Any

import torch
from torch import nn

from sra_fast.measure.batch_keys import read_content
from sra_fast.measure.continuous_batching import without_continuous_batching
from sra_fast.measure.layerwise.layer_weights import refuse_weights_in_files
from sra_fast.measure.scorable import check_token_ids
from sra_fast.measure.self_check import self_check
from sra_fast.measure.served import ServedModel, serve, switched
from sra_fast.measure.spans import BatchRowError, MarkedBatch
from sra_fast.measure.steered_calls import SteeredBatch, SteeredModel
from sra_fast.measure.strengths.choice import chosen_strength
from sra_fast.measure.strengths.strength import Strength
from sra_fast.measure.trial import tried
from sra_fast.measure.watching import unwrapped
from sra_fast.names import SteeredTokens
from sra_fast.tools.busy_threads import threads_inside


@contextmanager
def steer(
    model: nn.Module,
    batch: Mapping[str, Any],
    *,
    bias: float | None = None,
    share: float | None = None,
    knock_out: bool = False,
    exact: bool = False,
    instaboost: float | None = None,
    spotlight: float | None = None,
    pasta: float | None = None,
    span: str | None = None,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | Mapping[int, Sequence[int]] | None = None,
    rows: SteeredTokens = "all",
) -> Iterator[None]:
    """Steer the attention of ``model`` on a span of ``batch``, in every call inside the block.

    Inside, call the model or ``model.generate`` with the batch's own tokens: alone, in pieces with
    a growing cache, or with a reply after them. Rows may be repeated (``num_return_sequences``).
    The model attends by "sra_fast" and refuses what that does (static caches, attention dropout),
    and it has no gradients there: call it under ``torch.no_grad()``. What
    :func:`sra_fast.monitor` records inside is the attention after steering, on any span.

    With a row's keys split into the span S and the rest R (sinks are part of it), and β for the
    bias, the logits of S grow by β, after the softcap; ``share=s`` makes β of each row and head

        β = logit(s) + lse_R − lse_S        (if that is above 0, or exact)

    Three published methods have arguments of their own: ``instaboost``, ``spotlight``, ``pasta``.
    The page about steering says where they differ from their authors' code.

    Args:
        model: a model that :func:`sra_fast.score` takes.
        batch: the prompts with their span, as :func:`sra_fast.score` takes them; replies need not
            be marked.
        bias: β, of any sign, from −100 to 100.
        share: the share of the attention that the span gets at least, between 0 and 1.
        knock_out: whether nobody attends to the span.
        exact: whether rows that give the span more than ``share`` are lowered to it.
        instaboost: M, above 0, by which the attention on the span is multiplied before it is made
            to sum to 1 again (InstABoost, arXiv 2506.13734): β = ln M.
        spotlight: ψ, between 0 and 1 (Spotlight, arXiv 2505.12025): in each layer and call, β =
            ln(ψ / ψ̄) where ψ̄, the mean share of the span over the steered heads and rows of a
            sequence, is below ψ; else 0. No layer that attends in chunks can be among ``layers``.
        pasta: α, above 0 and at most 1, by which the attention on the prompt's *other* tokens is
            multiplied (PASTA, arXiv 2311.02262): β = log α on these; tokens of the reply are left
            alone. The method is one for ``heads`` that were found to help; without them it steers
            all.
        span: the name of the span in ``span_masks``; None if there is one alone.
        layers: ``layer_idx`` of the layers that are steered; None for all.
        heads: the heads that are steered, in each of the layers or by ``layer_idx``; None for all.
        rows: whose attention is steered: that of ``"all"`` tokens, the prompt's own included, or of
            those that predict a ``"generated"`` token: each from the prompt's last one on, and each
            before a token of a marked reply.

    Raises:
        TypeError: a strength, a layer or a head that is no number.
        ValueError: not exactly one strength, or one that cannot be; layers, heads or a span that
            are not there; a batch that cannot be read, or marks several replies in a sequence where
            ``pasta`` is asked for; a model that is not served, or steered already. In a call: other
            tokens than the batch's, a cache that was not filled inside the block (unless
            ``rows="generated"``), a cache that dropped steered keys, or a gradient that is wanted.
            The model is copied inside the block.
        RuntimeError: the block was left while another thread still ran the model.
    """
    for name, value in (("knock_out", knock_out), ("exact", exact)):
        if not isinstance(value, bool):
            raise TypeError(f"steer: {name}: expected True or False, got {value!r}")
    strength = chosen_strength(
        {
            "bias": bias,
            "share": share,
            "knock_out": knock_out,
            "instaboost": instaboost,
            "spotlight": spotlight,
            "pasta": pasta,
        },
        exact,
    )
    if rows not in ("all", "generated"):
        raise ValueError(f'steer: rows: expected "all" or "generated", got {rows!r}')
    served = serve(unwrapped(model))
    refuse_weights_in_files(served.decoder, served.name, "steer")
    served = tried(served)  # now: inside the block it would be steered
    self_check(served, "auto")
    content = read_content(served, batch, unanswered=True)
    if content.only_tokens:
        check_token_ids(served, content.marked, content.tokens["input_ids"])
    steered = _steered_batch(content.marked, span, content.tokens, rows, strength)
    hooks = SteeredModel(served, steered, strength, _heads(served, layers, heads))
    try:
        with switched(served), without_continuous_batching(served.whole, "steered"):
            yield
    finally:
        hooks.remove()
    busy = threads_inside(served.whole)
    if busy:
        raise RuntimeError(
            f"steer: the block was left while the thread {busy[0]!r} was still running the model, "
            "so what it generates is steered in its beginning only; wait for it inside the block"
        )


def _heads(
    served: ServedModel,
    layers: Sequence[int] | None,
    heads: Sequence[int] | Mapping[int, Sequence[int]] | None,
) -> dict[int, tuple[int, ...] | None]:
    """Return the heads that are steered by layer; None in their place for all."""
    if not served.attention_layers:
        raise ValueError(f"steer: it is not known which layers of {served.name} attend")
    if isinstance(heads, Mapping):
        by_layer = zip(_numbers("heads", heads), heads.values(), strict=True)
        heads = {layer: _numbers("heads", some) for layer, some in by_layer}
    elif heads is not None:
        heads = _numbers("heads", heads)
    if layers is None:
        layers = tuple(heads) if isinstance(heads, Mapping) else served.attention_layers
    layers = _numbers("layers", layers)
    unknown = [layer for layer in layers if layer not in served.attention_layers]
    if unknown or not layers:
        raise ValueError(
            f"steer: layers: expected some of the attention layers {list(served.attention_layers)} "
            f"of {served.name}, got {list(layers)}"
        )
    if not isinstance(heads, Mapping):
        heads = {layer: heads for layer in layers} if heads is not None else {}
    elif set(heads) != set(layers):
        raise ValueError(
            f"steer: heads: expected those of the layers {sorted(layers)}, got {sorted(heads)}"
        )
    count = getattr(served.config, "num_attention_heads", None)
    for layer, chosen in heads.items():
        if not chosen or any(head < 0 or (count and head >= count) for head in chosen):
            raise ValueError(
                f"steer: heads: layer {layer} has the heads 0 to {count - 1 if count else '…'}, "
                f"got {list(chosen)}"
            )
    return {layer: tuple(heads[layer]) if layer in heads else None for layer in layers}


def _numbers(name: str, given: Any) -> tuple[int, ...]:
    """Return the numbers of layers or heads, which a tensor or an iterator may hold.

    Raises:
        TypeError: they are no whole numbers, such as a mask of bools.
    """
    try:
        found = tuple(given.tolist() if hasattr(given, "tolist") else given)
    except TypeError:
        found = (None,)
    if any(isinstance(one, bool) or not isinstance(one, Integral) for one in found):
        raise TypeError(f"steer: {name}: expected a list of whole numbers, got {given!r}")
    return tuple(int(one) for one in found)


def _steered_batch(
    marked: MarkedBatch,
    name: str | None,
    tokens: Mapping[str, Any],
    rows: SteeredTokens,
    strength: Strength,
) -> SteeredBatch:
    """Return the batch with the keys that a strength steers for a span, and the steered rows."""
    if name is None and len(marked.names) > 1:
        raise ValueError(f"steer: span: the batch has several, {list(marked.names)}; name one")
    if name is not None and name not in marked.names:
        raise ValueError(f"steer: span: expected one of {list(marked.names)}, got {name!r}")
    index = 0 if name is None else marked.names.index(name)
    keys = torch.zeros(marked.shape, dtype=torch.bool)
    real, predicting = torch.zeros_like(keys), torch.zeros_like(keys)
    for sequence in marked.sequences:
        here = (sequence.row, slice(sequence.start, sequence.end))
        span = sequence.spans[index]
        if not bool(span.any()):
            raise BatchRowError(sequence.row, f"no token is marked as {marked.names[index]!r}")
        keys[here] = strength.keys(sequence, span)
        real[here] = True
        predicting[sequence.row, sequence.end - 1] = True
        for response in sequence.responses:
            predicting[sequence.row, sequence.start + response.tokens - 1] = True
    ids = tokens.get("input_ids")
    return SteeredBatch(
        keys, real, None if ids is None else ids.cpu(), predicting if rows == "generated" else None
    )
