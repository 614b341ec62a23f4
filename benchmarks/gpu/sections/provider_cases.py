"""Run every provider of attention, with its mass, over those of the op's test cases that it serves.

Away from a GPU the tests have only stand-ins for the kernels of others; here these themselves run.
The fused kernel has tests of its own over the same cases.
"""

from __future__ import annotations

import itertools
import sys
import time
from typing import Any

import torch

from benchmarks.gpu.harness import checking
from benchmarks.gpu.harness.bench import Bench, Entry
from benchmarks.gpu.harness.failures import WrongResultError, describe, recover
from benchmarks.gpu.harness.opponents import FUSED
from benchmarks.gpu.harness.process import ROOT
from benchmarks.gpu.harness.sizes import QUICK
from sra_fast import span_attention
from sra_fast.kernels.contract import LogitRule
from sra_fast.kernels.dispatch import reason_against
from sra_fast.kernels.providers import PROVIDERS, call_of

MASS_TOLERANCE, LSE_TOLERANCE = 2e-4, 1e-3  # float32; a wrong key or row is off by far more
MOST_NAMES = 20  # names of failed cases in the record


def run(bench: Bench) -> None:
    """Run every provider but the fused kernel over the cases."""
    names = [name for name in PROVIDERS if name != FUSED]
    bench.each([{"what": "the op's cases", "check": name} for name in names], _cases)


def _cases(bench: Bench, entry: Entry, seconds: float) -> None:
    """Check a provider over the cases of the tests, as far as its share of the time reaches."""
    sys.path.insert(0, str(ROOT / "tests" / "support"))
    from op_cases import CASES

    name = entry["check"]
    ends = time.monotonic() + seconds
    kind = bench.device.type
    dtypes = (torch.bfloat16, torch.float16, torch.float32) if kind == "cuda" else (torch.float32,)
    cases = CASES[:4] if bench.sizes is QUICK else CASES
    right, unserved = 0, 0
    wrong: dict[str, str] = {}
    for case, dtype in itertools.product(cases, dtypes):
        if time.monotonic() > ends:
            entry["skipped"] = f"out of time; {right} were right and {len(wrong)} wrong"
            break
        try:
            served = _right(case, dtype, kind, name)
            right, unserved = right + served, unserved + (not served)
        except Exception as error:  # the other cases go on
            wrong[f"{case}, {str(dtype).removeprefix('torch.')}"] = describe(error)
        if wrong:
            recover(bench.device)
    entry |= {"passed": right, "failed_tests": len(wrong), "unserved_cases": unserved}
    entry["failures"] = dict(list(wrong.items())[:MOST_NAMES])
    if wrong:
        raise WrongResultError(
            f"{len(wrong)} cases are wrong, among them {', '.join([*wrong][:3])}"
        )


def _right(case: Any, dtype: torch.dtype, kind: str, name: str) -> bool:
    """Return whether a provider serves a case, which it must then do right."""
    from op_truth import plain_pytorch, truth, worst

    given, rule = case.tensors(dtype, kind), case.rule(dtype, kind)
    q, k, v = given
    query = case.query()
    if reason_against(name, call_of(q, k, v, query.to(q.device), LogitRule(**rule))) is not None:
        return False
    exact, theirs = truth(case, given, rule), plain_pytorch(case, given, rule)
    found = span_attention(q, k, v, query, backend=f"lse:{name}", **rule)
    rounding = max(torch.finfo(dtype).eps, checking.FLOAT32_FLOOR)
    checking.require(
        {
            "out": worst(found.out, exact.out),
            "mass": worst(found.mass, exact.mass),
            "lse": worst(found.lse, exact.lse),
        },
        {
            "out": 2 * worst(theirs[0], exact.out) + rounding,
            "mass": MASS_TOLERANCE,
            "lse": LSE_TOLERANCE,
        },
    )
    return True
