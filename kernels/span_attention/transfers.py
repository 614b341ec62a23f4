"""Send tensors to a device without waiting for it."""

from __future__ import annotations

import torch
from torch import Tensor


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on ``device``: itself if it is there, else a copy that is on its way there.

    From ordinary memory a GPU copies only once all earlier work is done, and the host waits for
    that. So what goes to a GPU is copied to page-locked memory first, which torch keeps for the
    next time.
    """
    if tensor.device == device:
        return tensor
    to_gpu = device.type == "cuda" and tensor.device.type == "cpu"
    if to_gpu and torch.cuda.is_available() and not torch.compiler.is_compiling():
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=to_gpu)
