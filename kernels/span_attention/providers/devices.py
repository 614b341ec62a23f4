"""Ask what device a call runs on: the first thing that decides which kernels can serve it."""

from __future__ import annotations

import torch


def not_nvidia(device: torch.device) -> str | None:
    """Return why a kernel for NVIDIA's cards cannot run on a device, or None if it could."""
    if device.type != "cuda":
        return f"it runs on CUDA, not on {device.type}"
    return None if torch.version.hip is None else "it runs on NVIDIA's cards, not on ROCm"


def capability(device: torch.device) -> tuple[int, int]:
    """Return the compute capability of a CUDA device."""
    return torch.cuda.get_device_capability(device)


def is_capturing(device: torch.device) -> bool:
    """Return whether a CUDA graph is being captured, in which nothing may wait for the device."""
    if device.type != "cuda" or not torch.cuda.is_initialized():
        return False
    return torch.cuda.is_current_stream_capturing()


def not_half(dtype: torch.dtype) -> str | None:
    """Return why a kernel for 16 bits cannot take a dtype, or None if it can."""
    if dtype in (torch.float16, torch.bfloat16):
        return None
    return f"it takes float16 and bfloat16 only, not {dtype}"
