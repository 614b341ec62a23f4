"""Copy several tensors between the host and a device at once, as parts of one buffer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sra_fast.kernels.transfers import send


def sent(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Return tensors of the host on ``device``, by one copy that nothing waits for.

    All have the same dtype. On a CPU they are the given ones.
    """
    if device.type == "cpu":
        return list(tensors)
    return _parts(send(_buffer(tensors), device), tensors)


def fetched(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return tensors in the host's memory, by one copy per device, which waits for that device.

    All have the same dtype. Those of the host are the given ones.
    """
    found = list(tensors)
    for device in {tensor.device for tensor in tensors if tensor.device.type != "cpu"}:
        here = [index for index, tensor in enumerate(tensors) if tensor.device == device]
        parts = [tensors[index] for index in here]
        for index, part in zip(here, _parts(_buffer(parts).cpu(), parts), strict=True):
            found[index] = part
    return found


def _buffer(tensors: Sequence[Tensor]) -> Tensor:
    if len(tensors) == 1:
        return tensors[0]
    return torch.cat([tensor.flatten() for tensor in tensors])


def _parts(buffer: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    pieces = buffer.flatten().split([tensor.numel() for tensor in like])
    return [piece.view(tensor.shape) for piece, tensor in zip(pieces, like, strict=True)]
