"""Register the attention implementation ``"sra_fast"``, by which transformers reaches the op.

Importing this module registers it. With a :class:`~sra_fast.measure.request.SpanRequest` among the
keyword arguments of the model call, each attention layer leaves its masses there; without one it is
an ordinary exact causal attention.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import causal_mask_function

from sra_fast.kernels.contract import SpanQuery
from sra_fast.measure import model_kinds
from sra_fast.measure.last_row import LastRowRequest
from sra_fast.measure.layer_steering import CallSteering
from sra_fast.measure.mask_reading import (
    MaskReading,
    UnreadableMaskError,
    counted_mask,
    no_mask,
    read_mask,
    written_mask,
)
from sra_fast.measure.plain_attention import plain_attention
from sra_fast.measure.request import ForwardStopped, SpanRequest
from sra_fast.measure.split_heads import SplitHeads
from sra_fast.measure.unserved import UnservedAttentionError
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


@torch.compiler.disable  # lengths and segments are read as numbers
def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    is_causal: bool | None = None,
    sra_request: SpanRequest | LastRowRequest | None = None,
    sra_steering: CallSteering | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Compute the attention of one layer for transformers, and record its masses if asked to.

    Args:
        module: the attention layer.
        query: ``[B, Hq, M, D]``.
        key: ``[B, Hkv, N, D]``.
        value: ``[B, Hkv, N, Dv]``.
        attention_mask: what :func:`attention_mask` made: ``[B, N]``, or None. The window is in it.
        dropout: must be 0.
        scaling: factor on ``q·k``.
        softcap: bound on the logits, as in :func:`sra_fast.span_attention`.
        s_aux: ``[Hq]``, the logits of attention sinks.
        is_causal: must be true, or None.
        sra_request: what to ask and where to record it; None for attention alone.
        sra_steering: the steering of the call; None for none.
        kwargs: further arguments of the layer; those that change the result are refused. A
            ``sliding_window`` does not: a model's mask says whether it acts on it.

    Returns:
        The output ``[B, M, Hq, Dv]`` and the masses ``[R, Hq, G]``, or None if the request has
        ``in_outputs=False`` or there is none.

    Raises:
        UnservedAttentionError: the layer asks for something that this attention cannot do exactly;
            it is named.
        ForwardStopped: this is the layer that the request stops after.
    """
    _refuse_unserved(module, dropout, is_causal, kwargs)
    given = query
    if torch.is_autocast_enabled(query.device.type):  # as autocast does in transformers' own
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    reading = _reading(query, key, attention_mask)
    if sra_request is not None and sra_request.heads is not None:
        _refuse_unlike_split(module, query, key, sra_request.heads)
    steer = None
    if sra_steering is not None:
        windowed = reading.window is not None or _keeps_last_keys(module, kwargs)
        steer = sra_steering.of_layer(module, query.shape[1], key.shape[2], windowed=windowed)
    if sra_request is None:
        _refuse_unseen_borders(reading, kwargs)
        out = plain_attention(query, key, value, reading, scaling, softcap, s_aux, steer)
        return out.transpose(1, 2).contiguous(), None
    if isinstance(sra_request, LastRowRequest):
        tensors = (given, query, key, value)
        layer = _layer_index(module)
        out = sra_request.attend(module, layer, *tensors, reading, scaling, softcap, s_aux, steer)
        return out.transpose(1, 2).contiguous(), None

    spans = _spans(module, query, key, reading, sra_request)
    rule: dict[str, Any] = {
        "scale": scaling,
        "window": reading.window,
        "softcap": softcap,
        "sinks": s_aux,
        "backend": sra_request.backend,
    }
    layer = _layer_index(module)
    if layer == sra_request.stop_after:
        if steer is not None:
            _refuse("score() of a steered model: it lays tokens out anew; use monitor() instead")
        last = span_mass(query, key, spans, **rule)
        sink_mass = _sink_mass(s_aux, last.lse)
        sra_request.record(module, given, last.mass, sink_mass, last.profile)
        raise ForwardStopped
    result = span_attention(
        query, key, value, spans, mass_grad=sra_request.mass_grad, steer=steer, **rule
    )
    lse = None if s_aux is None else _of_rows(result.lse, spans)
    sra_request.record(module, given, result.mass, _sink_mass(s_aux, lse), result.profile)
    if not sra_request.in_outputs:
        mass = None
    else:
        mass = result.mass if sra_request.heads is None else sra_request.masses[layer]
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

    It is the mask of transformers' flash attention, and says more: where the mask function cuts a
    row into pieces (packed sequences, chunks) or narrows it to a window, it carries both, as
    :mod:`sra_fast.measure.mask_reading` writes them. What it cannot express is refused.

    Returns:
        ``[B, N]``: bool (False: padding), or int64 (pieces and window, 0: padding), or None.

    Raises:
        UnservedAttentionError: a mask function that lets queries see later keys or is the user's
            own, or a static cache.
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
        return None if attention_mask is None else counted_mask(attention_mask)
    device = kwargs.get("device")
    try:
        written = written_mask(mask_function, batch_size, q_length, kv_length, kv_offset, device)
    except UnreadableMaskError as error:
        _refuse(str(error))
    if written is None:
        written = attention_mask
    elif attention_mask is not None:
        written = written * attention_mask
    return None if written is None else counted_mask(written)


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, attention_mask)


def _reading(query: Tensor, key: Tensor, mask: Tensor | None) -> MaskReading:
    """Return what the model's mask lets tokens see, also where there is none: all before them."""
    if mask is None:
        return no_mask(query.shape[0], key.shape[2])
    try:
        return read_mask(mask)
    except UnreadableMaskError as error:
        _refuse(str(error))


def _spans(
    module: nn.Module, query: Tensor, key: Tensor, reading: MaskReading, request: SpanRequest
) -> SpanQuery:
    """Return the request's query as this layer needs it: for the keys it holds, and in its chunks.

    Its segments may be finer than the mask's pieces, but never reach beyond them: padding or
    another sequence would be seen.
    """
    keys = key.shape[2]
    request.query.forget_if_written()
    if query.shape[2] < keys and request.query.packs():
        _refuse("packed rows with a cache")
    spans = request.query.last_keys(keys)
    if model_kinds.layer_type(module, getattr(module, "config", None)) == "chunked_attention":
        spans = spans.cut_at(reading.pieces)
    if not spans.derived(("within", *reading.pieces), lambda: _within(spans, reading)):
        _refuse("a request whose segments reach beyond the sequences of the attention mask")
    return spans


def _within(spans: SpanQuery, reading: MaskReading) -> bool:
    """Return whether each segment of the query lies inside one piece."""
    return all(
        any(b == row and first <= start and end <= last for row, first, last in reading.pieces)
        for b, start, end in spans.segments.tolist()
    )


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


def _refuse_unseen_borders(reading: MaskReading, kwargs: dict[str, Any]) -> None:
    """Refuse packed rows whose borders only flash attention's arguments tell, not the mask.

    Their sequences would see each other. Only the numbers of sequences are compared, so that
    nothing waits for the device.
    """
    borders = kwargs.get("cu_seq_lens_q")
    if borders is not None and len(borders) - 1 > len(reading.pieces):
        _refuse(
            f"`cu_seq_lens_q` with {len(borders) - 1} sequences where the mask has "
            f"{len(reading.pieces)} (give position_ids that start anew in each, no attention_mask, "
            "and use_cache=False)"
        )


def _refuse(what: str) -> NoReturn:
    raise UnservedAttentionError(f'the attention implementation "{NAME}" does not serve {what}')


def _refuse_unlike_split(module: nn.Module, query: Tensor, key: Tensor, heads: SplitHeads) -> None:
    """Refuse a layer whose queries are split over processes, and whose keys are not split alike."""
    shared = getattr(module, "num_key_value_groups", None)
    if shared is None or heads.held_here(query.shape[1]) is None:
        return
    if query.shape[1] != key.shape[1] * shared:
        _refuse(
            f"{query.shape[1]} query heads on {key.shape[1]} key heads in {type(module).__name__}, "
            f"where {shared} share one: split its queries, keys and values over processes alike"
        )


def _keeps_last_keys(module: nn.Module, kwargs: dict[str, Any]) -> bool:
    """Return whether no query of a layer sees keys that its cache may have dropped."""
    kind = model_kinds.layer_type(module, getattr(module, "config", None))
    limited = kind in ("sliding_attention", "chunked_attention")
    return limited or kwargs.get("sliding_window") is not None


def _layer_index(module: nn.Module) -> int:
    index = getattr(module, "layer_idx", None)
    if index is None:
        _refuse(f"{type(module).__name__}, which has no `layer_idx` to record its masses under")
    return int(index)


def _of_rows(lse: Tensor, spans: SpanQuery) -> Tensor:
    """Pick the rows asked for out of ``lse``: ``[B, Hq, M]`` -> ``[R, Hq]``."""
    m, spans = lse.shape[2], spans.to(lse.device)
    batch, row = spans.derived(("places", m), lambda: (spans.rows // m, spans.rows % m))
    return lse[batch, :, row]


def _sink_mass(sinks: Tensor | None, lse: Tensor | None) -> Tensor | None:
    """Return the sinks' share of each row, ``exp(sink − lse)``, ``[R, Hq]``; None without sinks."""
    if sinks is None or lse is None:
        return None
    return torch.exp(sinks.detach().to(lse.dtype) - lse)
