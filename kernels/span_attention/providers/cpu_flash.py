"""Take attention from PyTorch's flash kernel for CPU, sequence by sequence."""

from __future__ import annotations

from torch import Tensor

from .. import flash_cpu
from ..contract import LogitRule
from ..merging import Attended, add_sinks
from .call import NO_SINK_GRADIENT, AttentionCall, Provider
from .per_sequence import KeysAndValues, by_sequence


def serves(call: AttentionCall) -> str | None:
    """Return why the CPU's flash kernel cannot serve a call, or None if it can."""
    if call.q.device.type != "cpu":
        return f"it runs on the CPU, not on {call.q.device.type}"
    if call.rule.sinks is not None and call.grad:
        return NO_SINK_GRADIENT
    return None if call.rule.softcap is None else "it has no softcap"


def attend(call: AttentionCall) -> Attended:
    """Return ``out [B, Hq, M, Dv]``, differentiable, and ``lse [B, Hq, M]``, sinks included."""
    # A window hides some of the parent's keys from some queries, which two whole calls cannot.
    return by_sequence(call, _one, _tail if call.rule.window is None else None)


def _one(q: Tensor, k: Tensor, v: Tensor, rule: LogitRule) -> Attended:
    """Return the attention of one sequence, under a window or without."""
    if rule.window is not None and rule.window < k.shape[2]:
        out, lse = flash_cpu.attend_window(q, k, v, rule.scale, rule.window)
    else:
        out, lse = flash_cpu.attend(q, k, v, rule.scale)
    return (out, lse) if rule.sinks is None else add_sinks(out, lse, rule.sinks)


def _tail(q: Tensor, before: KeysAndValues, own: KeysAndValues, rule: LogitRule) -> Attended:
    """Return the attention of a segment with a parent, from two calls."""
    out, lse = flash_cpu.attend_after(q, before, own, rule.scale)
    return (out, lse) if rule.sinks is None else add_sinks(out, lse, rule.sinks)


PROVIDER = Provider(
    name="cpu_flash",
    about="PyTorch's flash attention for CPU",
    serves=serves,
    attend=attend,
    own_sinks=True,
    parents=True,
)
