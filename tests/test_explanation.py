"""Test that the library says which kernel serves a call, and why the others do not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

import sra_fast
from kernel_stand_ins import leave, pretend
from op_cases import CASES, EMPTY_CASES, Case
from sra_fast import span_attention
from sra_fast.explanation import Explanation
from sra_fast.kernels import dispatch
from sra_fast.kernels.providers import PROVIDERS


def explained(
    case: Case = CASES[0], dtype: torch.dtype = torch.float32, **options: Any
) -> Explanation:
    return sra_fast.explain(*case.tensors(dtype), case.query(), **case.rule(dtype), **options)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    pretend(monkeypatch)
    yield
    monkeypatch.undo()
    leave()


@pytest.mark.parametrize("backend", ["auto", "lse"])
def test_on_a_cpu_the_flash_kernel_serves_and_the_rest_say_why_not(backend: str) -> None:
    found = explained(backend=backend)
    assert (found.asked, found.backend) == (backend, "lse:cpu_flash")
    assert (found.device, found.work) == ("cpu", "prefill")
    answers = {answer.name: answer.reason for answer in found.providers}
    assert list(answers) == list(PROVIDERS)
    serving = [name for name, reason in answers.items() if reason is None]
    assert serving == ["fused", "cpu_flash", "blocks"]  # the first in the interpreter
    assert "lse:fused: only if asked for, it is not for cpu" in str(found)
    assert answers["cudnn"] == "it runs on CUDA, not on cpu"


def test_what_the_cpus_kernel_lacks_is_said() -> None:
    found = explained(Case("capped", softcap=2.0))
    assert found.backend == "lse:blocks"
    assert "lse:cpu_flash: no, it has no softcap" in str(found)


def test_it_reads_as_sentences() -> None:
    lines = str(explained()).splitlines()
    assert lines[0].startswith("backend 'auto' takes 'lse:cpu_flash' (prefill, cpu): ")
    assert lines[0].endswith(".")
    assert len(lines) == 1 + len(PROVIDERS)
    assert "  lse:blocks: yes" in lines


def test_a_backend_that_cannot_serve_says_why() -> None:
    found = explained(backend="lse:varlen")
    assert (found.backend, found.why) == (None, "it runs on CUDA, not on cpu")
    assert "backend 'lse:varlen' cannot serve this call (prefill, cpu): it runs" in str(found)
    assert explained(backend="reference").backend == "reference"


@pytest.mark.usefixtures("card")
@pytest.mark.parametrize("name", [*PROVIDERS])
def test_it_agrees_with_what_a_call_does(name: str) -> None:
    case = Case("capped", softcap=2.0, queries=5)
    found = explained(case, torch.float16, backend=f"lse:{name}")
    (inputs, rule) = case.tensors(torch.float16), case.rule(torch.float16)
    if found.backend is not None:
        span_attention(*inputs, case.query(), backend=f"lse:{name}", **rule)
        return
    with pytest.raises(ValueError, match="does not serve this call") as error:
        span_attention(*inputs, case.query(), backend=f"lse:{name}", **rule)
    assert found.why in str(error.value)


@pytest.mark.usefixtures("card")
def test_what_is_held_back_is_only_for_those_who_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "order", lambda device: ("varlen", "fused", "blocks"))
    found = explained(Case("decode", queries=1, keys=2100), torch.float16, backend="lse:varlen")
    assert found.backend == "lse:varlen"
    assert found.work == "decode"
    assert "lse:varlen: only if asked for, it does not split the keys" in str(found)


def test_the_kind_of_work_follows_the_gradients() -> None:
    q, k, v = (x.requires_grad_() for x in CASES[0].tensors(torch.float32))
    assert sra_fast.explain(q, k, v, CASES[0].query()).work == "mass_grad"
    assert sra_fast.explain(q, k, v, CASES[0].query(), mass_grad=False).work == "training"


@pytest.mark.parametrize("case", EMPTY_CASES, ids=str)
def test_nothing_to_compute_is_said(case: Case) -> None:
    assert "nothing is computed" in str(explained(case))


def test_arguments_are_checked_as_for_the_call() -> None:
    q, k, v = CASES[0].tensors(torch.float32)
    with pytest.raises(ValueError, match="did you mean 'lse:cudnn'"):
        sra_fast.explain(q, k, v, CASES[0].query(), backend="lse:cuddn")
    with pytest.raises(ValueError, match="Hq must be a multiple"):
        sra_fast.explain(q[:, :3], k, v, CASES[0].query())
