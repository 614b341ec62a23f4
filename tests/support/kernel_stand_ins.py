"""Stand in for attention kernels that need a card: each with its own layout, mask and refusals.

A stand-in has the signature of what it replaces, refuses what that refuses, returns output and
logsumexp in exactly its form, and leaves NaN where it writes nothing. The logsumexp is detached, as
no platform's carries a gradient.
"""

from __future__ import annotations

import functools
import importlib.machinery
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import flex_attention as torch_flex
from torch.nn.attention import varlen as torch_varlen

from sra_fast.kernels.merging import Attended
from sra_fast.kernels.providers import cudnn, devices, flash_packages, lse_check

OPERATORS = {
    "cudnn": "_scaled_dot_product_cudnn_attention",
    "cudnn packed": "_cudnn_attention_forward",
}


def softmax(
    q: Tensor, k: Tensor, v: Tensor, hidden: Tensor, scale: float, softcap: float = 0.0
) -> Attended:
    """Return ``out [H, m, Dv]`` and ``lse [H, m]`` for ``q [H, m, D]``, with fewer key heads."""
    groups = q.shape[0] // k.shape[0]
    k, v = (x.float().repeat_interleave(groups, 0) for x in (k, v))
    scores = q.float() @ k.transpose(1, 2) * scale
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(hidden, -torch.inf)
    out = (torch.softmax(scores, -1) @ v).to(q.dtype)
    return out, torch.logsumexp(scores, -1).detach()


def mask(m: int, n: int, left: int | None, right: int | None, *, top_left: bool) -> Tensor:
    """Return which keys are hidden from which query, ``[m, n]``; None opens a side."""
    at_query = torch.arange(m)[:, None] + (0 if top_left else n - m)
    at_key = torch.arange(n)
    hidden = torch.zeros(m, n, dtype=torch.bool)
    if right is not None:
        hidden |= at_key > at_query + right
    if left is not None:
        hidden |= at_key < at_query - left
    assert not hidden.all(1).any(), "a query without a key is garbage there"
    return hidden


def check_half(*tensors: Tensor) -> None:
    """Refuse what kernels for 16 bits refuse: other dtypes, last strides and unaligned rows."""
    assert tensors[0].dtype in (torch.float16, torch.bfloat16)
    check_aligned(*tensors)


def check_aligned(*tensors: Tensor) -> None:
    """Refuse different dtypes, last strides other than 1, and rows that are not on 16 bytes."""
    for x in tensors:
        assert x.dtype == tensors[0].dtype
        assert x.stride(-1) == 1
        assert x.shape[-1] % 8 == 0
        assert all(step % 8 == 0 for step in (*x.stride()[:-1], x.storage_offset()))


def check_starts(starts: Tensor, total: int, longest: int) -> None:
    """Refuse cumulative lengths that do not cover the tokens."""
    assert starts.dtype == torch.int32
    assert starts.is_contiguous()
    assert len(starts) > 1
    assert (starts[0], starts[-1]) == (0, total)
    assert starts.diff().max() == longest


def packed(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    starts: tuple[Tensor, Tensor, int, int],
    attend: Callable[[Tensor, Tensor, Tensor], Attended],
) -> Attended:
    """Return ``out [T, H, D]`` and ``lse [H, T]`` of sequences laid one after another."""
    check_starts(starts[0], q.shape[0], starts[2])
    check_starts(starts[1], k.shape[0], starts[3])
    assert len(starts[0]) == len(starts[1])
    out = torch.full((*q.shape[:2], v.shape[2]), torch.nan, dtype=q.dtype)
    lse = torch.full((q.shape[1], q.shape[0]), torch.nan)
    bounds = torch.stack([starts[0][:-1], starts[0][1:], starts[1][:-1], starts[1][1:]], 1)
    for q0, q1, k0, k1 in bounds.tolist():
        one = attend(*(x.transpose(0, 1) for x in (q[q0:q1], k[k0:k1], v[k0:k1])))
        rows = torch.arange(q0, q1)
        out = out.index_copy(0, rows, one[0].transpose(0, 1))
        lse = lse.index_copy(1, rows, one[1])
    return out, lse


def batched(
    q: Tensor, k: Tensor, v: Tensor, attend: Callable[[Tensor, Tensor, Tensor], Attended]
) -> Attended:
    """Return ``out [B, H, m, Dv]`` and ``lse [B, H, m]``, batch row by batch row."""
    found = [attend(*one) for one in zip(q, k, v, strict=True)]
    return torch.stack([out for out, _ in found]), torch.stack([lse for _, lse in found])


def cudnn_dense(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_bias: Tensor | None,
    compute_log_sumexp: bool,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    return_debug_mask: bool = False,
    *,
    scale: float | None = None,
) -> tuple[Any, ...]:
    """Stand in for ``aten._scaled_dot_product_cudnn_attention``: lse ``[B, H, M, 1]``, top-left."""
    assert attn_bias is None
    assert compute_log_sumexp
    assert scale is not None
    assert (dropout_p, return_debug_mask) == (0.0, False)
    check_half(query, key, value)
    m, n = query.shape[2], key.shape[2]
    assert n != 1, "cudnn SDPA does not support key/value sequence length 1"
    hidden = mask(m, n, None, 0 if is_causal else None, top_left=True)
    out, lse = batched(query, key, value, lambda *x: softmax(*x, hidden, scale))
    return out, lse[..., None], None, None, m, n, torch.empty(()), torch.empty(()), None


def cudnn_packed(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_bias: Tensor | None,
    cum_seq_q: Tensor,
    cum_seq_k: Tensor,
    max_q: int,
    max_k: int,
    compute_log_sumexp: bool,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    return_debug_mask: bool = False,
    *,
    scale: float | None = None,
) -> tuple[Any, ...]:
    """Stand in for ``aten._cudnn_attention_forward`` on packed tokens: lse ``[T, H, 1]``."""
    assert attn_bias is None
    assert compute_log_sumexp
    assert is_causal
    assert scale is not None
    assert (dropout_p, return_debug_mask) == (0.0, False)
    assert not any(x.requires_grad for x in (query, key, value)), "its gradient is not relied on"
    assert max_q > 128
    check_half(query, key, value)
    assert all(x.is_contiguous() for x in (query, key, value))

    def attend(*x: Tensor) -> Attended:
        return softmax(*x, mask(x[0].shape[1], x[1].shape[1], None, 0, top_left=True), scale)

    out, lse = packed(query, key, value, (cum_seq_q, cum_seq_k, max_q, max_k), attend)
    lse = lse.transpose(0, 1)[..., None]
    return out, lse, cum_seq_q, cum_seq_k, max_q, max_k, torch.empty(()), torch.empty(()), None


def varlen_2_11(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    return_aux: Any = None,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
) -> Any:
    """Stand in for ``varlen_attn`` of torch 2.11: lse ``[H, T]``, bottom-right, in any dtype.

    It serves fewer key heads than query heads unasked.
    """
    assert scale is not None
    assert isinstance(window_size, tuple)
    assert key.shape == value.shape
    assert key.shape[2] == query.shape[2] <= 256
    assert query.shape[1] % key.shape[1] == 0
    check_aligned(query, key, value)
    left, right = (None if side == -1 else side for side in window_size)

    def attend(*x: Tensor) -> Attended:
        hidden = mask(x[0].shape[1], x[1].shape[1], left, right, top_left=False)
        return softmax(*x, hidden, scale)

    out, lse = packed(query, key, value, (cu_seq_q, cu_seq_k, max_q, max_k), attend)
    return (out, lse) if return_aux is not None and return_aux.lse else out


def varlen_2_13(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    return_aux: Any = None,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
    seqused_k: Tensor | None = None,
    block_table: Tensor | None = None,
    num_splits: int | None = None,
) -> Any:
    """Stand in for ``varlen_attn`` of torch 2.13, which wants to be told of fewer key heads."""
    assert enable_gqa or query.shape[1] == key.shape[1]
    assert seqused_k is block_table is num_splits is None
    given = {"return_aux": return_aux, "scale": scale, "window_size": window_size}
    return varlen_2_11(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, **given)


def in_half(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """Return a stand-in that refuses all but 16 bits, too, as the kernel itself does."""

    @functools.wraps(kernel)
    def refusing(*given: Any, **options: Any) -> Any:
        check_half(*given[:3])
        return kernel(*given, **options)

    return refusing


def _flash(
    tensors: tuple[Tensor, Tensor, Tensor],
    starts: tuple[Tensor, Tensor, int, int] | None,
    sides: tuple[int | None, int | None],
    causal: bool,
    scale: float,
    softcap: float,
) -> Attended:
    """Do what FlashAttention 3 and 4 do: bottom-right, a causal mask or a window, not both."""
    check_half(*tensors)
    assert len({x.shape[-1] for x in tensors}) == 1
    left, right = sides
    if causal:
        assert left is None
        right = 0

    def attend(*x: Tensor) -> Attended:
        hidden = mask(x[0].shape[1], x[1].shape[1], left, right, top_left=False)
        return softmax(*x, hidden, scale, softcap)

    if starts is not None:
        return packed(*tensors, starts, attend)
    out, lse = batched(*(x.transpose(1, 2) for x in tensors), attend)
    return out.transpose(1, 2), lse


def flash_3_module() -> types.ModuleType:
    """Return a module like ``flash_attn_interface``: −1 opens a side, splits 0 and 1 are known."""

    def sides(window_size: tuple[int, int]) -> tuple[int | None, int | None]:
        assert all(type(side) is int for side in window_size)
        left, right = (None if side == -1 else side for side in window_size)
        return left, right

    def flash_attn_func(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: tuple[int, int] = (-1, -1),
        softcap: float = 0.0,
        num_splits: int = 1,
        deterministic: bool = False,
        return_attn_probs: bool = False,
    ) -> Any:
        assert num_splits in (0, 1)
        assert softmax_scale is not None
        found = _flash((q, k, v), None, sides(window_size), causal, softmax_scale, softcap)
        return found if return_attn_probs else found[0]

    def flash_attn_varlen_func(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cu_seqlens_q: Tensor,
        cu_seqlens_k: Tensor,
        max_seqlen_q: int,
        max_seqlen_k: int,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: tuple[int, int] = (-1, -1),
        softcap: float = 0.0,
        num_splits: int = 1,
        deterministic: bool = False,
        return_attn_probs: bool = False,
    ) -> Any:
        assert num_splits in (0, 1)
        assert softmax_scale is not None
        starts = (cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k)
        found = _flash((q, k, v), starts, sides(window_size), causal, softmax_scale, softcap)
        return found if return_attn_probs else found[0]

    return _module("flash_attn_interface", flash_attn_func, flash_attn_varlen_func)


def flash_4_module() -> types.ModuleType:
    """Return a module like ``flash_attn.cute``: None opens a side, widths are 64, 96 and 128."""

    def sides(window_size: tuple[int | None, int | None]) -> tuple[int | None, int | None]:
        assert -1 not in window_size
        return window_size

    def flash_attn_func(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: tuple[int | None, int | None] = (None, None),
        softcap: float = 0.0,
        num_splits: int = 1,
        deterministic: bool = False,
        return_lse: bool = False,
    ) -> Any:
        assert q.shape[-1] in (64, 96, 128)
        assert softmax_scale is not None
        out, lse = _flash((q, k, v), None, sides(window_size), causal, softmax_scale, softcap)
        return out, lse if return_lse else None

    def flash_attn_varlen_func(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cu_seqlens_q: Tensor | None = None,
        cu_seqlens_k: Tensor | None = None,
        max_seqlen_q: int | None = None,
        max_seqlen_k: int | None = None,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: tuple[int | None, int | None] = (None, None),
        softcap: float = 0.0,
        num_splits: int = 1,
        deterministic: bool = False,
        return_lse: bool = False,
    ) -> Any:
        assert q.shape[-1] in (64, 96, 128)
        assert softmax_scale is not None
        starts: Any = (cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k)
        out, lse = _flash((q, k, v), starts, sides(window_size), causal, softmax_scale, softcap)
        return out, lse if return_lse else None

    return _module("flash_attn.cute", flash_attn_func, flash_attn_varlen_func)


def _module(name: str, *functions: Callable[..., Any]) -> types.ModuleType:
    module = types.ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    for function in functions:
        setattr(module, function.__name__, function)
    return module


@dataclass(frozen=True)
class Card:
    """A card that is not there, for tensors on the CPU; ``put`` replaces one of its kernels."""

    monkeypatch: pytest.MonkeyPatch

    def put(self, place: str, kernel: Any) -> None:
        """Put a kernel in a place: ``"cudnn"``, ``"cudnn packed"``, ``"varlen"``, or a module."""
        if place in OPERATORS:
            self.monkeypatch.setattr(torch.ops.aten, OPERATORS[place], kernel, raising=False)
        elif place == "varlen":
            self.monkeypatch.setattr(torch_varlen, "varlen_attn", kernel)
        else:
            self.monkeypatch.setitem(sys.modules, place, kernel)
        leave()


def pretend(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int] = (9, 0)) -> Card:
    """Let the CPU pass for a card of this capability, with a stand-in for every kernel.

    FlexAttention is itself, computed by plain products without a gradient.
    """
    monkeypatch.setattr(torch_flex, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    monkeypatch.setattr(devices, "not_nvidia", lambda device: None)
    monkeypatch.setattr(devices, "capability", lambda device: capability)
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: True)
    monkeypatch.setattr(cudnn, "allowed", lambda *tensors: True)
    card = Card(monkeypatch)
    card.put("cudnn", cudnn_dense)
    card.put("cudnn packed", cudnn_packed)
    card.put("varlen", in_half(varlen_2_13))
    card.put("flash_attn_interface", flash_3_module())
    card.put("flash_attn", _module("flash_attn"))
    card.put("flash_attn.cute", flash_4_module())
    return card


def leave() -> None:
    """Forget what was found out about the stand-ins."""
    flash_packages.installed.cache_clear()
    flash_packages.loaded.cache_clear()
    lse_check.forget()
