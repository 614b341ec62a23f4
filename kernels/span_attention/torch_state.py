"""Ask PyTorch what it keeps of tensors under private names, seen in torch 2.11 to 2.13."""

from __future__ import annotations

from torch import Tensor
from torch.autograd import forward_ad


def writes(*tensors: Tensor) -> tuple[int, ...] | None:
    """Return how often each tensor was written into; None if one of inference mode is among them.

    Those do not count it.
    """
    counts = []
    for tensor in tensors:
        if tensor.is_inference():
            return None
        counts.append(tensor._version)
    return tuple(counts)


def is_followed_forward(*tensors: Tensor | None) -> bool:
    """Return whether forward-mode differentiation follows a tensor (``jvp``, dual levels)."""
    return forward_ad._current_level >= 0 and any(  # asked first: it costs nothing
        tensor is not None and forward_ad.unpack_dual(tensor).tangent is not None
        for tensor in tensors
    )
