"""Choose what ``auto`` and ``lse`` take: the one measured, or else reasoned, to be fastest.

``measured.json`` is written by the GPU report (:mod:`measured_table` has its form). Where it has no
entry, and for a gradient of the mass of many rows, reasoning decides:

- On a CPU PyTorch's own flash kernel is the only fast one.
- On a CUDA card the platform's fastest attention that gives a logsumexp, plus a small kernel for
  the mass, is expected to beat one kernel that does both: FlashAttention 4 or 3 where the user has
  it, then cuDNN, on compute capability 9 and 10. The fused kernel takes what these do not serve
  there (windows, softcaps, packed rows), and FlashAttention 2 comes before it on other cards.
- With few queries a kernel must split the keys to fill the card.
- A gradient of the mass takes the platform's backward pass and one over the rows asked for, as long
  as these are few (:data:`ROWS_SHARE`); else, and through a logsumexp (sinks), it goes to the fused
  kernel, which folds it into its own backward pass.
- Triton before 3.7 leaves out some fences on compute capability 9 and 10, so there FlashAttention 2
  comes before the fused kernel; it is never refused for that.
- Inside a compiled graph the fused kernel is taken, which is one node of the graph.

A chip that no kernel ever ran on (AMD's) gets the exact blocks.
"""

from __future__ import annotations

import functools
import importlib.metadata
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .contract import LogitRule, SpanQuery
from .measured_table import MeasuredCall, Work, card, find, shipped
from .providers import PROVIDERS, AttentionCall, Provider, call_of
from .providers.call import DECODE_QUERIES, NO_SINK_GRADIENT
from .providers.devices import is_capturing
from .providers.flash_packages import current_implementation
from .providers.fused import triton_backend as triton_backend
from .providers.lse_check import UNCHECKED, probes_of, verdict

LONG_KEYS = 2048  # from here on a decoding call goes to kernels that split its keys only
PREFIX = "lse:"
PLATFORM_BEST = ("flash_4", "flash_3", "cudnn")  # expected to be faster than the fused kernel

# Up to this share R / (B·M) of rows asked for, a backward pass of their own is expected to cost
# less than what the fused kernel's loses to the platform's: a row costs three products over the
# keys it sees, up to twice the causal mean, where a backward pass has five, and the platform's is
# taken to be 1.4 times as fast as ours. Not measured.
ROWS_SHARE = 0.25
WITH_FENCES = (3, 7)  # the first Triton that puts a fence before every product of sm_90

# Card -> what was measured on it; read on import, so that a compiled graph finds a dictionary.
MEASURED: dict[str, list[MeasuredCall]] = shipped()

_IN_ITS_BACKWARD = "the gradient of the mass is part of its backward pass"
_CPU_FLASH, _BLOCKS = PROVIDERS["cpu_flash"], PROVIDERS["blocks"]


@dataclass(frozen=True)
class Choice:
    """The backend that a call goes to, ``"triton"``, ``"lse"`` or ``"lse:NAME"``, and why."""

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
    if torch.compiler.is_compiling():
        return fastest_mass(q, v)
    call = call_of(q, k, v, query, rule)
    key = ("choice", mass_grad, *_facts(call))
    return query.derived(key, lambda: choice(call, mass_grad)).backend


def fastest_mass(q: Tensor, k: Tensor) -> str:
    """Return the backend for masses without an output: no provider computes these."""
    return "lse" if trusted_kernels(q, k) is None else "triton"


def choice(call: AttentionCall, mass_grad: bool) -> Choice:
    """Return what ``backend="auto"`` takes for a call outside of a compiled graph, and why."""
    if call.q.device.type != "cuda":
        return Choice("lse", f"the kernels for CUDA do not run on {call.q.device.type}")
    work = work_of(call, mass_grad)
    fused = trusted_kernels(call.q, call.v) is not None
    few = len(call.query.rows) <= ROWS_SHARE * call.q.shape[0] * call.q.shape[2]
    if work == "mass_grad" and fused and not few:
        return Choice("triton", _IN_ITS_BACKWARD)
    entry = _measured(call, work)
    if entry is not None:
        name = entry.backend.removeprefix(PREFIX)
        if (entry.backend == "triton" and fused) or (
            entry.backend != name and _serves_unasked(name, call, work, expected=True)
        ):
            return Choice(entry.backend, f"measured fastest for {work} on this card")
    provider = _reasoned(call, work)
    if work == "mass_grad" and fused and provider.name not in PLATFORM_BEST:
        return Choice("triton", _IN_ITS_BACKWARD)
    backend = "triton" if provider.name == "fused" else PREFIX + provider.name
    return Choice(backend, f"expected to be the fastest that serves this {work} call")


def best_provider(call: AttentionCall) -> Provider:
    """Return the provider that ``backend="lse"`` takes: measured, or else reasoned, as fastest."""
    if call.q.device.type == "cpu":
        return _CPU_FLASH if _CPU_FLASH.serves(call) is None else _BLOCKS
    work = work_of(call, mass_grad=False)
    entry = _measured(call, work) if call.q.device.type == "cuda" else None
    if entry is not None and entry.backend.startswith(PREFIX):
        name = entry.backend.removeprefix(PREFIX)
        if _serves_unasked(name, call, work, expected=True):
            return PROVIDERS[name]
    return _reasoned(call, work)


def provider_by_name(name: str, call: AttentionCall) -> Provider:
    """Return the provider that was asked for by name.

    Raises:
        ValueError: it does not serve the call; with the reason.
    """
    reason = reason_against(name, call)
    if reason is not None:
        raise ValueError(
            f'backend "{PREFIX}{name}" ({PROVIDERS[name].about}) does not serve this call: '
            f'{reason}; use backend="auto" or "lse"'
        )
    return PROVIDERS[name]


def reason_against(name: str, call: AttentionCall) -> str | None:
    """Return why a provider cannot serve a call, or None if it can.

    The logsumexp of another project's kernel is checked on its first use in a process.
    """
    provider = PROVIDERS[name]
    if call.query.parents is not None and not provider.parents:
        return "it takes whole sequences only, not segments with a parent"
    if not provider.platform:
        return provider.serves(call)
    if torch.compiler.is_compiling():
        return _reason(provider, call)
    return call.query.derived(("reason", name, *_facts(call)), lambda: _reason(provider, call))


def work_of(call: AttentionCall, mass_grad: bool) -> Work:
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


def order(device: torch.device) -> tuple[str, ...]:
    """Return the names of the providers for a device, the one expected to be fastest first."""
    if device.type == "cpu":
        return ("cpu_flash", "blocks")
    if device.type != "cuda" or torch.version.hip is not None:
        return ("blocks",)
    if torch.cuda.get_device_capability(device)[0] not in (9, 10):
        return ("varlen", "fused", "cudnn", "flex", "blocks")
    last = ("varlen", "fused") if fences_missing() else ("fused", "varlen")
    return (*PLATFORM_BEST, *last, "flex", "blocks")


def unsplit(provider: Provider, call: AttentionCall, work: Work) -> str | None:
    """Return why a decoding call would fill too little of a card with a provider, or None."""
    if work != "decode" or call.k.shape[2] < LONG_KEYS or provider.splits_keys(call):
        return None
    return "it does not split the keys of few queries, so it would leave most of the card idle"


@functools.cache
def fences_missing() -> bool:
    """Return whether the installed Triton leaves out fences on compute capability 9 and 10."""
    try:
        version = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        return False
    return tuple(int(part) for part in version.split(".")[:2]) < WITH_FENCES


def _reason(provider: Provider, call: AttentionCall) -> str | None:
    """Return why another project's kernel cannot serve a call, or None if it can."""
    if call.rule.sinks is not None and call.grad:
        return NO_SINK_GRADIENT
    reason = provider.serves(call.without_sinks())
    return reason or verdict(provider, call.q.device, call.q.dtype, probes_of(call))


def _reasoned(call: AttentionCall, work: Work) -> Provider:
    """Return the provider expected to be fastest of those that serve a call and may be taken."""
    fitting = (
        name
        for name in order(call.q.device)
        if name == "blocks" or _serves_unasked(name, call, work, expected=False)
    )
    return PROVIDERS[next(fitting)]


def _serves_unasked(name: str, call: AttentionCall, work: Work, *, expected: bool) -> bool:
    """Return whether a provider may be taken unasked; warn once if one is here but unusable.

    ``expected`` says that a measurement names it, so that its absence is worth a warning too.
    """
    provider = PROVIDERS.get(name)
    if provider is None:
        _warn_once(name, "measured.json names it, and there is no such provider")
        return False
    if name == "fused" and trusted_kernels(call.q, call.v) is None:
        return False
    reason = unsplit(provider, call, work) or reason_against(name, call)
    if reason is not None and (expected or provider.present()) and _unusable(provider, call):
        _warn_once(name, reason)
    return reason is None


def _unusable(provider: Provider, call: AttentionCall) -> bool:
    """Return whether a provider is missing, too old or wrong here, whatever the call asks for."""
    if not provider.platform:
        return False
    if provider.missing() is not None:
        return True
    if provider.serves(call.without_sinks()) is not None:
        return False
    checked = verdict(provider, call.q.device, call.q.dtype, probes_of(call))
    return checked not in (None, UNCHECKED)


def _measured(call: AttentionCall, work: Work) -> MeasuredCall | None:
    """Return what was measured for a kind of call on its card, or None."""
    if not MEASURED:
        return None
    entries = MEASURED.get(card(call.q.device), ())
    return find(entries, call.width, call.q.dtype, not call.sequences.whole, work)


def _facts(call: AttentionCall) -> tuple[object, ...]:
    """Return what a choice depends on beside the query: tensors, rule, and PyTorch's switches."""
    q, k, v, rule = call.q, call.k, call.v, call.rule
    return (
        *(q.shape, k.shape, v.shape[3], q.dtype, q.device, call.grad),
        *(q.stride(), k.stride(), v.stride(), q.storage_offset() % 8),
        *(rule.window, rule.softcap, rule.scale > 0, rule.sinks is None),
        is_capturing(q.device),
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cuda.cudnn_sdp_enabled(),
        current_implementation(),
    )


_WARNED: set[str] = set()


def _warn_once(name: str, reason: str) -> None:
    """Warn that a provider is left out, once per provider in a process."""
    if name in _WARNED:
        return
    _WARNED.add(name)
    warnings.warn(f'backend "{PREFIX}{name}" is left out: {reason}', UserWarning, stacklevel=2)
