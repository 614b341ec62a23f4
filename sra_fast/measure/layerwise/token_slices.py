"""Run the parts of a layer that treat each token by itself in slices of tokens, in less memory.

An MLP of width I holds 3 I numbers per token at its peak; in slices it holds them for one slice.
Which parts treat each token by itself is not read off their names: each is tried on a few tokens,
whole and in two halves, and runs whole where the two differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sra_fast.measure.model_kinds import is_attention

SLICE_TOKENS = 512
"""The most tokens of a slice, over all rows of a batch."""

_TRIED = 8  # tokens on which a part is tried
_DIGITS = 1e-4  # relative, of float32: two halves of a text differ by rounding alone
_NOISE = 2e-2  # relative, of half precision


@contextmanager
def sliced_parts(layer: nn.Module) -> Iterator[None]:
    """Run the token-wise parts of a layer, which has its weights, in slices inside the block."""
    parts = list(_parts(layer))
    before = [vars(part).get("forward") for part in parts]
    try:
        for part in parts:
            part.forward = _in_slices(part.forward)
        yield
    finally:
        for part, own in zip(parts, before, strict=True):
            vars(part).pop("forward", None)
            if own is not None:
                part.forward = own


def _parts(layer: nn.Module) -> Iterator[nn.Module]:
    """Yield the largest parts of a layer that hold weights and no attention."""
    for child in layer.children():
        if is_attention(child) or not any(True for _ in child.parameters()):
            continue
        if any(is_attention(module) for module in child.modules()):
            yield from _parts(child)
        else:
            yield child


def _in_slices(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Return a forward method that runs another one in slices where that changes nothing."""
    token_wise: list[bool] = []

    def sliced(*args: Any, **kwargs: Any) -> Any:
        """Run a part on ``[B, T, H]`` in slices of its second axis, if it treats each token alone.

        Whatever else it is given goes to the part as it is.
        """
        hidden = args[0] if len(args) == 1 and not kwargs else None
        if not isinstance(hidden, Tensor) or hidden.ndim != 3:
            return forward(*args, **kwargs)
        each = max(1, SLICE_TOKENS // max(1, hidden.shape[0]))
        if hidden.shape[1] <= max(each, _TRIED):
            return forward(hidden)
        if not token_wise:
            token_wise.append(_is_token_wise(forward, hidden[:, :_TRIED]))
        if not token_wise[0]:
            return forward(hidden)
        whole: Tensor | None = None
        for start in range(0, hidden.shape[1], each):
            # Contiguous, as the part would see them: some take views.
            part = forward(hidden[:, start : start + each].contiguous())
            if whole is None:
                whole = part.new_empty(*hidden.shape[:2], *part.shape[2:])
            whole[:, start : start + each] = part
        return whole

    return sliced


def _is_token_wise(forward: Callable[..., Any], few: Tensor) -> bool:
    """Return whether a part gives for a few tokens, ``[B, n, H]``, what it gives for each half."""
    few = few.contiguous()
    half = few.shape[1] // 2
    whole = forward(few)
    if not isinstance(whole, Tensor) or whole.shape[:2] != few.shape[:2]:
        return False
    halves = [forward(few[:, :half].contiguous()), forward(few[:, half:].contiguous())]
    if any(not isinstance(one, Tensor) or one.ndim != whole.ndim for one in halves):
        return False
    apart = (torch.cat(halves, dim=1) - whole).float().abs().amax()
    exact = whole.dtype in (torch.float32, torch.float64)
    return bool(apart <= (_DIGITS if exact else _NOISE) * whole.float().abs().amax())
