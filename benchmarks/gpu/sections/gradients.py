"""Measure the backward pass: what a gradient of the mass costs, and how fast it is.

Three checks come before any time counts: the gradients against float32 autograd of the definition
at a short length, the gradients against the other backend's at a longer one, and the same bits in
two runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from benchmarks.gpu.harness import checking, tensors
from benchmarks.gpu.harness.bench import Bench, Entry
from benchmarks.gpu.harness.failures import WrongResultError, describe
from benchmarks.gpu.harness.timing import Call
from sra_fast import SpanQuery, span_attention

BACKWARD_FLOPS = 2.5  # times the forward pass: five products where that has two
NAMES = ("dq", "dk", "dv")

CheckedBackend = Literal["triton", "lse", "reference"]


def run(bench: Bench) -> None:
    """Run the checks, and then the times, which are withheld if a check failed."""
    sizes = bench.sizes
    bench.each([{"check": "float32 autograd", "T": sizes.gradients}], _check_definition)
    bench.each([{"check": "backend lse", "T": sizes.agreement}], _check_backends)
    wrong = [entry for entry in bench.entries if {"error", "skipped"} & entry.keys()]

    def measure(bench: Bench, entry: Entry, seconds: float) -> None:
        if wrong:
            raise WrongResultError("a check of the gradients failed or is missing: no time counts")
        _measure(bench, entry, seconds)

    bench.each([{"T": tokens} for tokens in sizes.backward], measure)


@dataclass(frozen=True)
class Leaves:
    """The tensors that gradients are taken by, and random cotangents.

    Attributes:
        q, k, v: the tensors that ask for gradients.
        query: the query whose rows' mass gets a cotangent.
        d_out: ``[B, Hq, T, D]``, the cotangent of the output.
        d_mass: ``[R, Hq, 1]`` float32, the cotangent of the mass.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    query: SpanQuery
    d_out: Tensor
    d_mass: Tensor

    def backward(self, backend: CheckedBackend, *, mass: bool, out: bool = True) -> Call:
        """Return a call of the backward pass alone; its forward pass is done here, once."""
        result = span_attention(self.q, self.k, self.v, self.query, backend=backend, mass_grad=mass)
        outputs = ([result.out] if out else []) + ([result.mass] if mass else [])
        cotangents = ([self.d_out] if out else []) + ([self.d_mass] if mass else [])
        return self._call(outputs, cotangents)

    def flash_backward(self) -> Call:
        """Return a call of the backward pass of PyTorch's FlashAttention.

        Raises:
            RuntimeError: the kernel does not serve these tensors here.
        """
        out = tensors.pytorch_attention(self.q, self.k, self.v, tensors.FLASH)()
        return self._call([out], [self.d_out])

    def _call(self, outputs: Sequence[Tensor], cotangents: Sequence[Tensor]) -> Call:
        leaves = (self.q, self.k, self.v)
        return lambda: torch.autograd.grad(
            outputs, leaves, cotangents, retain_graph=True, allow_unused=True
        )


def leaves(bench: Bench, tokens: int, dtype: torch.dtype | None = None) -> Leaves:
    """Return leaves with the same numbers, those of the bench's dtype, in any ``dtype``."""
    dtype = dtype or bench.dtype
    given = tensors.attention(bench.sizes, bench.device, bench.dtype, tokens)
    q, k, v = (x.to(dtype).detach().requires_grad_() for x in (given.q, given.k, given.v))
    generator = torch.Generator(bench.device).manual_seed(1)
    shape = (len(given.asking.rows), bench.sizes.heads, 1)
    d_out = torch.randn(q.shape, generator=generator, device=bench.device).to(bench.dtype)
    d_mass = torch.randn(shape, generator=generator, device=bench.device)
    return Leaves(q, k, v, given.asking, d_out.to(dtype), d_mass)


def _check_definition(bench: Bench, entry: Entry, seconds: float) -> None:
    exact = leaves(bench, entry["T"], torch.float32)
    mine = leaves(bench, entry["T"])
    errors: dict[str, float] = {}
    try:
        plain = leaves(bench, entry["T"]).flash_backward()()
        of_plain = max(_errors(plain, exact.backward("reference", mass=False)()).values())
    except RuntimeError as error:
        of_plain = None
        entry["failed"] = {"flash": describe(error)}
    for label, terms in {
        "": {"mass": True},
        " without mass": {"mass": False},
        " of the mass": {"mass": True, "out": False},
    }.items():
        true = exact.backward("reference", **terms)()
        found = mine.backward("triton", **terms)()
        errors |= {f"{name}{label}": error for name, error in _errors(found, true).items()}
    entry["errors"] = {**errors, "PyTorch's": of_plain}
    allowed = checking.tolerance(of_plain, bench.dtype)
    checking.require(errors, dict.fromkeys(errors, allowed))


def _check_backends(bench: Bench, entry: Entry, seconds: float) -> None:
    given = leaves(bench, entry["T"])
    call = given.backward("triton", mass=True)
    first, second = call(), call()
    errors = _errors(first, given.backward("lse", mass=True)())
    entry["errors"] = errors
    allowed = checking.tolerance(None, bench.dtype)
    checking.require(errors, dict.fromkeys(errors, allowed))
    same = all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    entry["same_bits"] = int(same)
    if not same:
        raise WrongResultError("two runs of the backward pass differ in their bits")


def _errors(found: Sequence[Tensor | None], wanted: Sequence[Tensor | None]) -> dict[str, float]:
    """Return the errors of gradients by name.

    A gradient that is not among the wanted ones (of v in the mass) is left out.
    """
    return {
        name: checking.relative(torch.zeros_like(true) if mine is None else mine, true)
        for name, mine, true in zip(NAMES, found, wanted, strict=True)
        if true is not None
    }


def _measure(bench: Bench, entry: Entry, seconds: float) -> None:
    given = leaves(bench, entry["T"])
    plain = given.backward("triton", mass=False)
    calls = {
        "with": given.backward("triton", mass=True),
        "without": plain,
        "without_again": plain,
    }
    try:
        calls["flash"] = given.flash_backward()
    except RuntimeError as error:
        entry["failed"] = {"flash": describe(error)}
    turns = bench.turns(calls, seconds)
    turns.required("with", "without")
    turns.record(entry)
    entry["with/without"] = turns.ratio("with", "without")
    entry["without/without"] = turns.ratio("without_again", "without")
    work = BACKWARD_FLOPS * tensors.flops(bench.sizes, entry["T"]) / 1e12
    for name in ("with", "without", "flash"):
        took = turns.seconds(name)
        entry[f"{name}_tflops"] = None if took is None else work / took
    entry["speed/flash"] = turns.ratio("flash", "without")
    ceiling = bench.ceilings.get("gemm_tflops")
    entry["of_ceiling"] = entry["with_tflops"] / ceiling if ceiling else None
