"""Take attention from PyTorch's FlexAttention, which knows softcaps, windows and packed rows.

What a query sees is a range of keys that ends at itself, so one number per query, its first key, is
the whole mask; the softcap is a change of the score. ``AuxRequest(lse=True)`` gives a natural
logsumexp ``[B, Hq, M]`` (the kernel's own is to base 2; PyTorch converts it). Without compilation
FlexAttention would hold the whole map, so on CUDA it serves only where ``torch.compile`` works. It
is compiled on first use, which takes seconds; the block mask is kept on the query, for all layers.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..merging import Attended
from ..triton_kernels.layout import layout
from . import devices
from .call import AttentionCall, Provider

NARROWEST = 16  # the smallest product of Triton's
OLDEST_CAPABILITY = (8, 0)


def serves(call: AttentionCall) -> str | None:
    """Return why FlexAttention cannot serve a call, or None if it can."""
    reason = devices.not_nvidia(call.q.device)
    if reason is not None:
        return reason
    if call.q.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        return f"it takes float16, bfloat16 and float32, not {call.q.dtype}"
    if min(call.q.shape[3], call.v.shape[3]) < NARROWEST:
        return f"it takes heads of {NARROWEST} or wider"
    major, minor = devices.capability(call.q.device)
    if (major, minor) < OLDEST_CAPABILITY:
        return f"it needs compute capability 8.0, not {major}.{minor}"
    return missing()


def missing() -> str | None:
    """Return what FlexAttention lacks here, or None if it can be compiled and gives its lse."""
    if importlib.util.find_spec("triton") is None:
        return "torch.compile needs the package triton, which is not installed"
    from torch._dynamo.eval_frame import is_dynamo_supported
    from torch.nn.attention import flex_attention

    if not is_dynamo_supported():
        return "torch.compile does not work here"

    if not hasattr(flex_attention, "AuxRequest"):
        return f"FlexAttention of torch {torch.__version__} has no AuxRequest"
    return None


def attend(call: AttentionCall) -> Attended:
    """Return ``out [B, Hq, M, Dv]``, differentiable, and ``lse [B, Hq, M]`` of a call it serves."""
    from torch.nn.attention.flex_attention import AuxRequest

    (batch, _, m, _), n = call.q.shape, call.k.shape[2]
    key = ("flex", batch, m, n, call.rule.window)
    mask = call.query.derived(key, lambda: _block_mask(call))
    out, aux = _attention(call.q.device.type)(
        *(x if x.stride(3) == 1 else x.contiguous() for x in (call.q, call.k, call.v)),
        score_mod=None if call.rule.softcap is None else _capped(call.rule.softcap),
        block_mask=mask,
        scale=call.rule.scale,
        enable_gqa=call.q.shape[1] != call.k.shape[1],
        return_aux=AuxRequest(lse=True),
    )
    return out, aux.lse.detach()


def _block_mask(call: AttentionCall) -> Any:
    """Return which blocks of keys each block of queries meets, and the mask inside of them."""
    (batch, _, m, _), n = call.q.shape, call.k.shape[2]
    first_key = layout(call.query, batch, m, n, call.rule.window).first_key

    def sees(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return (j >= first_key[b, i]) & (j <= i + (n - m))

    make = _mask_maker(call.q.device.type)
    return make(sees, batch, None, m, n, device=call.q.device)


@functools.lru_cache(maxsize=8)
def _capped(softcap: float) -> Callable[..., Tensor]:
    """Return the change of a score under a softcap; the same function for the same softcap."""

    def score(s: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return softcap * torch.tanh(s / softcap)

    return score


@functools.cache
def _attention(device: str) -> Any:
    """Return FlexAttention: compiled on a card, and as plain products elsewhere, for tests."""
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention) if device == "cuda" else flex_attention


@functools.cache
def _mask_maker(device: str) -> Any:
    """Return the function that makes block masks: compiled on a card, so that none is M × N."""
    from torch.nn.attention.flex_attention import create_block_mask

    return torch.compile(create_block_mask) if device == "cuda" else create_block_mask


PROVIDER = Provider(
    name="flex",
    about="PyTorch's FlexAttention, compiled",
    serves=serves,
    attend=attend,
    missing=missing,
    platform=True,
)
