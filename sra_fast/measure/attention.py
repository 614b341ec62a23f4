"""Register the attention implementation ``"sra_fast"``, by which transformers reaches the op.

Importing this module registers it. With a :class:`~sra_fast.measure.request.SpanRequest` among the
keyword arguments of the model call, each attention layer leaves its masses there; without one it is
an ordinary exact causal attention.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import causal_mask_function

from sra_fast.kernels.contract import SpanQuery, segment_tensor
from sra_fast.measure.request import ForwardStopped, SpanRequest
from sra_fast.measure.sequences import numbered_runs
from sra_fast.op import span_attention, span_mass

NAME = "sra_fast"

# Arguments of an attention layer that change its result and are not served here.
_UNSERVED = (
    "position_bias",
    "attention_bias",
    "cache",
    "head_mask",
    "block_sequence_ids",
    "block_indices",
    "indices",
)
_NOT_GIVEN = object()  # differs from None, which a layer without a window passes
_Pieces = list[tuple[int, int, int]]


@torch.compiler.disable  # lengths and segments are read as numbers
def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: Any = _NOT_GIVEN,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    is_causal: bool | None = None,
    sra_request: SpanRequest | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Compute the attention of one layer for transformers, and record its masses if asked to.

    Args:
        module: the attention layer.
        query: ``[B, Hq, M, D]``.
        key: ``[B, Hkv, N, D]``.
        value: ``[B, Hkv, N, Dv]``.
        attention_mask: what :func:`attention_mask` made: ``[B, N]``, or None.
        dropout: must be 0.
        scaling: factor on ``q·k``.
        sliding_window: number of keys that a query sees; None for all up to its own; the window in
            the layer's config if the model does not pass one.
        softcap: bound on the logits, as in :func:`sra_fast.span_attention`.
        s_aux: ``[Hq]``, the logits of attention sinks.
        is_causal: must be true, or None.
        sra_request: what to ask and where to record it; None for attention alone.
        kwargs: further arguments of the layer; those that change the result are refused.

    Returns:
        The output ``[B, M, Hq, Dv]`` and the masses ``[R, Hq, G]``, or None if the request has
        ``in_outputs=False`` or there is none.

    Raises:
        ValueError: the layer asks for something that this attention cannot do exactly; it is named.
        ForwardStopped: this is the layer that the request stops after.
    """
    _refuse_unserved(module, dropout, is_causal, kwargs)
    if torch.is_autocast_enabled(query.device.type):  # as autocast does in transformers' own
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    rule: dict[str, Any] = {
        "scale": scaling,
        "window": _window(module) if sliding_window is _NOT_GIVEN else sliding_window,
        "softcap": softcap,
        "sinks": s_aux,
    }
    if sra_request is None:
        pieces = _pieces(query, key, attention_mask)
        result = span_attention(query, key, value, _asking_nothing(query, key, pieces), **rule)
        return result.out.transpose(1, 2).contiguous(), None

    pieces = sra_request.once_per_mask(attention_mask, lambda: _pieces(query, key, attention_mask))
    spans = _spans(module, query, key, pieces, sra_request)
    rule["backend"] = sra_request.backend
    layer = _layer_index(module)
    if layer == sra_request.stop_after:
        last = span_mass(query, key, spans, **rule)
        sra_request.record(layer, last.mass, _sink_mass(s_aux, last.lse))
        raise ForwardStopped
    result = span_attention(query, key, value, spans, mass_grad=sra_request.mass_grad, **rule)
    lse = None if s_aux is None else _of_rows(result.lse, spans)
    sra_request.record(layer, result.mass, _sink_mass(s_aux, lse))
    mass = result.mass if sra_request.in_outputs else None
    return result.out.transpose(1, 2).contiguous(), mass


@torch.compiler.disable
def attention_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int = 0,
    kv_offset: int = 0,
    mask_function: Callable[..., Tensor] = causal_mask_function,
    attention_mask: Tensor | None = None,
    use_vmap: bool = False,
    **kwargs: Any,
) -> Tensor | None:
    """Make the mask that this attention takes: 2-D, or None if nothing is padded.

    It is the mask of transformers' flash attention. Windows reach the attention as an argument.
    Packed rows and chunks are found by asking the mask function whether each token sees the one
    before it; the 2-D mask then numbers the pieces of a row from 1. What a 2-D mask cannot express
    is refused.

    Returns:
        ``[B, N]``: bool (False: padding), or int32 (a number per piece, 0: padding), or None.

    Raises:
        ValueError: a mask function that lets queries see later keys or is the user's own, or a
            static cache.
    """
    if use_vmap:
        _refuse("a custom `or_mask_function` or `and_mask_function`")
    if int(q_offset) + q_length != kv_offset + kv_length:
        _refuse("a StaticCache, whose unused tail breaks the alignment of queries and keys")
    if attention_mask is not None:
        attention_mask = attention_mask[:, -kv_length:]
        if attention_mask.shape[1] == kv_length and bool(attention_mask.all()):
            attention_mask = None
    if mask_function is causal_mask_function:
        return attention_mask
    rows = torch.arange(batch_size, device=kwargs.get("device"))[:, None]
    keys = torch.arange(kv_length - 1, device=rows.device) + kv_offset
    queries = keys[kv_length - q_length :]
    if bool(mask_function(rows, 0, queries, queries + 1).any()):
        _refuse("a mask in which queries see later keys (bidirectional or block-wise)")
    breaks = ~mask_function(rows, 0, keys + 1, keys).expand(batch_size, -1)
    if not bool(breaks.any()):
        return attention_mask
    pieces = torch.nn.functional.pad(breaks.cumsum(1, dtype=torch.int32), (1, 0)) + 1
    return pieces if attention_mask is None else pieces * attention_mask


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, attention_mask)


def _pieces(query: Tensor, key: Tensor, mask: Tensor | None) -> _Pieces:
    """Return ``(b, start, end)`` of the key ranges in which the model's mask lets tokens see."""
    if mask is None:
        return [(b, 0, key.shape[2]) for b in range(query.shape[0])]
    if mask.ndim != 2:
        _refuse(f"a ready-made {mask.ndim}-D attention mask")
    pieces = numbered_runs(mask.to(torch.int32))
    for (b, _, end), (next_b, start, _) in itertools.pairwise(pieces):
        if b == next_b and end != start:
            _refuse("an attention mask with a hole inside a row")
    return pieces


def _asking_nothing(query: Tensor, key: Tensor, pieces: _Pieces) -> SpanQuery:
    """Make a query that has no rows and only says which sequences there are."""
    shape, device = (query.shape[0], key.shape[2]), query.device
    return SpanQuery(
        torch.zeros(shape, dtype=torch.int32, device=device),
        torch.zeros(0, dtype=torch.int64, device=device),
        segment_tensor(pieces, device),
        (),
    )


def _spans(
    module: nn.Module, query: Tensor, key: Tensor, pieces: _Pieces, request: SpanRequest
) -> SpanQuery:
    """Return the request's query as this layer needs it: in its chunks, and for the keys it holds.

    Its segments may be finer than the mask's pieces, but never reach beyond them: padding or
    another sequence would be seen.
    """
    keys = key.shape[2]
    if query.shape[2] < keys and request.query.packs():
        _refuse("packed rows with a cache")
    chunk = _chunk_size(module)
    spans = request.query
    if chunk is not None:
        spans = spans.chunked(chunk)
        # Chunks count from a sequence's start; some versions' masks wrongly count from the row's.
        pieces = _joined(pieces)
    spans = spans.last_keys(keys)
    if not spans.derived(("within", *pieces), lambda: _within(spans, pieces)):
        _refuse("a request whose segments reach beyond the sequences of the attention mask")
    return spans


def _within(spans: SpanQuery, pieces: _Pieces) -> bool:
    """Return whether each segment of the query lies inside one piece."""
    return all(
        any(b == row and first <= start and end <= last for row, first, last in pieces)
        for b, start, end in spans.segments.tolist()
    )


def _joined(pieces: _Pieces) -> _Pieces:
    """Join the pieces of each row into one, from the first one's start to the last one's end."""
    rows: dict[int, tuple[int, int]] = {}
    for b, start, end in pieces:
        rows[b] = (min(start, rows.get(b, (start, end))[0]), end)
    return [(b, start, end) for b, (start, end) in rows.items()]


def _refuse_unserved(
    module: nn.Module, dropout: float, is_causal: bool | None, kwargs: dict[str, Any]
) -> None:
    causal = is_causal if is_causal is not None else getattr(module, "is_causal", True)
    if not causal:
        _refuse(
            f"attention that is not causal, in {type(module).__name__} (on a multimodal model set "
            'only the text part: set_attn_implementation({"text_config": "sra_fast"}))'
        )
    if dropout > 0.0:
        _refuse("attention dropout (set it to 0 in the config, or call model.eval())")
    for name in _UNSERVED:
        if kwargs.get(name) is not None:
            _refuse(f"`{name}` in {type(module).__name__}")


def _refuse(what: str) -> NoReturn:
    raise ValueError(f'the attention implementation "{NAME}" does not serve {what}')


def _layer_index(module: nn.Module) -> int:
    index = getattr(module, "layer_idx", None)
    if index is None:
        _refuse(f"{type(module).__name__}, which has no `layer_idx` to record its masses under")
    return int(index)


def _layer_type(module: nn.Module) -> str | None:
    types = getattr(getattr(module, "config", None), "layer_types", None)
    index = getattr(module, "layer_idx", None)
    return types[index] if types and index is not None and index < len(types) else None


def _chunk_size(module: nn.Module) -> int | None:
    """Return the chunk size of a chunked layer, which only its config tells, or None."""
    if _layer_type(module) != "chunked_attention":
        return None
    config: Any = module.config
    return int(config.attention_chunk_size)


def _window(module: nn.Module) -> int | None:
    """Return the window of a layer whose model does not hand one to the attention function."""
    if _layer_type(module) not in (None, "sliding_attention"):
        return None
    return getattr(getattr(module, "config", None), "sliding_window", None)


def _of_rows(lse: Tensor, spans: SpanQuery) -> Tensor:
    """Pick the rows asked for out of ``lse``: ``[B, Hq, M]`` -> ``[R, Hq]``."""
    return lse.transpose(1, 2).flatten(0, 1)[spans.to(lse.device).rows]


def _sink_mass(sinks: Tensor | None, lse: Tensor | None) -> Tensor | None:
    """Return the sinks' share of each row, ``exp(sink − lse)``, ``[R, Hq]``; None without sinks."""
    if sinks is None or lse is None:
        return None
    return torch.exp(sinks.detach().to(lse.dtype) - lse)
