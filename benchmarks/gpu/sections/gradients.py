"""Measure forward and backward: with a gradient of the output alone, and with one of the mass too.

Three checks come before any time counts: each provider's gradients against float32 autograd of the
definition at a short length; at the length that is timed, those of the output against PyTorch's own
attention, and those of output and mass against the other providers'.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu.harness import checking, tensors
from benchmarks.gpu.harness.bench import BAD, Bench, Entry
from benchmarks.gpu.harness.failures import WrongResultError, describe, recover
from benchmarks.gpu.harness.opponents import SDPA, backend_of, refuse_wrong
from benchmarks.gpu.harness.timing import BenchCall
from benchmarks.gpu.sections.provider_table import SLOW
from sra_fast import SpanQuery, span_attention
from sra_fast.kernels.contract import LogitRule
from sra_fast.kernels.dispatch import reason_against
from sra_fast.kernels.providers import PROVIDERS, call_of

PASSES = 3.5  # times the forward pass: seven products where that has two
NAMES = ("dq", "dk", "dv")
WORKS = ("training", "mass_grad")
CHECKED = "gradients against float32: "


def run(bench: Bench) -> None:
    """Check every provider, and then time those that were right."""
    sizes = bench.sizes
    names = [name for name in PROVIDERS if name not in SLOW]
    bench.each([{"check": CHECKED + name, "T": sizes.gradients} for name in names], _check)
    bench.each(
        [{"work": work, "T": tokens} for tokens in sizes.backward for work in WORKS], _measure
    )


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

    def step(self, backend: str, *, mass: bool, out: bool = True) -> Sequence[Tensor | None]:
        """Return the gradients by q, k and v of one forward and backward pass."""
        result = span_attention(self.q, self.k, self.v, self.query, backend=backend, mass_grad=mass)
        outputs = ([result.out] if out else []) + ([result.mass] if mass else [])
        cotangents = ([self.d_out] if out else []) + ([self.d_mass] if mass else [])
        return torch.autograd.grad(outputs, (self.q, self.k, self.v), cotangents, allow_unused=True)

    def pytorch_step(self) -> Sequence[Tensor]:
        """Return the gradients of PyTorch's own attention, by whatever kernel it chooses."""
        out = F.scaled_dot_product_attention(
            self.q, self.k, self.v, is_causal=True, enable_gqa=True
        )
        return torch.autograd.grad(out, (self.q, self.k, self.v), self.d_out)

    def unserved(self, name: str) -> str | None:
        """Return why a provider does not serve these tensors, or None if it does."""
        rule = LogitRule(self.q.shape[3] ** -0.5)
        return reason_against(name, call_of(self.q, self.k, self.v, self.query, rule))


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


def _check(bench: Bench, entry: Entry, seconds: float) -> None:
    """Compare a provider's gradients with float32 autograd, those of out and mass also alone."""
    name = entry["check"].removeprefix(CHECKED)
    mine = leaves(bench, entry["T"])
    if (reason := mine.unserved(name)) is not None:
        entry["absent"] = f"does not serve: {reason}"
        return
    exact = leaves(bench, entry["T"], torch.float32)
    true = exact.step("reference", mass=False)
    of_plain = max(_errors(mine.pytorch_step(), true).values())
    errors: dict[str, float] = {}
    for label, terms in {
        "": {"mass": True},
        " without mass": {"mass": False},
        " of the mass": {"mass": True, "out": False},
    }.items():
        found = mine.step(backend_of(name), **terms)
        true = exact.step("reference", **terms)
        errors |= {f"{wrt}{label}": error for wrt, error in _errors(found, true).items()}
    entry["errors"] = {**errors, "PyTorch's": of_plain}
    checking.require(errors, dict.fromkeys(errors, checking.tolerance(of_plain, bench.dtype)))


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
    right = [
        one["check"].removeprefix(CHECKED)
        for one in bench.entries
        if "check" in one and not (BAD | {"absent"}) & one.keys()
    ]
    if not right:
        raise WrongResultError("no provider passed the check of its gradients: no time counts")
    given, mass = leaves(bench, entry["T"]), entry["work"] == "mass_grad"
    calls: dict[str, BenchCall] = {SDPA: given.pytorch_step}
    calls |= {n: functools.partial(given.step, backend_of(n), mass=mass) for n in right}
    wrong = _differing(calls, mass, bench, entry)
    turns = bench.turns({n: call for n, call in calls.items() if n not in wrong}, seconds)
    turns.required(SDPA)
    turns.record(entry)
    ours = [name for name in turns.samples if name != SDPA]
    work = PASSES * tensors.flops(bench.sizes, entry["T"]) / 1e12
    for name in turns.samples:
        entry[f"{name}_tflops"] = work / (turns.seconds(name) or 0.0)
    for name in ours:
        entry[f"{name}/sdpa"] = turns.ratio(name, SDPA)
    if ours:
        entry["fastest"] = best = min(ours, key=lambda name: turns.seconds(name) or 0.0)
        entry["fastest/sdpa"] = entry[f"{best}/sdpa"]
        if ceiling := bench.ceilings.get("gemm_tflops"):
            entry["of_ceiling"] = entry[f"{best}_tflops"] / ceiling
    refuse_wrong(entry)


def _differing(calls: dict[str, BenchCall], mass: bool, bench: Bench, entry: Entry) -> set[str]:
    """Return the providers whose gradients are not those of the first call that can say them.

    That is PyTorch's own attention for the output, and the first provider where the mass is in it.
    """
    allowed = checking.tolerance(None, bench.dtype)
    truth: Sequence[Tensor | None] | None = None
    for name, call in calls.items():
        if mass and name == SDPA:
            continue
        try:
            found = call()
            if truth is None:
                truth = found
                continue
            errors = {f"{name} {wrt}": off for wrt, off in _errors(found, truth).items()}
            entry.setdefault("errors", {}).update(errors)
            checking.require(errors, dict.fromkeys(errors, allowed))
        except Exception as error:  # the others may be right
            entry.setdefault("wrong", {})[name] = describe(error)
            recover(bench.device)
    return set(entry.get("wrong", {}))
