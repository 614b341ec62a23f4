"""Take attention from PyTorch's own ``varlen_attn``, which is FlashAttention 2.

``torch.nn.attention.varlen.varlen_attn`` takes sequences laid one after another. What it would
refuse or get wrong is settled before it is called:

- causal and windows are aligned bottom-right: of m queries and n keys, query i stands at key
  ``i + n − m``, as a segment's queries do; a window counts the keys before the query's own;
- rows in no sequence stay unwritten, so they are left out and filled in afterwards;
- key and value width must agree and be a multiple of 8, so all are padded with zeros (the scale is
  explicit); it reads 16 bytes at a time, unchecked, so tensors that are not aligned are copied;
- it drops the gradient of its logsumexp in silence, so that one is detached.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..merging import Attended
from . import devices
from .call import AttentionCall, Provider, expect_lse
from .flash_packages import current_implementation, parameters
from .packed_tokens import PackedAxis, next_width, nothing_seen, pack, packed_axes, unpack

WIDEST = 256  # the largest width of a head that the kernel takes
OLDEST_MAJOR = 8


def serves(call: AttentionCall) -> str | None:
    """Return why this kernel cannot serve a call, or None if it can."""
    reason = devices.not_nvidia(call.q.device) or devices.not_half(call.q.dtype)
    if reason is not None:
        return reason
    if call.rule.softcap is not None:
        return "it has no softcap"
    if call.rule.scale <= 0:
        return f"it takes positive scales only, not {call.rule.scale}"
    if call.width > WIDEST:
        return f"it takes heads up to {WIDEST} wide, not {call.width}"
    major, minor = devices.capability(call.q.device)
    if major < OLDEST_MAJOR:
        return f"it needs compute capability {OLDEST_MAJOR}.0, not {major}.{minor}"
    return missing()


def missing() -> str | None:
    """Return what this torch lacks for the kernel, or which other kernel stands in its place."""
    if not torch.backends.cuda.is_flash_attention_available():
        return "this build of torch comes without flash attention"
    other = current_implementation()
    return lacking() if other is None else f"the user activated {other} in its place"


def attend(call: AttentionCall) -> Attended:
    """Return the attention of all sequences from one call, which :func:`serves` has let through.

    Returns ``out [B, Hq, M, Dv]`` in v's dtype, differentiable, ``[B, M, Hq, Dv]`` in memory, and
    ``lse [B, Hq, M]`` float32, detached. Queries in no segment have out 0 and lse −inf.
    """
    axes = packed_axes(call)
    if axes is None:
        return nothing_seen(call)
    queries, keys = axes
    width = next_width(call.width)
    packed = (pack(call.q, queries, width), pack(call.k, keys, width), pack(call.v, keys, width))
    out, lse = _run(*packed, queries, keys, call)  # [T, Hq, width], [Hq, T]
    return unpack(out, lse, queries, call)


def _run(
    q: Tensor, k: Tensor, v: Tensor, queries: PackedAxis, keys: PackedAxis, call: AttentionCall
) -> Attended:
    """Return ``out [T, Hq, width]`` and ``lse [Hq, T]`` of one call of the kernel."""
    from torch.nn.attention import varlen  # imported late: it registers operators, which takes time

    window = call.rule.window
    left = -1 if window is None or window >= keys.longest else window - 1
    # torch 2.11 takes fewer key heads than query heads unasked; later ones want to be told.
    known = parameters(varlen.varlen_attn)
    grouped: dict[str, Any] = {"enable_gqa": True} if "enable_gqa" in known else {}
    out, lse = varlen.varlen_attn(
        *(q, k, v, queries.starts, keys.starts, queries.longest, keys.longest),
        return_aux=varlen.AuxRequest(lse=True),
        scale=call.rule.scale,
        window_size=(left, 0),
        **grouped,
    )
    # The documentation of 2.11 to 2.13 says [T, Hq].
    expect_lse(lse, (q.shape[1], q.shape[0]), f"varlen_attn of torch {torch.__version__}, [Hq, T]")
    return out, lse


def lacking() -> str | None:
    """Return which arguments this torch's kernel lacks, or None if it has all of them."""
    from torch.nn.attention import varlen

    lacking = {"return_aux", "scale", "window_size"} - parameters(varlen.varlen_attn)
    if lacking:
        return f"varlen_attn of torch {torch.__version__} has no {', '.join(sorted(lacking))}"
    return None


PROVIDER = Provider(
    name="varlen",
    about="PyTorch's varlen_attn, FlashAttention 2",
    serves=serves,
    attend=attend,
    missing=missing,
    platform=True,
)
