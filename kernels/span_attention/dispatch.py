"""Which backend ``auto`` takes: what was measured fastest on the card, or what is reasoned to be.

``measured.json`` is written by the GPU report, per architecture and kind of work. Where it has no
entry, reasoning decides: on a CPU PyTorch's own flash kernel is the only fast one. On a GPU that
the Triton kernels serve they are taken, because they alone serve windows, softcaps, sinks and the
gradient of the mass in one pass each. Every other device gets the exact blocks of ``lse``.
"""

from __future__ import annotations

import functools
import json
from importlib import resources
from typing import Literal

import torch
from torch import Tensor

Work = Literal["prefill", "decode", "mass_grad"]
DECODE_QUERIES = 16  # at most, to count as decoding


def fastest(q: Tensor, v: Tensor, *, mass_grad: bool) -> str:
    """``"lse"`` or ``"triton"`` for tensors like these; ``mass_grad``: the mass gets a gradient."""
    if q.device.type != "cuda" or torch.version.hip is not None:
        return "lse"
    from sra_fast.kernels.triton_kernels import backend, configurations  # imported on first use

    if backend.unserved(q, v) is not None:
        return "lse"
    work: Work = "prefill"
    if mass_grad:
        work = "mass_grad"
    elif q.shape[2] <= DECODE_QUERIES:
        work = "decode"
    return measured().get(configurations.architecture(q.device), {}).get(work, "triton")


@functools.cache
def measured() -> dict[str, dict[str, str]]:
    """``measured.json``: architecture -> kind of work -> backend."""
    text = resources.files("sra_fast.kernels").joinpath("measured.json").read_text("utf-8")
    table: dict[str, dict[str, str]] = json.loads(text)
    return table
