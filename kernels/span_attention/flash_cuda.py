"""Call PyTorch's own flash attention for CUDA, which also returns the logsumexp.

``torch.nn.attention.varlen.varlen_attn``, named in this file alone, takes sequences laid one after
another: sequence s is the tokens ``cu_seq[s] … cu_seq[s + 1] − 1``. So all sequences of a query go
through one call, and padding is never handed over. What it would refuse or get wrong is settled
before it is called:

- causal and windows are aligned bottom-right: of m queries and n keys, query i stands at key
  ``i + n − m``, as a segment's queries do; a window counts the keys before the query's own;
- rows in no sequence stay unwritten, so they are left out and filled in afterwards;
- key and value width must agree and be a multiple of 8, so all are padded with zeros (the scale is
  explicit); it reads 16 bytes at a time, unchecked, so tensors that are not aligned are copied;
- it drops the gradient of its logsumexp in silence, so that one is detached;
- it knows no sinks, so ``out ← out · σ(lse − sink)`` and ``lse ← logaddexp(lse, sink)`` come after.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .blocks import needs_grad
from .contract import LogitRule, SpanQuery
from .plan import Plan

WIDEST = 256  # the largest width of a head that the kernel takes
ALIGNED = 8  # numbers of two bytes in the 16 bytes read at a time


@dataclass(frozen=True)
class PackedAxis:
    """The tokens of ``[B, L]`` that are laid one after another, and where each sequence starts.

    Attributes:
        positions: ``[T]`` int64, flat positions ``b·L + i``, ascending; None for all ``B·L``.
        starts: ``[S + 1]`` int32, the ``cu_seq`` of ``S`` sequences.
        longest: the number of tokens of the longest sequence.
    """

    positions: Tensor | None
    starts: Tensor
    longest: int


def unserved(q: Tensor, k: Tensor, v: Tensor, rule: LogitRule) -> str | None:
    """Return why this kernel cannot serve a call, or None if it can.

    The arguments are those of :func:`attend`.
    """
    width = max(q.shape[3], v.shape[3])
    if rule.softcap is not None:
        return "it has no softcap"
    if rule.sinks is not None and needs_grad(q, k, v, rule.sinks):
        return "its logsumexp carries no gradient, which sinks need"
    if rule.scale <= 0:
        return f"it takes positive scales only, not {rule.scale}"
    if q.dtype not in (torch.float16, torch.bfloat16):
        return f"it takes float16 and bfloat16 only, not {q.dtype}"
    if width > WIDEST:
        return f"it takes heads up to {WIDEST} wide, not {width}"
    return _unfit_device(q.device) or _unfit_torch()


def attend(
    q: Tensor, k: Tensor, v: Tensor, query: SpanQuery, sequences: Plan, rule: LogitRule
) -> tuple[Tensor, Tensor]:
    """Return the attention of all sequences from one call, which :func:`unserved` has let through.

    ``q [B, Hq, M, D]``, ``k [B, Hkv, N, D]`` and ``v [B, Hkv, N, Dv]`` may have any strides;
    ``query`` keeps what is computed from ``sequences``, its plan, for all layers. Returns
    ``out [B, Hq, M, Dv]`` in v's dtype, differentiable, ``[B, M, Hq, Dv]`` in memory, and
    ``lse [B, Hq, M]`` float32, detached. Queries in no segment have out 0 and lse −inf.
    """
    (batch, heads, m, _), (n, value_width) = q.shape, v.shape[2:]
    axes = query.derived(
        ("flash_cuda", batch, m, n),
        lambda: _packed_axes(sequences, batch, m, n, query.key_labels.device),
    )
    if axes is None:
        nothing = v.new_zeros(batch, m, heads, value_width).transpose(1, 2)
        return nothing, q.new_full((batch, heads, m), -torch.inf, dtype=torch.float32)
    queries, keys = axes
    width = -(-max(q.shape[3], value_width) // ALIGNED) * ALIGNED
    packed = (_pack(q, queries, width), _pack(k, keys, width), _pack(v, keys, width))
    out, lse = _call(*packed, queries, keys, rule)  # [T, Hq, width], [Hq, T]
    out, lse = out[..., :value_width], lse.detach()
    if rule.sinks is not None:
        sinks = rule.sinks.to(lse.dtype)[:, None]
        out = out * torch.sigmoid(lse - sinks).transpose(0, 1)[..., None].to(out.dtype)
        lse = torch.logaddexp(lse, sinks)
    if queries.positions is not None:
        unseen = lse.new_full((heads, batch * m), -torch.inf)
        lse = unseen.index_copy_(1, queries.positions, lse)
        out = out.new_zeros(batch * m, heads, value_width).index_copy_(0, queries.positions, out)
    out = out.contiguous().view(batch, m, heads, value_width).transpose(1, 2)
    return out, lse.view(heads, batch, m).transpose(0, 1)


def _packed_axes(
    sequences: Plan, batch: int, m: int, n: int, device: torch.device
) -> tuple[PackedAxis, PackedAxis] | None:
    """Return the packed queries and keys of the sequences with a query, or None if none has."""
    parts = [part for part in sequences.sequences if part.queries.start < part.queries.stop]
    if not parts:
        return None

    def axis(pieces: list[tuple[int, slice]], length: int) -> PackedAxis:
        lengths = [piece.stop - piece.start for _, piece in pieces]
        starts = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)
        positions = None
        if sum(lengths) < batch * length:
            flat = torch.arange(batch * length).view(batch, length)
            positions = torch.cat([flat[b, piece] for b, piece in pieces]).to(device)
        return PackedAxis(positions, starts, max(lengths))

    queries = axis([(part.batch, part.queries) for part in parts], m)
    return queries, axis([(part.batch, part.keys) for part in parts], n)


def _pack(x: Tensor, axis: PackedAxis, width: int) -> Tensor:
    """Return ``[B, H, L, D]`` packed into ``[T, H, width]``, as a view if the kernel reads it."""
    packed = x.transpose(1, 2).flatten(0, 1)
    if axis.positions is not None:
        packed = packed.index_select(0, axis.positions)
    if packed.shape[2] < width:
        return F.pad(packed, (0, width - packed.shape[2]))
    steps = (packed.stride(0), packed.stride(1), packed.storage_offset())
    if packed.stride(2) == 1 and all(step % ALIGNED == 0 for step in steps):
        return packed
    return packed.clone(memory_format=torch.contiguous_format)


def _call(
    q: Tensor, k: Tensor, v: Tensor, queries: PackedAxis, keys: PackedAxis, rule: LogitRule
) -> tuple[Tensor, Tensor]:
    """Return ``out [T, Hq, width]`` and ``lse [Hq, T]`` of one call of the kernel."""
    from torch.nn.attention import varlen  # imported late: it registers operators, which takes time

    left = -1 if rule.window is None or rule.window >= keys.longest else rule.window - 1
    # torch 2.11 takes fewer key heads than query heads unasked; later ones want to be told.
    known = _parameters(varlen.varlen_attn)
    grouped: dict[str, Any] = {"enable_gqa": True} if "enable_gqa" in known else {}
    out, lse = varlen.varlen_attn(
        *(q, k, v, queries.starts, keys.starts, queries.longest, keys.longest),
        return_aux=varlen.AuxRequest(lse=True),
        scale=rule.scale,
        window_size=(left, 0),
        **grouped,
    )
    if lse.shape != (q.shape[1], q.shape[0]):  # the documentation of 2.11 to 2.13 says [T, Hq]
        found, expected = list(lse.shape), [q.shape[1], q.shape[0]]
        raise RuntimeError(
            f"torch {torch.__version__}: logsumexp has shape {found}, expected {expected} ([Hq, T])"
        )
    return out, lse


def _unfit_device(device: torch.device) -> str | None:
    """Return why the kernel cannot run on a device, or None if it can."""
    if device.type != "cuda":
        return f"it runs on CUDA, not on {device.type}"
    if torch.version.hip is not None:
        return "its logsumexp has different layouts on ROCm, by version"
    if not torch.backends.cuda.is_flash_attention_available():
        return "this build of torch comes without flash attention"
    major, minor = torch.cuda.get_device_capability(device)
    return None if major >= 8 else f"it needs compute capability 8.0, not {major}.{minor}"


def _unfit_torch() -> str | None:
    """Return which arguments this torch's kernel lacks, or None if it has all of them."""
    from torch.nn.attention import varlen

    missing = {"return_aux", "scale", "window_size"} - _parameters(varlen.varlen_attn)
    if missing:
        return f"varlen_attn of torch {torch.__version__} has no {', '.join(sorted(missing))}"
    return None


@functools.lru_cache(maxsize=4)
def _parameters(function: Callable[..., Any]) -> frozenset[str]:
    """Return the names of a function's parameters."""
    return frozenset(inspect.signature(function).parameters)
