"""Run the same call again and again, and with tensors that reach beyond 2³¹ numbers.

A race, a missing fence or an address of 32 bits rarely shows in one small run. So every kernel runs
many times on the same inputs, and must give the same bits each time; and forward and backward run
on tensors of more than 2³¹ numbers, and on strides that reach as far within one sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.gpu.harness import checking, tensors
from benchmarks.gpu.harness.bench import LEAST_SECONDS, Bench, Entry
from benchmarks.gpu.harness.failures import WrongResultError
from benchmarks.gpu.harness.places import FAR, FAR_ROWS, KINDS, PROFILE_GRADIENT, ROWS_GRADIENT
from sra_fast import span_attention, span_mass
from sra_fast.kernels.contract import LogitRule, ProfileQuery, SpanQuery

Results = Callable[[], Sequence[Tensor]]

FEWEST_REPEATS = 2


def run(bench: Bench) -> None:
    """Repeat every kernel at every width, then check offsets."""
    places: list[Entry] = [
        {"what": kind, "D": width, "T": bench.sizes.repeated}
        for width in bench.sizes.widths
        for kind in KINDS
    ]
    bench.each(places, _repeat)
    bench.each([{"what": what} for what in FAR], _offsets)


def _repeat(bench: Bench, entry: Entry, seconds: float) -> None:
    results = _kind(bench, entry["what"], entry["D"], entry["T"])
    first = [x.clone() for x in results()]
    different = runs = 0
    while runs < bench.sizes.repeats - 1:
        if runs >= FEWEST_REPEATS and bench.left < LEAST_SECONDS:
            entry["skipped"] = f"out of time after {runs + 1} of {bench.sizes.repeats} runs"
            break
        different += not all(map(_same_bits, results(), first))
        runs += 1
    entry["runs"], entry["different"] = runs + 1, different
    if different:
        raise WrongResultError(f"{different} of {runs} further runs differ in their bits")


def _same_bits(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8))


def _kind(bench: Bench, what: str, width: int, tokens: int) -> Results:
    """Return a call of one kind of work by the fused kernels that gives all it computes."""
    from sra_fast.kernels.triton_kernels import backend

    step = what == "decoding step"
    given = tensors.attention(
        bench.sizes, bench.device, bench.dtype, tokens, queries=1 if step else None, width=width
    )
    q, k, v, query = given.q, given.k, given.v, given.asking
    if what == "mass alone":

        def alone() -> Sequence[Tensor]:
            result = span_mass(q, k, query, backend="triton")
            return result.mass, result.lse

        return alone
    if what == "mass from lse":
        lse = span_attention(q, k, v, query, backend="triton").lse
        return lambda: [backend.mass_of_lse(q, k, lse, query, LogitRule(width**-0.5))]
    if what == ROWS_GRADIENT:
        return lambda: rows_gradient(q, k, v, query)
    if what == PROFILE_GRADIENT:
        return lambda: profile_gradient(q, k, query)
    return lambda: _attend(q, k, v, query, backward=not step)


def _attend(
    q: Tensor, k: Tensor, v: Tensor, query: SpanQuery, *, backward: bool
) -> Sequence[Tensor]:
    """Return out, mass and lse, and with a backward pass the gradients by q, k and v."""
    leaves = [x.detach().requires_grad_(backward) for x in (q, k, v)]
    result = span_attention(*leaves, query, backend="triton")
    found = [result.out.detach(), result.mass.detach(), result.lse]
    if backward:
        outputs = (result.out, result.mass)
        found += torch.autograd.grad(outputs, leaves, [x.detach() for x in outputs])
    return found


def rows_gradient(q: Tensor, k: Tensor, v: Tensor, query: SpanQuery) -> Sequence[Tensor]:
    """Return the mass of backend ``lse`` and its gradients by q and k, without those of out."""
    leaves = [x.detach().requires_grad_() for x in (q, k, v)]
    mass = span_attention(*leaves, query, backend="lse").mass
    return [mass.detach(), *torch.autograd.grad(mass, leaves[:2], mass.detach())]


def profile_gradient(q: Tensor, k: Tensor, query: SpanQuery) -> Sequence[Tensor]:
    """Return profiles by head of every other row, and their gradients by q and k."""
    leaves = [x.detach().requires_grad_() for x in (q, k)]
    groups = torch.arange(len(query.rows), dtype=torch.int32, device=q.device) % 2 - 1
    asked = replace(query, profile=ProfileQuery(groups, 1))
    profile = span_mass(*leaves, asked, backend="triton").profile
    assert profile is not None
    return [profile.detach(), *torch.autograd.grad(profile, leaves, profile.detach())]


def _offsets(bench: Bench, entry: Entry, seconds: float) -> None:
    far = _far_rows if entry["what"] == FAR_ROWS else _far_strides
    q, k, v, query = far(bench)
    last, m = q.shape[0] - 1, q.shape[2]
    exact = checking.exact_rows(q, k, v, query)
    out, mass, _, *gradients = _attend(q, k, v, query, backward=True)
    errors = {
        "out": checking.relative(checking.rows_of(out, query), exact.out),
        "mass": checking.relative(mass, exact.mass),
    }
    # The last batch row, compact and alone, has the same gradients to rounding.
    alone = replace(
        query, key_labels=query.key_labels[last:], rows=query.rows - last * m,
        segments=torch.tensor([[0, 0, m]], dtype=torch.int32, device=bench.device),
    )  # fmt: skip
    near = _attend(*(x[last:].clone() for x in (q, k, v)), alone, backward=True)[3:]
    for name, mine, true in zip(("dq", "dk", "dv"), gradients, near, strict=True):
        errors[name] = checking.relative(mine[last:], true)
    entry["errors"] = errors
    allowed = dict.fromkeys(errors, checking.tolerance(None, bench.dtype))
    checking.require(errors, allowed | {"mass": checking.MASS_TOLERANCE})


def _far_rows(bench: Bench) -> tuple[Tensor, Tensor, Tensor, SpanQuery]:
    """Return so many batch rows that q holds more than ``sizes.offsets`` numbers."""
    sizes, tokens = bench.sizes, bench.sizes.repeated
    batch = sizes.offsets // (sizes.heads * tokens * sizes.width) + 2
    given = tensors.attention(sizes, bench.device, bench.dtype, tokens, batch=batch)
    query = replace(given.asking, rows=given.asking.rows[-sizes.rows :])
    return given.q, given.k, given.v, query


def _far_strides(bench: Bench) -> tuple[Tensor, Tensor, Tensor, SpanQuery]:
    """Return q, k and v as parts of one buffer, whose last token is at ``sizes.offsets``.

    All else in the buffer is NaN, so that nothing can be read from there unseen.
    """
    sizes, tokens = bench.sizes, bench.sizes.repeated
    given = tensors.attention(sizes, bench.device, bench.dtype, tokens)
    used = (sizes.heads + 2 * sizes.kv_heads) * sizes.width
    stride = max(sizes.offsets // (tokens - 1) // 64 * 64 + 64, used)
    buffer = torch.full((tokens, stride), torch.nan, device=bench.device, dtype=bench.dtype)
    parts, begin = [], 0
    for x in (given.q, given.k, given.v):
        heads = x.shape[1]
        columns = buffer[:, begin : begin + heads * sizes.width]
        part = columns.view(1, tokens, heads, sizes.width).transpose(1, 2)
        parts.append(part.copy_(x))
        begin += heads * sizes.width
    return *parts, given.asking
