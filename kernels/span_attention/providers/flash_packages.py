"""Find the packages of FlashAttention 3 and 4, and hand them a call in their own layouts.

Both take ``[B, M, H, D]`` for whole sequences and ``[T, H, D]`` with cumulative lengths for packed
ones, align causal masks and windows bottom-right, count a window's keys before the query's own, and
return a natural logsumexp as ``[B, Hq, M]`` or ``[Hq, T]``. They differ by version in the names of
their arguments, so the signature is asked.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import torch
import torch.nn.attention
from torch import Tensor

from ..merging import Attended
from . import devices
from .call import AttentionCall, expect_lse
from .packed_tokens import aligned, nothing_seen, pack, packed_axes, unpack


def unfit(call: AttentionCall, *, capabilities: tuple[int, ...], widest: int) -> str | None:
    """Return why neither package can serve a call on such cards, or None if one could."""
    reason = devices.not_nvidia(call.q.device) or devices.not_half(call.q.dtype)
    if reason is not None:
        return reason
    if call.width > widest:
        return f"it takes heads up to {widest} wide, not {call.width}"
    if call.rule.scale <= 0:
        return f"it takes positive scales only, not {call.rule.scale}"
    major, minor = devices.capability(call.q.device)
    if major not in capabilities:
        wanted = " or ".join(f"{one}.x" for one in capabilities)
        return f"it runs on compute capability {wanted}, not {major}.{minor}"
    return None


def current_implementation() -> str | None:
    """Return which FlashAttention the user activated in PyTorch, ``"FA3"`` or ``"FA4"``, or None.

    It stands in the place of FlashAttention 2 then, so that ``varlen_attn`` calls it.
    """
    current: Callable[[], str | None] | None = getattr(
        torch.nn.attention, "current_flash_attention_impl", None
    )
    return None if current is None else current()


@functools.cache
def installed(*places: str) -> str | None:
    """Return the first of these modules that is installed, without importing it; None if none."""
    for place in places:
        try:
            if importlib.util.find_spec(place) is not None:
                return place
        except (ImportError, ValueError):  # a package around it is missing, or half loaded
            continue
    return None


@functools.cache
def loaded(place: str) -> ModuleType | str:
    """Return the module, or why it cannot be used, in words."""
    try:
        module = importlib.import_module(place)
    except Exception as error:  # whatever a compiled package raises when it does not fit
        return f"{place} is installed, but cannot be imported ({type(error).__name__}: {error})"
    lacking = [
        name for name in ("flash_attn_func", "flash_attn_varlen_func") if not hasattr(module, name)
    ]
    if lacking:
        return f"{place} is too old: it has no {' and no '.join(lacking)}"
    return module


def lacks(place: str, *wanted: str) -> str | None:
    """Return why an installed package cannot be used with these arguments, or None if it can."""
    module = loaded(place)
    if isinstance(module, str):
        return module
    for function in (module.flash_attn_func, module.flash_attn_varlen_func):
        lacking = set(wanted) - parameters(function)
        if lacking:
            name = getattr(function, "__name__", "a function")
            return f"{place} is too old: {name} takes no {', '.join(sorted(lacking))}"
    return None


def run(
    call: AttentionCall, place: str, width: int, *, no_window: int | None, asking: Mapping[str, Any]
) -> Attended:
    """Return ``out [B, Hq, M, Dv]``, differentiable, and ``lse [B, Hq, M]`` of one call.

    Args:
        call: one that the package serves.
        place: the module with ``flash_attn_func`` and ``flash_attn_varlen_func``.
        width: the head width that q, k and v are padded to.
        no_window: what stands for an open side of a window.
        asking: further arguments, of which those are given that the function takes.
    """
    module = loaded(place)
    assert isinstance(module, ModuleType)
    window = call.rule.window
    if window is not None and window < call.k.shape[2]:
        seen = {"causal": False, "window_size": (window - 1, 0)}
    else:
        seen = {"causal": True, "window_size": (no_window, no_window)}
    options = {"softmax_scale": call.rule.scale, **seen, **asking}
    if call.rule.softcap is not None:
        options["softcap"] = call.rule.softcap
    if call.sequences.whole:
        q, k, v = (aligned(x.transpose(1, 2), width) for x in (call.q, call.k, call.v))
        out, lse = _ask(module.flash_attn_func, (q, k, v), options)
        expect_lse(lse, (q.shape[0], q.shape[2], q.shape[1]), f"{place}, [B, Hq, M]")
        return out[..., : call.v.shape[3]].transpose(1, 2), lse.detach()
    axes = packed_axes(call)
    if axes is None:
        return nothing_seen(call)
    queries, keys = axes
    packed = (pack(call.q, queries, width), pack(call.k, keys, width), pack(call.v, keys, width))
    lengths = (queries.starts, keys.starts, queries.longest, keys.longest)
    out, lse = _ask(module.flash_attn_varlen_func, (*packed, *lengths), options)
    expect_lse(lse, (packed[0].shape[1], packed[0].shape[0]), f"{place}, [Hq, T]")
    return unpack(out, lse, queries, call)


@functools.lru_cache(maxsize=16)
def parameters(function: Callable[..., Any]) -> frozenset[str]:
    """Return the names of a function's parameters."""
    return frozenset(inspect.signature(function).parameters)


def _ask(function: Callable[..., Any], tensors: Any, options: Mapping[str, Any]) -> Attended:
    """Return output and logsumexp of a function, with the options that its version takes."""
    known = parameters(function)
    result = function(*tensors, **{name: x for name, x in options.items() if name in known})
    if not isinstance(result, tuple) or len(result) < 2 or not isinstance(result[1], Tensor):
        raise RuntimeError(f"{function.__module__} returned no logsumexp beside the output")
    return result[0], result[1]
