"""Compute exact attention in blocks of queries where no flash kernel serves, in bounded memory.

That is the case for softcaps, for gradients that pass through the logsumexp (sinks), and on devices
without a flash kernel that returns it. A block holds as many queries as keep its logits within a
budget, and meets only the keys that some query of it can see. When gradients are wanted, each block
is computed again in the backward pass, so that the whole attention map never exists there either.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .contract import LogitRule, accumulation_dtype

BLOCK_NUMBERS = 1 << 22  # logits alive at once: 16 MB in float32, about a CPU's cache


def attend(q: Tensor, k: Tensor, v: Tensor, rule: LogitRule) -> tuple[Tensor, Tensor]:
    """Return the attention of one sequence under all of ``rule``: ``out`` and ``lse``.

    Shapes are those of :func:`flash_cpu.attend`. The output is differentiable in q, k, v and the
    sinks; lse is detached.
    """
    m, n = q.shape[2], k.shape[2]
    outs, lses = [], []
    wants_grad = needs_grad(q, k, v, rule.sinks)
    # Largest blocks first: an allocator reuses their memory for the smaller ones.
    for first, last in reversed(query_blocks(q.shape[0] * q.shape[1], m, n, rule.window)):
        high = n - m + last
        low = 0 if rule.window is None else max(0, n - m + first - rule.window + 1)
        positions = torch.arange(n - m + first, high, device=q.device)
        piece = (q[:, :, first:last], k[:, :, low:high], v[:, :, low:high], positions, low, rule)
        out, lse = recomputed(wants_grad, _block, *piece)
        outs.append(out)
        lses.append(lse.detach())
    return torch.cat(outs[::-1], dim=2), torch.cat(lses[::-1], dim=2)


def needs_grad(*tensors: Tensor | None) -> bool:
    """Return whether autograd is on and any of the tensors asks for a gradient."""
    return torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in tensors
    )


def query_blocks(heads: int, m: int, n: int, window: int | None) -> list[tuple[int, int]]:
    """Return the ``(first, last)`` ranges of queries whose logits stay within the budget."""
    reach = n if window is None else min(n, 2 * window)
    size = max(16, BLOCK_NUMBERS // max(1, heads * reach))
    if window is not None:
        size = min(size, max(16, window))
    return [(first, min(first + size, m)) for first in range(0, m, size)]


def recomputed(
    wants_grad: bool, function: Callable[..., tuple[Tensor, Tensor]], *arguments: object
) -> tuple[Tensor, Tensor]:
    """Return ``function(*arguments)`` and keep only the arguments for its backward pass."""
    if wants_grad:
        again: tuple[Tensor, Tensor] = checkpoint(
            function, *arguments, use_reentrant=False, preserve_rng_state=False
        )
        return again
    return function(*arguments)


def logits(q: Tensor, k: Tensor, positions: Tensor, low: int, rule: LogitRule) -> Tensor:
    """Return the masked logits of some queries, ``[B, Hq, m, n]`` in the accumulation dtype.

    ``q [B, Hq, m, D]`` stands at key positions ``positions [m]``; ``k [B, Hkv, n, D]`` begins at
    position ``low``. The query heads of one key head share one product, so no key is repeated.
    """
    batch, heads, m, width = q.shape
    groups, n = k.shape[1], k.shape[2]
    dtype = accumulation_dtype(q.dtype)
    product = q.to(dtype).reshape(batch, groups, -1, width) @ k.to(dtype).transpose(2, 3)
    scores = cap(product.reshape(batch, heads, m, n).mul_(rule.scale), rule.softcap)
    at_key = torch.arange(low, low + n, device=q.device)
    return scores.masked_fill_(~sees(positions, at_key, rule.window), -torch.inf)


def cap(scores: Tensor, softcap: float | None) -> Tensor:
    """Return ``softcap · tanh(scores / softcap)``, or the scores unchanged without a softcap."""
    return scores if softcap is None else torch.tanh(scores / softcap) * softcap


def sees(at_query: Tensor, at_key: Tensor, window: int | None) -> Tensor:
    """Return which query sees which key, ``[m, n]`` bool: causal, and within the window if any."""
    visible = at_key <= at_query[:, None]
    if window is not None:
        visible = visible & (at_key > at_query[:, None] - window)
    return visible


def logsumexp(scores: Tensor, sinks: Tensor | None) -> Tensor:
    """Return ``log(Σ exp scores + exp sink)`` over the last dimension of ``[B, Hq, m, n]``."""
    lse = torch.logsumexp(scores, dim=-1)
    if sinks is None:
        return lse
    return torch.logaddexp(lse, sinks.to(lse.dtype)[:, None])


def _block(
    q: Tensor, k: Tensor, v: Tensor, positions: Tensor, low: int, rule: LogitRule
) -> tuple[Tensor, Tensor]:
    """Return ``out [B, Hq, m, Dv]`` and ``lse [B, Hq, m]`` of one block of queries."""
    scores = logits(q, k, positions, low, rule)
    lse = logsumexp(scores, rule.sinks)
    weights = (scores - lse[..., None]).exp_()
    batch, heads, m, n = weights.shape
    grouped = weights.to(v.dtype).reshape(batch, k.shape[1], -1, n) @ v
    return grouped.reshape(batch, heads, m, v.shape[3]), lse
