"""Choose the backend that ``auto`` takes: the one measured, or else reasoned, to be fastest.

``measured.json`` is written by the GPU report, by compute capability and kind of work.
Where it has no entry, reasoning decides: on a CPU PyTorch's own flash kernel is the only fast one;
on an NVIDIA GPU the Triton kernels are taken, because they take packed rows, windows, softcaps,
sinks and the gradient of the mass in one pass each. Everything else gets the exact blocks of
``lse``. That includes AMD's chips, for which the kernels are compiled but were never run.
"""

from __future__ import annotations

import json
from importlib import resources
from typing import Any, Literal

import torch
from torch import Tensor

from . import flash_cuda
from .blocks import needs_grad
from .contract import LogitRule

Work = Literal["prefill", "decode", "training", "mass_grad"]
DECODE_QUERIES = 16  # a call with at most this many queries counts as decoding

# Card -> kind of work -> backend; read on import, so that a compiled graph finds a dictionary.
MEASURED: dict[str, dict[str, str]] = json.loads(
    resources.files("sra_fast.kernels").joinpath("measured.json").read_text("utf-8")
)


def fastest(q: Tensor, k: Tensor, v: Tensor, rule: LogitRule, *, mass_grad: bool) -> str:
    """Return the backend for a call, ``"lse"`` or ``"triton"``.

    ``mass_grad`` says whether the mass is to carry a gradient.
    """
    if trusted_kernels(q, v) is None:
        return "lse"
    work: Work = "prefill"
    if mass_grad:
        work = "mass_grad"
    elif needs_grad(q, k, v, rule.sinks):
        work = "training"
    elif q.shape[2] <= DECODE_QUERIES:
        work = "decode"
    backend = MEASURED.get(card(q.device), {}).get(work, "triton")
    # Only plain causal attention is measured: what the winner does slowly goes to the other.
    if backend == "lse" and flash_cuda.unserved(q, k, v, rule) is not None:
        return "triton"
    return backend


def trusted_kernels(q: Tensor, v: Tensor) -> Any | None:
    """Return the Triton backend if it may be chosen unasked for tensors like these, else None."""
    if q.device.type != "cuda" or torch.version.hip is not None:
        return None
    kernels = triton_backend()
    return None if kernels is None or kernels.unserved(q, v) is not None else kernels


def triton_backend() -> Any | None:
    """Return the module of backend ``triton``, imported on first use, or None without triton."""
    try:
        from .triton_kernels import backend
    except ModuleNotFoundError as missing:
        if missing.name != "triton":
            raise
        return None
    return backend


def card(device: torch.device) -> str:
    """Return a device's name in ``measured.json``: its compute capability, or its type."""
    if device.type != "cuda":
        return device.type
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"
