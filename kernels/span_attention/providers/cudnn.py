"""Take attention from cuDNN through PyTorch's private operators, which also give the logsumexp.

``aten._scaled_dot_product_cudnn_attention`` takes whole sequences and returns its logsumexp as
``[B, Hq, M, 1]``; ``aten._cudnn_attention_forward`` takes sequences laid one after another with
cumulative lengths, and returns ``[T, Hq, 1]``. What they would get wrong is settled before:

- their causal mask is aligned top-left, so fewer queries than keys are two calls, the past without
  a mask and the present with one, merged by their logsumexps, where no gradient is wanted;
- they refuse a single key and widths that are no multiple of 8, and know no window and no softcap;
- heads wider than 128, and everything else that depends on the card and on cuDNN's version, is
  asked of PyTorch itself, which also honours a user who switched cuDNN off;
- the gradient of the packed form is not relied on: torch's own varlen attention leaves it unused.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..merging import Attended, merge
from . import devices
from .call import AttentionCall, Provider, expect_lse
from .packed_tokens import aligned, nothing_seen, pack, packed_axes, unpack

SURE_WIDTH = 128  # every cuDNN from 9.0 on takes heads up to this width, with their gradient
MULTIPLE = 8
SHORTEST_PACKED = 129  # PyTorch refuses packed queries that are all shorter


def serves(call: AttentionCall) -> str | None:
    """Return why cuDNN cannot serve a call, or None if it can."""
    return (
        devices.not_nvidia(call.q.device)
        or devices.not_half(call.q.dtype)
        or _unfit_rule(call)
        or _unfit_widths(call)
        or (_unfit_whole(call) if call.sequences.whole else _unfit_packed(call))
        or missing()
        or _refused(call)
    )


def missing() -> str | None:
    """Return what this torch lacks for cuDNN's attention, or None if it has all."""
    if not hasattr(torch.ops.aten, "_scaled_dot_product_cudnn_attention"):
        return f"torch {torch.__version__} has no _scaled_dot_product_cudnn_attention"
    return None


def attend(call: AttentionCall) -> Attended:
    """Return ``out [B, Hq, M, Dv]`` and ``lse [B, Hq, M]`` float32, detached, of a call it serves.

    Whole sequences give a differentiable output where M = N.
    """
    if not call.sequences.whole:
        return _packed(call)
    m, n = call.q.shape[2], call.k.shape[2]
    q, k, v = (aligned(x, x.shape[3]) for x in (call.q, call.k, call.v))
    scale = call.rule.scale
    if m == 1 or m == n:
        return _dense(q, k, v, scale, causal=m > 1)
    past = _dense(q, k[:, :, : n - m], v[:, :, : n - m], scale, causal=False)
    present = _dense(q, k[:, :, n - m :], v[:, :, n - m :], scale, causal=True)
    return merge(past, present)


def _dense(q: Tensor, k: Tensor, v: Tensor, scale: float, *, causal: bool) -> Attended:
    """Return ``out [B, Hq, m, Dv]`` and ``lse [B, Hq, m]`` of one call on whole sequences."""
    out, lse, *_ = torch.ops.aten._scaled_dot_product_cudnn_attention(
        q, k, v, None, True, 0.0, causal, False, scale=scale
    )
    expect_lse(lse, (*q.shape[:3], 1), f"cuDNN of torch {torch.__version__}, [B, Hq, M, 1]")
    return out, lse.detach().squeeze(3)


def _packed(call: AttentionCall) -> Attended:
    """Return the attention of all sequences from one call on packed tokens, without a gradient."""
    axes = packed_axes(call)
    if axes is None:
        return nothing_seen(call)
    queries, keys = axes
    q = pack(call.q, queries, call.q.shape[3])
    k, v = pack(call.k, keys, call.k.shape[3]), pack(call.v, keys, call.v.shape[3])
    # The kernel reads packed tokens as one contiguous block each.
    q, k, v = (x.contiguous() for x in (q, k, v))
    starts = (queries.starts, keys.starts, queries.longest, keys.longest)
    out, lse, *_ = torch.ops.aten._cudnn_attention_forward(
        q, k, v, None, *starts, True, 0.0, True, False, scale=call.rule.scale
    )
    expect_lse(lse, (*q.shape[:2], 1), f"cuDNN of torch {torch.__version__}, [T, Hq, 1]")
    return unpack(out, lse.squeeze(2).transpose(0, 1), queries, call)


def _unfit_rule(call: AttentionCall) -> str | None:
    rule = call.rule
    if rule.softcap is not None:
        return "it has no softcap"
    if rule.window is not None and rule.window < call.k.shape[2]:
        return "it has no window"
    return None if rule.scale > 0 else f"it takes positive scales only, not {rule.scale}"


def _unfit_widths(call: AttentionCall) -> str | None:
    width, value_width = call.q.shape[3], call.v.shape[3]
    if width % MULTIPLE or value_width % MULTIPLE:
        return f"it takes head widths of a multiple of {MULTIPLE}, not {width} and {value_width}"
    if call.width > SURE_WIDTH and width != value_width:
        return f"beyond {SURE_WIDTH} it takes keys and values of one width only"
    return None


def _unfit_whole(call: AttentionCall) -> str | None:
    m, n = call.q.shape[2], call.k.shape[2]
    if n == 1 or (m > 1 and n - m == 1):
        return "it takes no call with a single key"
    if m < n and call.grad:
        return "fewer queries than keys are merged by logsumexps, which carry no gradient"
    return None


def _unfit_packed(call: AttentionCall) -> str | None:
    if not hasattr(torch.ops.aten, "_cudnn_attention_forward"):
        return (
            f"torch {torch.__version__} has no _cudnn_attention_forward for packed or padded rows"
        )
    if call.grad:
        return "packed or padded rows go through an operator whose gradient is not relied on"
    if devices.capability(call.q.device)[0] not in (9, 10):
        return "it takes packed or padded rows on compute capability 9 and 10 only"
    parts = call.sequences.sequences
    if any(part.queries != _last(part.keys, call) for part in parts):
        return "in packed or padded rows it takes as many queries as keys only"
    if parts and max(part.keys.stop - part.keys.start for part in parts) < SHORTEST_PACKED:
        return f"in packed or padded rows it wants a sequence of {SHORTEST_PACKED} tokens or more"
    return None


def _last(keys: slice, call: AttentionCall) -> slice:
    """Return the queries of a segment all of whose keys are also queries."""
    offset = call.k.shape[2] - call.q.shape[2]
    return slice(keys.start - offset, keys.stop - offset)


def _refused(call: AttentionCall) -> str | None:
    """Return that PyTorch would not hand this call to cuDNN, or None if it would."""
    if torch.are_deterministic_algorithms_enabled():
        return "it is not deterministic, and torch.use_deterministic_algorithms is on"
    grouped = call.q.shape[1] != call.k.shape[1]
    if allowed(call.q, call.k, call.v, grouped):
        return None
    return "PyTorch would not give it this call (torch.backends.cuda.can_use_cudnn_attention)"


def allowed(q: Tensor, k: Tensor, v: Tensor, grouped: bool) -> bool:
    """Return whether PyTorch itself would let cuDNN serve these tensors on this card."""
    parameters = torch.backends.cuda.SDPAParams(q, k, v, None, 0.0, False, grouped)
    return bool(torch.backends.cuda.can_use_cudnn_attention(parameters))


PROVIDER = Provider(
    name="cudnn",
    about="cuDNN, through PyTorch",
    serves=serves,
    attend=attend,
    missing=missing,
    platform=True,
)
