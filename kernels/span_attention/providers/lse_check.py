"""Check the logsumexp of another project's kernel once, before it is used in a process.

Kernels differ in what they call a logsumexp: natural or to base 2, ``[B, H, M]`` or ``[B, M, H]``,
with or without the scale; and a version may change it. Masses are ``exp(s − lse)``, so a mistake
would be silent. So each kernel gets small problems of its own (whole rows, padded and packed ones,
fewer queries than keys, a window, a softcap: what a call relies on) per device and dtype, and its
output and logsumexp are compared with the definition in float64. It waits for the device, so it is
never done inside a compiled graph or while a CUDA graph is captured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..contract import LogitRule, SpanQuery, segment_tensor
from .call import AttentionCall, Provider
from .devices import is_capturing

WIDTH, HEADS, KEY_HEADS = 64, 4, 2
KEYS = 160  # longer than a tile, and no multiple of one
LSE_TOLERANCE = 2e-3  # relative to 1 + |lse|: a logsumexp is kept in float32, over exact inputs
OUT_TOLERANCE = 3e-2  # relative to 1 + |out|: weights and output are rounded to 16 bits
UNCHECKED = (
    "its logsumexp was not checked in this process yet, and that is not done while a graph is "
    "compiled or captured: run one call before"
)

_VERDICTS: dict[tuple[str, str, torch.dtype, str], str | None] = {}


@dataclass(frozen=True)
class Probe:
    """A small problem: what is special about it, and the arguments in which it shows."""

    name: str
    batch: int = 1
    queries: int = KEYS
    segments: tuple[tuple[int, int, int], ...] = ((0, 0, KEYS),)
    window: int | None = None
    softcap: float | None = None


PROBES = (
    Probe("whole rows", batch=2, segments=((0, 0, KEYS), (1, 0, KEYS))),
    Probe("padded rows", batch=2, segments=((0, 9, KEYS), (1, 0, 150))),
    Probe("packed rows", segments=((0, 0, 17), (0, 17, KEYS))),
    Probe("fewer queries than keys", queries=33),
    Probe("one query", queries=1),
    Probe("a window", window=21),
    Probe("a softcap", softcap=1.5),
)


def probes_of(call: AttentionCall) -> tuple[Probe, ...]:
    """Return the small problems that show what a call relies on."""
    (m, n), window = (call.q.shape[2], call.k.shape[2]), call.rule.window
    relied_on = {
        "whole rows": call.sequences.whole,
        "padded rows": not call.sequences.whole,
        "packed rows": not call.sequences.whole,
        "fewer queries than keys": m < n,
        "one query": m == 1 < n,
        "a window": window is not None and window < n,
        "a softcap": call.rule.softcap is not None,
    }
    return tuple(probe for probe in PROBES if relied_on[probe.name])


def verdict(
    provider: Provider,
    device: torch.device,
    dtype: torch.dtype,
    probes: tuple[Probe, ...] = PROBES,
) -> str | None:
    """Return why a provider's logsumexp cannot be used on a device in a dtype, or None if it can.

    Each small problem is solved when it is first relied on, and its answer is kept for the process;
    a problem that the provider says it does not serve tells nothing.
    """
    for probe in probes:
        key = (provider.name, str(device), dtype, probe.name)
        if key not in _VERDICTS:
            if _followed(device):
                return UNCHECKED
            _VERDICTS[key] = _solved(provider, probe, device, dtype)
        if _VERDICTS[key] is not None:
            return _VERDICTS[key]
    return None


def forget() -> None:
    """Forget what was checked, so that the next use of a provider checks it again."""
    _VERDICTS.clear()


def _followed(device: torch.device) -> bool:
    """Return whether a graph is compiled or captured, or shapes alone are followed, just now."""
    if torch.compiler.is_compiling() or is_capturing(device):
        return True
    return type(torch.empty(0, device=device)) is not Tensor


def _solved(
    provider: Provider, probe: Probe, device: torch.device, dtype: torch.dtype
) -> str | None:
    """Return in words how a provider's answer to a problem differs from the definition, or None."""
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        call = _call(probe, device, dtype)
        if provider.serves(call) is not None:
            return None
        try:
            found = _difference(call, *provider.attend(call))
        except Exception as error:  # whatever a kernel raises where it does not fit
            found = f"it failed ({type(error).__name__}: {error})"
    return None if found is None else f"its check on {probe.name} failed: {found}"


def _call(probe: Probe, device: torch.device, dtype: torch.dtype) -> AttentionCall:
    """Return a problem whose heads, rows and keys all differ, the same in every process."""

    def made(heads: int, length: int, phase: float) -> Tensor:
        # No random numbers: a check must not move the caller's generators.
        count = probe.batch * length * heads * WIDTH
        numbers = torch.arange(count, dtype=torch.float64)
        wave = torch.sin(numbers * (1.0 + phase) + torch.sin(numbers * 0.37))
        return wave.view(probe.batch, length, heads, WIDTH).transpose(1, 2).to(device, dtype)

    query = SpanQuery(
        torch.zeros(probe.batch, KEYS, dtype=torch.int32, device=device),
        torch.zeros(0, dtype=torch.int64, device=device),
        segment_tensor(list(probe.segments), device),
        (),
    )
    q, k, v = (
        made(HEADS, probe.queries, 0.1),
        made(KEY_HEADS, KEYS, 0.3),
        made(KEY_HEADS, KEYS, 0.7),
    )
    rule = LogitRule(0.25, probe.window, probe.softcap)
    return AttentionCall(q, k, v, query, rule, grad=False)


def _exact(call: AttentionCall) -> tuple[Tensor, Tensor]:
    """Return the output and the logsumexp in float64 on the CPU, by the definition."""
    q, k, v = (x.detach().cpu().double() for x in (call.q, call.k, call.v))
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    scores = q @ k.transpose(2, 3) * call.rule.scale
    if call.rule.softcap is not None:
        scores = call.rule.softcap * torch.tanh(scores / call.rule.softcap)
    (m, n), window = scores.shape[2:], call.rule.window
    at_query, at_key = torch.arange(n - m, n)[:, None], torch.arange(n)
    causal = (at_key <= at_query) & (at_key > at_query - (window or n))
    seen = torch.zeros(q.shape[0], m, n, dtype=torch.bool)
    for b, start, end in call.query.segments.tolist():
        inside = (at_key >= start) & (at_key < end) & (at_query >= start) & (at_query < end)
        seen[b] |= causal & inside
    scores = scores.masked_fill(~seen[:, None], -torch.inf)
    lse = torch.logsumexp(scores, -1)
    return (scores - lse[..., None]).exp().nan_to_num(0.0) @ v, lse


def _difference(call: AttentionCall, out: Tensor, lse: Tensor) -> str | None:
    """Return in words how an output and a logsumexp differ from the definition, or None."""
    wanted_out, wanted = _exact(call)
    if lse.shape != wanted.shape or out.shape != wanted_out.shape:
        return (
            f"output and logsumexp have shapes {list(out.shape)} and {list(lse.shape)}, "
            f"expected {list(wanted_out.shape)} and {list(wanted.shape)}"
        )
    if lse.dtype != torch.float32 and lse.dtype != torch.float64:
        return f"the logsumexp is {lse.dtype}, expected torch.float32"
    found, found_out = lse.detach().cpu().double(), out.detach().cpu().double()
    if _far(found, wanted, LSE_TOLERANCE):
        return f"the logsumexp is not the natural one of [B, Hq, M]{_guess(found, wanted)}"
    if _far(found_out, wanted_out, OUT_TOLERANCE):
        return "the output is not that of the definition"
    return None


def _far(found: Tensor, wanted: Tensor, tolerance: float) -> bool:
    """Return whether two tensors differ anywhere; infinities must agree, and NaN never does."""
    if found.isnan().any() or not torch.equal(found.isinf(), wanted.isinf()):
        return True
    finite = wanted.isfinite()
    found, wanted = found[finite], wanted[finite]
    return bool(((found - wanted).abs() > tolerance * (1 + wanted.abs())).any())


def _guess(found: Tensor, wanted: Tensor) -> str:
    """Return what a wrong logsumexp looks like, to help whoever reads the warning."""
    if not _far(found * math.log(2.0), wanted, LSE_TOLERANCE):
        return " but to base 2"
    turned = wanted.transpose(1, 2).reshape(wanted.shape)
    return " but laid out [B, M, Hq]" if not _far(found, turned, LSE_TOLERANCE) else ""
