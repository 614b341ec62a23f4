"""Test the Triton kernel that steers an attention: on a GPU, or interpreted on a CPU."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import sra_fast
from op_cases import CASES, Case
from op_truth import worst
from sra_fast import Steering, span_attention
from sra_fast.kernels import steered
from steering_truth import exact, steering

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
GRID = [
    *(case for case in CASES[::11] if case.queries <= 100),
    Case("window, softcap and sinks", window=7, softcap=2.0, sinks=True),
    Case("more keys than a tile", queries=5, keys=150),
    Case("rows of several batches in one tile", batch=3, queries=9, keys=9, rows="all"),
]
STRENGTHS: tuple[dict[str, Any], ...] = (
    {"bias": -math.inf},
    {"bias": -3.0},
    {"bias": 2.5},
    {"bias": 100.0},
    {"share": 0.4},
    {"share": 0.4, "exact": True},
)
pytestmark = pytest.mark.usefixtures("unwritten_memory_is_nan")


@pytest.mark.parametrize(
    ("case", "strength"),
    [(case, strength) for at, case in enumerate(GRID) for strength in STRENGTHS[at % 3 :: 3]],
    ids=str,
)
def test_out_mass_and_lse_are_those_of_biased_logits(case: Case, strength: dict[str, Any]) -> None:
    inputs, rule = case.tensors(torch.float32, DEVICE), case.rule(torch.float32, DEVICE)
    steer = steering(case, part=GRID.index(case) % 2 == 0, **strength)
    wanted = exact(case, inputs, rule, steer=steer)
    found = span_attention(*inputs, case.query(), steer=steer, backend="triton", **rule)
    for name in ("out", "mass", "lse"):
        assert worst(getattr(found, name), getattr(wanted, name)) <= 1e-5


@pytest.mark.parametrize("strength", [*STRENGTHS[:2], {"share": 1 - 1e-9}], ids=str)
def test_rows_with_nearly_all_their_attention_on_the_span_are_computed_anew(
    strength: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case("ahead", queries=30, keys=30)
    q, k, v = (x / 3 for x in case.tensors(torch.float32, DEVICE))
    q[..., 0], k[..., 0] = 4.0, 0.0
    k[:, :, 10:20, 0] = 14.0
    span = torch.zeros(1, 30, dtype=torch.bool)
    span[:, 10:20] = True
    anew: list[int] = []
    compute = steered._write_anew
    monkeypatch.setattr(
        steered, "_write_anew", lambda *given: (anew.append(len(given[2])), compute(*given))
    )
    steer, rule = Steering(span, **strength), {"scale": 0.25}
    wanted = exact(case, (q, k, v), rule, steer=steer)
    found = span_attention(q, k, v, case.query(), steer=steer, backend="triton", **rule)
    assert sum(anew) == 20 * case.kv_heads  # those from the span on
    for name in ("out", "mass", "lse"):
        assert worst(getattr(found, name), getattr(wanted, name)) <= 1e-5


def test_the_explanation_names_the_kernel() -> None:
    case = CASES[0]
    inputs, steer = case.tensors(torch.float32, DEVICE), steering(case, part=False, bias=1.0)
    told = sra_fast.explain(*inputs, case.query(), backend="triton", steer=steer)
    assert "the Triton kernel" in told.why
