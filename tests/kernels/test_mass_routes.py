"""Test that the mass from the forward kernel's loops is the one from its logsumexp afterwards."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from op_cases import Case
from op_truth import truth, worst
from sra_fast import span_attention
from sra_fast.kernels.triton_kernels import epilogue, kernel_calls
from sra_fast.kernels.triton_kernels.epilogue import LARGEST_SHARE, spans_in_loops

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ROUTES = [
    Case("one sequence"),
    Case("packed, window", segments=((0, 0, 10), (0, 10, 11), (0, 11, 37)), window=6),
    Case("padded, softcap", batch=2, segments=((0, 5, 37), (1, 0, 30)), softcap=2.0),
    Case("fewer queries than keys, sinks", queries=20, sinks=True),
    Case("overlapping spans, every row", spans="overlapping", rows="all"),
    Case("a span after the rows", spans="after"),
]
pytestmark = pytest.mark.usefixtures("unwritten_memory_is_nan")


@pytest.mark.parametrize("case", ROUTES, ids=str)
def test_both_routes_give_the_mass_of_the_definition(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, rule = case.tensors(torch.float32, DEVICE), case.rule(torch.float32, DEVICE)
    wanted = truth(case, inputs, rule)
    for share in (0.0, 1.0):  # in the loops if any row is asked for, and never
        monkeypatch.setattr(epilogue, "LARGEST_SHARE", share)
        found = span_attention(*inputs, case.query(), backend="triton", **rule)
        assert worst(found.mass, wanted.mass) <= 5e-6
        assert worst(found.out, wanted.out) <= 5e-6


@pytest.mark.parametrize(("rows", "in_loops"), [("all", 3), ("some", 0)])
def test_the_share_of_rows_asked_for_chooses_the_route(
    rows: Any, in_loops: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def forward(*arguments: Any, first_spans: int, **others: Any) -> Any:
        asked.append(first_spans)
        return calls_forward(*arguments, first_spans=first_spans, **others)

    calls_forward = kernel_calls.forward
    monkeypatch.setattr(kernel_calls, "forward", forward)
    case = Case("route", rows=rows)
    span_attention(*case.tensors(torch.float32, DEVICE), case.query(), backend="triton")
    assert asked == [in_loops]


def test_few_rows_leave_the_loops_without_spans() -> None:
    edge = int(1000 * LARGEST_SHARE)
    assert spans_in_loops(edge, 1000, 3) == 0
    assert spans_in_loops(edge + 1, 1000, 3) == 3
    assert spans_in_loops(1000, 1000, 7) == 3  # the rest comes from the epilogue
    assert spans_in_loops(0, 1000, 3) == 0
