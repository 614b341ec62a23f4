"""Time a profile of all keys with its gradient by q and k, beside PyTorch's blocks of rows.

The kernels' gradients are compared first: with float32 autograd of the definition at a short
length, and at the length that is timed with the blocks, in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.gpu.harness import checking, tensors
from benchmarks.gpu.harness.bench import Bench, Entry
from benchmarks.gpu.harness.timing import BenchCall
from sra_fast import SpanQuery, span_mass
from sra_fast.kernels import profile
from sra_fast.kernels.contract import LogitRule, ProfileQuery
from sra_fast.kernels.plan import plan

WORK = "profile and its gradient"
Step = Callable[[Tensor, Tensor], Tensor]


def run(bench: Bench) -> None:
    """Check the gradients, then time a profile with its gradient at each length."""
    bench.each([{"check": WORK, "T": bench.sizes.gradients}], _check)
    bench.each([{"work": WORK, "T": tokens} for tokens in bench.sizes.column_sums], _measure)


def _check(bench: Bench, entry: Entry, seconds: float) -> None:
    q, k, query = _given(bench, entry["T"])

    def definition(q: Tensor, k: Tensor) -> Tensor:
        return _profile(span_mass(q, k, query, backend="reference").profile)

    def kernels(q: Tensor, k: Tensor) -> Tensor:
        return _profile(span_mass(q, k, query, backend="triton").profile)

    _compare(bench, entry, _step(kernels, q, k), _step(definition, q.float(), k.float()))


@torch.no_grad()
def _measure(bench: Bench, entry: Entry, seconds: float) -> None:
    from sra_fast.kernels.triton_kernels import backend

    q, k, query = _given(bench, entry["T"])
    lse = span_mass(q, k, query, backend="triton").lse
    rule = LogitRule(bench.sizes.width**-0.5)
    sequences = plan(query, q.shape[0], q.shape[2], k.shape[2])

    def kernels(q: Tensor, k: Tensor) -> Tensor:
        return backend.connected_profile_of_rows(q, k, lse, query, rule)

    def blocks(q: Tensor, k: Tensor) -> Tensor:
        return profile.of_rows(q, k, lse, query, sequences, rule)

    _compare(bench, entry, _step(kernels, q, k), _step(blocks, q.float(), k.float()))
    calls: dict[str, BenchCall] = {
        "kernels": lambda: _step(kernels, q, k),
        "blocks": lambda: _step(blocks, q, k),
    }
    turns = bench.turns(calls, seconds)
    turns.required(*calls)
    turns.record(entry)
    entry["blocks/kernels"] = turns.ratio("blocks", "kernels")


def _given(bench: Bench, tokens: int) -> tuple[Tensor, Tensor, SpanQuery]:
    """Return q, k and a query for one profile of each head, over all the rows asked for."""
    given = tensors.attention(bench.sizes, bench.device, bench.dtype, tokens)
    one_group = torch.zeros(len(given.asking.rows), dtype=torch.int32, device=bench.device)
    return given.q, given.k, replace(given.asking, profile=ProfileQuery(one_group, 1))


def _profile(found: Tensor | None) -> Tensor:
    assert found is not None
    return found


def _step(make: Step, q: Tensor, k: Tensor) -> Sequence[Tensor]:
    """Return the gradients by q and k of a random function of the profile."""
    leaves = [x.detach().requires_grad_() for x in (q, k)]
    with torch.enable_grad():
        made = make(*leaves)
        generator = torch.Generator(q.device).manual_seed(2)
        cotangent = torch.randn(made.shape, generator=generator, device=q.device)
        return torch.autograd.grad(made, leaves, cotangent.to(made.dtype))


def _compare(bench: Bench, entry: Entry, found: Sequence[Tensor], wanted: Sequence[Tensor]) -> None:
    """Keep the errors of dq and dk in the entry, and refuse those that are too large."""
    names = ("profile's dq", "profile's dk")
    errors = {n: checking.relative(*pair) for n, *pair in zip(names, found, wanted, strict=True)}
    entry["errors"] = errors
    checking.require(errors, dict.fromkeys(errors, checking.tolerance(None, bench.dtype)))
