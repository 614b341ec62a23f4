"""Call PyTorch's own flash attention for CPU, which also returns the logsumexp.

The operator is private and named in this file alone. Its version is checked, and everything that it
would get wrong in silence is settled here, before it is called:

- it ends the process if there is no query or no key, so callers never pass that;
- it reads garbage if a last stride is not 1, so such tensors are copied;
- it wants key and value of one width, so the narrower is padded with zeros (the scale is explicit);
- its ``is_causal`` aligns the first query with the first key, so fewer queries than keys are done
  in two calls, merged by their logsumexps;
- its ``is_causal`` scales the −∞ of what it hides, so a scale of 0 or below goes into the queries;
- it knows no windows, so those are done by blocks of queries, each against the keys within reach
  under a mask of the block's own size.

It takes grouped heads, slices and transposed views as they are.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from .blocks import needs_grad, sees
from .merging import merge

OLDEST_TORCH = (2, 11)
WINDOW_QUERIES = 512  # in a block under a window; fewer, larger calls were measured fastest


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Return the causal attention of ``M ≤ N`` queries, which stand at the last key positions.

    Nothing else is masked. Takes ``q [B, Hq, M, D]``, ``k [B, Hkv, N, D]`` and
    ``v [B, Hkv, N, Dv]`` with ``M ≥ 1``. Returns ``out [B, Hq, M, Dv]`` in v's dtype, which is
    differentiable, and ``lse [B, Hq, M]`` float32, which is not.
    """
    m, n = q.shape[2], k.shape[2]
    if m == n or m == 1:
        width = max(q.shape[3], v.shape[3])
        q, k, value = (_ready(x, width) for x in (q, k, v))
        out, lse = _call(q, k, value, scale, causal=m > 1)
        return out[..., : v.shape[3]], lse
    if needs_grad(q, k, v):  # the merge would need a gradient of the logsumexps
        return attend_window(q, k, v, scale, n)
    before, own = ((k[:, :, here], v[:, :, here]) for here in (slice(0, n - m), slice(n - m, n)))
    return attend_after(q, before, own, scale)


def attend_after(
    q: Tensor, before: tuple[Tensor, Tensor], own: tuple[Tensor, Tensor], scale: float
) -> tuple[Tensor, Tensor]:
    """Return the attention of queries to all of some keys, and causally to keys of their own.

    Takes ``q [B, Hq, M, D]``, the keys and values ``before`` them and those of their ``own``, M of
    them; results are those of :func:`attend`. Nothing is copied together, and nothing carries a
    gradient.
    """
    width = max(q.shape[3], own[1].shape[3])
    q = _ready(q, width)
    past, present = (
        _call(q, _ready(k, width), _ready(v, width), scale, causal=causal)
        for (k, v), causal in ((before, False), (own, True))
    )
    out, lse = merge(past, present)
    return out[..., : own[1].shape[3]], lse


def attend_window(
    q: Tensor, k: Tensor, v: Tensor, scale: float, window: int
) -> tuple[Tensor, Tensor]:
    """Return the attention of queries that see themselves and the ``window − 1`` keys before them.

    Arguments and results have the shapes of :func:`attend`.
    """
    width = max(q.shape[3], v.shape[3])
    q, k, value = (_ready(x, width) for x in (q, k, v))
    m, n = q.shape[2], k.shape[2]
    found = []
    for first in range(0, m, WINDOW_QUERIES):
        last = min(first + WINDOW_QUERIES, m)
        high = n - m + last
        low = max(0, n - m + first - window + 1)
        at_query = torch.arange(n - m + first, high, device=q.device)
        visible = sees(at_query, torch.arange(low, high, device=q.device), window)
        mask = q.new_zeros(visible.shape).masked_fill_(~visible, -torch.inf)
        piece = (q[:, :, first:last], k[:, :, low:high], value[:, :, low:high])
        found.append(_call(*piece, scale, causal=False, mask=mask[None, None]))
    out, lse = (torch.cat(parts, dim=2) for parts in zip(*found, strict=True))
    return out[..., : v.shape[3]], lse


def _ready(x: Tensor, width: int) -> Tensor:
    """Return ``x`` with heads padded to ``width`` and a last stride of 1, for the operator."""
    if x.shape[3] < width:
        return F.pad(x, (0, width - x.shape[3]))
    return x if x.stride(3) == 1 else x.contiguous()


def _call(
    q: Tensor, k: Tensor, v: Tensor, scale: float, *, causal: bool, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return ``out`` and ``lse`` of one call of the operator, without dropout."""
    if causal and scale <= 0:
        q, scale = q * (-1.0 if scale < 0 else 0.0), abs(scale) or 1.0
    out, lse = _operator()(q, k, v, 0.0, causal, attn_mask=mask, scale=scale)
    return out, lse


@functools.cache
def _operator() -> torch._ops.OpOverload:
    """Return PyTorch's flash operator, or raise an error if this torch does not have it."""
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    operator = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
    if version < OLDEST_TORCH or operator is None:
        raise RuntimeError(
            f"torch {torch.__version__} does not give the logsumexp of its CPU flash attention; "
            f'install torch >= {".".join(map(str, OLDEST_TORCH))}, or use backend="reference"'
        )
    overload: torch._ops.OpOverload = operator.default
    return overload
