"""Choose what ``auto`` and ``lse`` take: the one measured, or else reasoned, to be fastest.

``measured.json`` is written by the GPU report (:mod:`measured_table` has its form). Where it has no
entry, reasoning decides:

- On a CPU PyTorch's own flash kernel is the only fast one.
- On a CUDA card the platform's fastest attention that gives a logsumexp, plus a small kernel for the
  mass, beats one kernel that does both: FlashAttention 4 or 3 where the user has it, then cuDNN on
  compute capability 9 and 10. The fused kernel takes what these do not serve there (windows,
  softcaps, packed rows), and FlashAttention 2 comes before it on older cards.
- With few queries a kernel must split the keys to fill the card.
- A gradient of the mass, or one through a logsumexp (sinks), goes to the fused kernel, which folds
  it into its own backward pass.
- Triton before 3.7 leaves out some fences on compute capability 9 and 10, so there FlashAttention 2
  comes before the fused kernel; it is never refused for that.

A chip that no kernel ever ran on (AMD's) gets the exact blocks.
"""

from __future__ import annotations

import functools
import importlib.metadata
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .contract import LogitRule, SpanQuery
from .measured_table import Measured, Work, card, find, shipped
from .providers import PROVIDERS, Call, Provider, call_of
from .providers.fused import triton_backend
from .providers.lse_check import verdict

DECODE_QUERIES = 16  # a call with at most this many queries counts as decoding
LONG_KEYS = 2048  # from here on a decoding call goes to kernels that split its keys only
PREFIX = "lse:"
WITH_FENCES = (3, 7)  # the first Triton that puts a fence before every product of sm_90

# Card -> what was measured on it; read on import, so that a compiled graph finds a dictionary.
MEASURED: dict[str, list[Measured]] = shipped()


@dataclass(frozen=True)
class Choice:
    """What a call goes to, ``"triton"``, ``"lse"`` or ``"lse:NAME"``, and why."""

    backend: str
    why: str


def fastest(
    q: Tensor, k: Tensor, v: Tensor, query: SpanQuery, rule: LogitRule, *, mass_grad: bool
) -> str:
    """Return the backend for a call: ``"lse"``, ``"triton"``, or ``"lse:NAME"`` of a provider.

    ``mass_grad`` says whether the mass is to carry a gradient.
    """
    if q.device.type != "cuda":
        return "lse"
    return choice(call_of(q, k, v, query, rule), mass_grad).backend


def choice(call: Call, mass_grad: bool) -> Choice:
    """Return what ``backend="auto"`` takes for a call, and why."""
    if call.q.device.type != "cuda":
        return Choice("lse", "only a CUDA card has other kernels")
    work = work_of(call, mass_grad)
    fused = trusted_kernels(call.q, call.v) is not None
    measured = _measured(call, work)
    if measured is not None:
        if measured.backend == "triton" and fused:
            return Choice("triton", f"measured fastest for {work} on this card")
        if measured.backend.startswith(PREFIX):
            name = measured.backend.removeprefix(PREFIX)
            if _serves_auto(name, call, work, expected=True):
                return Choice(measured.backend, f"measured fastest for {work} on this card")
    if work == "mass_grad" and fused:
        return Choice("triton", "the gradient of the mass is part of its backward pass")
    provider = next(_reasoned(call, work))
    if provider.name == "fused":
        return Choice("triton", "it computes attention and mass in one kernel")
    return Choice(PREFIX + provider.name, "expected to be the fastest that serves the call")


def best_provider(call: Call) -> Provider:
    """Return the provider that ``backend="lse"`` takes: measured, or else reasoned, as fastest."""
    if call.q.device.type == "cpu":
        return PROVIDERS["cpu_flash" if reason_against("cpu_flash", call) is None else "blocks"]
    work = work_of(call, mass_grad=False)
    if call.q.device.type == "cuda":
        measured = _measured(call, work)
        name = "" if measured is None else measured.backend.removeprefix(PREFIX)
        if name in PROVIDERS and _serves_auto(name, call, work, expected=True):
            return PROVIDERS[name]
    return next(_reasoned(call, work))


def provider_by_name(name: str, call: Call) -> Provider:
    """Return the provider that was asked for by name.

    Raises:
        ValueError: there is none of this name, or it does not serve the call; with the reason.
    """
    if name not in PROVIDERS:
        raise ValueError(f"no provider {name!r}; there are {', '.join(PROVIDERS)}")
    reason = reason_against(name, call)
    if reason is not None:
        raise ValueError(
            f'backend "{PREFIX}{name}" ({PROVIDERS[name].about}) does not serve this call: {reason}; '
            'use backend="auto" or "lse"'
        )
    return PROVIDERS[name]


def reason_against(name: str, call: Call) -> str | None:
    """Return why a provider cannot serve a call, or None if it can; its logsumexp is checked."""
    provider = PROVIDERS[name]
    if call.rule.sinks is not None and not provider.own_sinks:
        if call.grad:
            return "its logsumexp carries no gradient, which sinks need"
        call = call.without_sinks()
    reason = provider.serves(call)
    if reason is None and provider.platform:
        reason = verdict(provider, call.q.device, call.q.dtype)
    return reason


def work_of(call: Call, mass_grad: bool) -> Work:
    """Return the kind of work that a call is: what the table of measurements distinguishes."""
    if mass_grad:
        return "mass_grad"
    if call.grad:
        return "training"
    return "decode" if call.q.shape[2] <= DECODE_QUERIES else "prefill"


def trusted_kernels(q: Tensor, v: Tensor) -> Any | None:
    """Return the Triton backend if it may be chosen unasked for tensors like these, else None."""
    if q.device.type != "cuda" or torch.version.hip is not None:
        return None
    kernels = triton_backend()
    return None if kernels is None or kernels.unserved(q, v) is not None else kernels


def order(call: Call) -> tuple[str, ...]:
    """Return the names of the providers for a CUDA card, the expected fastest first."""
    if torch.version.hip is not None:
        return ("blocks",)
    if torch.cuda.get_device_capability(call.q.device)[0] not in (9, 10):
        return ("varlen", "fused", "cudnn", "flex", "blocks")
    last = ("varlen", "fused") if fences_missing() else ("fused", "varlen")
    return ("flash_4", "flash_3", "cudnn", *last, "flex", "blocks")


@functools.cache
def fences_missing() -> bool:
    """Return whether the installed Triton leaves out fences on compute capability 9 and 10."""
    try:
        version = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        return False
    return tuple(int(part) for part in version.split(".")[:2]) < WITH_FENCES


def _reasoned(call: Call, work: Work) -> Iterator[Provider]:
    """Yield the providers that serve a call and may be taken unasked, expected fastest first."""
    names = order(call) if call.q.device.type == "cuda" else ("blocks",)
    for name in names:
        if _serves_auto(name, call, work, expected=False):
            yield PROVIDERS[name]


def _serves_auto(name: str, call: Call, work: Work, *, expected: bool) -> bool:
    """Return whether a provider may be taken unasked; warn once if it is here but unusable."""
    if name not in PROVIDERS:
        _warn_once(name, "there is no provider of this name")
        return False
    provider = PROVIDERS[name]
    if unsplit(provider, call, work):
        return False
    if name == "fused" and trusted_kernels(call.q, call.v) is None:
        return False
    reason = reason_against(name, call)
    if reason is None:
        return True
    if provider.platform and (expected or provider.present()) and _unusable(provider, call):
        _warn_once(name, reason)
    return False


def unsplit(provider: Provider, call: Call, work: Work) -> bool:
    """Return whether a decoding call would fill too little of the card with this provider."""
    if work != "decode" or call.k.shape[2] < LONG_KEYS or provider.name == "blocks":
        return False
    return not provider.splits_keys(call)


def _unusable(provider: Provider, call: Call) -> bool:
    """Return whether a provider is missing, too old or wrong here, whatever the call asks for."""
    device = call.q.device
    if provider.missing(device) is not None:
        return True
    if torch.compiler.is_compiling():
        return False
    return provider.serves(call.without_sinks()) is None  # then it is its check that failed


def _measured(call: Call, work: Work) -> Measured | None:
    """Return what was measured for a kind of call on its card, or None."""
    if not MEASURED:
        return None
    entries = MEASURED.get(card(call.q.device), ())
    return find(entries, call.width, call.q.dtype, not call.sequences.whole, work)


_WARNED: set[str] = set()


def _warn_once(name: str, reason: str) -> None:
    """Warn that a provider is left out, once per provider in a process."""
    if torch.compiler.is_compiling() or name in _WARNED:
        return
    _WARNED.add(name)
    warnings.warn(
        f'backend "{PREFIX}{name}" is left out from here on: {reason}', UserWarning, stacklevel=2
    )
