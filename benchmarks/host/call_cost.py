"""Measure what a call of the op costs the host before Triton launches a kernel.

``python -m benchmarks.host.call_cost`` needs no GPU: launches are replaced by nothing, so what is
timed is the library's own part of a call with backend ``"triton"``, without gradients. A call of
PyTorch's ``scaled_dot_product_attention`` with one query and one key takes turns with it. The
figures are medians over all turns, and the ratio is that of the medians.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor
from triton.runtime.jit import KernelInterface

from benchmarks.measuring import machine
from sra_fast import SpanQuery, span_attention
from sra_fast.kernels.triton_kernels import backend
from sra_fast.tools.markdown_table import markdown_table

HEADS, KEY_HEADS, WIDTH = 32, 8, 128  # those of Llama-3-8B
CALLS = {"decode": (1, 1024), "prefill": (64, 64)}  # queries and keys


@dataclass(frozen=True)
class CallCost:
    """Microseconds of a call before its launches, and of the one-token call beside it."""

    name: str
    launches: int
    own: float
    one_token: float

    @property
    def ratio(self) -> float:
        """Return the time of the call over that of the one-token call."""
        return self.own / self.one_token


@contextmanager
def without_launches() -> Iterator[list[Any]]:
    """Let Triton launch nothing inside ``with``, on any device; yields a list of the grids."""
    grids: list[Any] = []

    def launcher(kernel: Any, grid: Any) -> Callable[..., None]:
        grids.append(grid)
        return _nothing

    with (
        patch.object(KernelInterface, "__getitem__", launcher),
        patch.object(backend, "unserved", lambda q, v: None),
    ):
        yield grids


def _nothing(*_: Any, **__: Any) -> None:
    """Stand in for a launch."""


def arguments(queries: int, keys: int) -> tuple[Tensor, Tensor, Tensor, SpanQuery]:
    """Return the arguments of a call: a span of four keys, and the last query asked for."""
    q, k, v = (
        torch.randn(1, length, heads, WIDTH).transpose(1, 2)
        for length, heads in ((queries, HEADS), (keys, KEY_HEADS), (keys, KEY_HEADS))
    )
    labels = torch.zeros(1, keys, dtype=torch.int32)
    labels[:, :4] = 1
    whole = torch.tensor([[0, 0, keys]], dtype=torch.int32)
    return q, k, v, SpanQuery(labels, torch.tensor([queries - 1]), whole, ("span",))


@torch.no_grad()
def measure(name: str, turns: int) -> CallCost:
    """Time one of :data:`CALLS` in turns with the one-token call."""
    q, k, v, query = arguments(*CALLS[name])
    one = arguments(1, 1)[:3]
    scale = WIDTH**-0.5
    own, one_token = [], []
    with without_launches() as grids:
        span_attention(q, k, v, query, scale=scale, backend="triton")
        launches = len(grids)
        for _ in range(turns):
            begun = time.perf_counter()
            F.scaled_dot_product_attention(*one, scale=scale, enable_gqa=True)
            between = time.perf_counter()
            span_attention(q, k, v, query, scale=scale, backend="triton")
            own.append(time.perf_counter() - between)
            one_token.append(between - begun)
    return CallCost(name, launches, median(own) * 1e6, median(one_token) * 1e6)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and print the table; the exit status is 0."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.host.call_cost",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--turns", type=int, default=5000, help="Time each call this many times (default 5000)."
    )
    given = parser.parse_args(arguments)
    costs = [measure(name, given.turns) for name in CALLS]
    facts = machine.facts()
    print(f"{facts['cpu']}, torch {facts['torch']}", end="\n\n")
    cells = [
        (
            cost.name,
            str(cost.launches),
            f"{cost.own:.1f}",
            f"{cost.one_token:.1f}",
            f"{cost.ratio:.2f}",
        )
        for cost in costs
    ]
    head = ("call", "launches", "before them, µs", "SDPA of one token, µs", "ratio")
    print("\n".join(markdown_table(head, cells)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
