"""Find out which kernel PyTorch's own attention runs here, by the names that its profiler gives.

PyTorch chooses among FlashAttention-2, cuDNN and others by card, version and shape. That choice is
what this library's times are compared with, so the report has to name it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu.harness import profiled, tensors
from benchmarks.gpu.harness.bench import Bench, Entry

KINDS = {"cudnn": "cuDNN", "flash": "FlashAttention", "fmha": "memory-efficient", "gemm": "math"}
"""The family of a kernel, by a word that its name holds."""
SHOWN = 90  # characters of a kernel's name


def run(bench: Bench) -> None:
    """Note the kernel of a causal prompt at every width, and of a decoding step."""
    tokens = bench.sizes.decode_keys[-1]
    places: list[Entry] = [
        {"what": "causal prompt", "D": d, "T": tokens} for d in bench.sizes.widths
    ]
    bench.each([*places, {"what": "decoding step", "D": bench.sizes.width, "T": tokens}], _measure)


@torch.no_grad()
def _measure(bench: Bench, entry: Entry, seconds: float) -> None:
    step = entry["what"] == "decoding step"
    given = tensors.attention(
        bench.sizes, bench.device, bench.dtype, entry["T"], queries=1 if step else None,
        width=entry["D"],
    )  # fmt: skip

    def call() -> Tensor:  # as transformers calls it where there is no mask
        return F.scaled_dot_product_attention(
            given.q, given.k, given.v, is_causal=not step, enable_gqa=True
        )

    call()
    ran = profiled.kernels(profiled.watch(call, bench.device), bench.device)
    if not ran:
        entry["absent"] = "the profiler saw no kernel"
        return
    entry["kernel"] = ran[0][:SHOWN]
    entry["kind"] = next((kind for part, kind in KINDS.items() if part in ran[0].lower()), "other")
    entry["kernels"] = len(ran)
