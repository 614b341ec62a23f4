"""Run every kernel once, for a memory checker to watch.

``python -m benchmarks.gpu.sections.every_kernel`` is the process that is watched. With ``--full``
it takes the sizes that are timed, which leaves them compiled in Triton's cache.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import torch

from benchmarks.gpu.harness import tensors
from benchmarks.gpu.harness.sizes import FULL, QUICK, Sizes
from benchmarks.gpu.sections.same_bits import rows_gradient
from sra_fast import Steering, span_attention, span_mass
from sra_fast.kernels.contract import LogitRule
from sra_fast.kernels.triton_kernels import backend

ODD_LENGTH = 203  # no multiple of any tile


def run(sizes: Sizes, tokens: int, device: torch.device, dtype: torch.dtype) -> None:
    """Run every kernel at every width of heads."""
    for width in sizes.widths:
        _run_width(sizes, tokens, device, dtype, width)
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _run_width(
    sizes: Sizes, tokens: int, device: torch.device, dtype: torch.dtype, width: int
) -> None:
    """Run forward and backward, mass alone and its gradient, epilogues, and decoding."""
    given = tensors.attention(sizes, device, dtype, tokens, width=width)
    for mass in (True, False):
        q, k, v = (x.detach().requires_grad_() for x in (given.q, given.k, given.v))
        result = span_attention(q, k, v, given.asking, backend="triton", mass_grad=mass)
        loss = result.out.float().square().sum()
        if mass:
            loss = loss + result.mass.square().sum()
        loss.backward()
    rows_gradient(given.q, given.k, given.v, given.asking)
    with torch.no_grad():
        span_attention(given.q, given.k, given.v, given.silent, backend="triton")
        span_mass(given.q, given.k, given.asking, backend="triton")
        rule = LogitRule(width**-0.5)
        backend.mass_of_lse(given.q, given.k, result.lse, given.asking, rule)
        steer = Steering(given.asking.key_labels != 0, bias=-1.0)
        span_attention(given.q, given.k, given.v, given.asking, backend="triton", steer=steer)
        for batch in sizes.decode_batches:
            step = tensors.attention(
                sizes, device, dtype, sizes.decode_keys[0], batch=batch, queries=1, layout="cache",
                width=width,
            )  # fmt: skip
            for query in (step.asking, step.silent):
                span_attention(step.q, step.k, step.v, query, backend="triton")


def main() -> None:
    """Run every kernel on the GPU, in bfloat16."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--full",
        action="store_true",
        help="Run the kernels in the sizes that are timed, to have them compiled.",
    )
    full = parser.parse_args().full
    few = replace(QUICK, decode_keys=(5 * ODD_LENGTH,), widths=FULL.widths)
    sizes, tokens = (FULL, FULL.repeated) if full else (few, ODD_LENGTH)
    run(sizes, tokens, torch.device("cuda", 0), torch.bfloat16)


if __name__ == "__main__":
    main()
