"""Backends of one's own: registered, found in packages, and checked in what they return."""

from __future__ import annotations

import doctest
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import sra_fast
from marked_batches import marked_batch
from model_families import DENSE
from op_cases import CASES
from sra_fast import backends, span_attention, span_mass
from sra_fast.kernels import reference

pytestmark = pytest.mark.usefixtures("own_names")


class Counting:
    """The reference, which counts its calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def attention(self, *given: Any) -> sra_fast.SpanAttention:
        self.calls.append("attention")
        return reference.attention(*given)

    def mass_only(self, *given: Any) -> sra_fast.SpanMass:
        self.calls.append("mass_only")
        return reference.mass_only(*given)


def inputs() -> tuple[tuple[Tensor, Tensor, Tensor], sra_fast.SpanQuery]:
    return CASES[0].tensors(torch.float32), CASES[0].query()


def test_the_example_of_the_documentation_runs() -> None:
    finder = doctest.DocTestFinder(recurse=False)
    (example,) = finder.find(sra_fast.register_backend, "register_backend", globs={})
    assert doctest.DocTestRunner().run(example) == (0, len(example.examples))
    assert len(example.examples) > 5


def test_a_registered_backend_computes_what_is_asked_of_it() -> None:
    own = Counting()
    sra_fast.register_backend("counting", own)
    (q, k, v), query = inputs()
    found = span_attention(q, k, v, query, backend="counting")
    wanted = span_attention(q, k, v, query, backend="reference")
    assert torch.equal(found.out, wanted.out)
    assert torch.equal(found.mass, wanted.mass)
    alone = span_mass(q, k, query, backend="counting")
    assert torch.equal(alone.mass, span_mass(q, k, query, backend="reference").mass)
    assert own.calls == ["attention", "mass_only"]


def test_models_are_scored_and_monitored_by_it() -> None:
    own = Counting()
    sra_fast.register_backend("counting", own)
    model, batch = DENSE[0].build(), marked_batch((40, 29))
    result = sra_fast.score(model, batch, backend="counting", check=False)
    wanted = sra_fast.score(model, batch, backend="reference")
    assert torch.equal(result.mass, wanted.mass)
    assert own.calls == ["attention", "attention", "mass_only"]
    with sra_fast.monitor(model, backend="counting") as recorder:
        model(**batch)
    torch.testing.assert_close(recorder.results[0].sra, wanted.sra)
    assert own.calls[3:] == ["attention"] * 3


def test_a_module_is_a_backend() -> None:
    sra_fast.register_backend("again", reference)
    (q, k, v), query = inputs()
    assert span_attention(q, k, v, query, backend="again").mass.shape[1] == q.shape[1]


def test_it_stays_one_compiled_graph() -> None:
    class Even(Counting):
        def attention(self, *given: Any) -> sra_fast.SpanAttention:
            q, _, v, query = given[:4]
            mass = q.new_full((len(query.rows), q.shape[1], len(query.names)), 0.5)
            return sra_fast.SpanAttention(v.new_ones(*q.shape[:3], v.shape[3]), mass, q[..., 0])

    sra_fast.register_backend("even", Even())
    (q, k, v), query = inputs()

    def masses(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return span_attention(q, k, v, query, backend="even").mass * 2

    compiled = torch.compile(masses, fullgraph=True, backend="eager")
    assert torch.equal(compiled(q, k, v), masses(q, k, v))


@pytest.mark.parametrize("name", ["lse", "triton", "auto", "my-own", "", "class"])
def test_names_that_cannot_be_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"is taken by|is reserved|must be a Python identifier"):
        sra_fast.register_backend(name, reference)
    assert not backends._OWN.registered


def test_a_name_is_given_once() -> None:
    sra_fast.register_backend("again", reference)
    sra_fast.register_backend("again", reference)
    with pytest.raises(ValueError, match="the name 'again' is taken by another backend"):
        sra_fast.register_backend("again", Counting())


@pytest.mark.parametrize("missing", ["attention", "mass_only"])
def test_both_functions_are_needed(missing: str) -> None:
    functions = {"attention": reference.attention, "mass_only": reference.mass_only}
    module: Any = SimpleNamespace(**{k: v for k, v in functions.items() if k != missing})
    with pytest.raises(TypeError, match=f"here is no function '{missing}'"):
        sra_fast.register_backend("half", module)


def test_an_unknown_backend_is_refused_at_every_door() -> None:
    sra_fast.register_backend("counting", Counting())
    told = r"no backend 'countin'; there are auto, reference, lse, triton, lse:.*, counting; did"
    (q, k, v), query = inputs()
    model, batch = DENSE[0].build(), marked_batch((40,))
    doors: list[Callable[[], object]] = [
        lambda: span_attention(q, k, v, query, backend="countin"),
        lambda: span_mass(q, k, query, backend="countin"),
        lambda: sra_fast.score(model, batch, backend="countin"),
        lambda: sra_fast.monitor(model, backend="countin").__enter__(),
        lambda: sra_fast.SpanRequest(query, backend="countin"),
    ]
    for door in doors:
        with pytest.raises(ValueError, match=told):
            door()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"out": lambda t: t.transpose(1, 2)}, r"out \[B, Hq, M, Dv\] as"),
        ({"out": lambda t: t.double()}, "torch.float64 on cpu; expected"),
        ({"mass": lambda t: t[:-1]}, r"mass \[R, Hq, G\] as"),
        ({"mass": lambda t: t.half()}, "torch.float16 on cpu; expected"),
        ({"mass": lambda t: t.to("meta")}, "on meta; expected"),
        ({"lse": lambda t: t.transpose(1, 2)}, "lse"),
        ({"out": lambda t: t.tolist()}, r"out \[B, Hq, M, Dv\] as list; expected a tensor"),
        ({"mass": lambda t: None}, r"mass \[R, Hq, G\] as NoneType; expected a tensor"),
        ({"lse": lambda t: 0.5}, r"lse \[B, Hq, M\] as float; expected a tensor"),
        (None, "tuple; expected Span"),
    ],
)
def test_what_a_backend_returns_is_checked(change: Any, told: str) -> None:
    def changed(result: Any) -> Any:
        if change is None:
            return (result.mass,)
        return replace(result, **{k: f(getattr(result, k)) for k, f in change.items()})

    own: Any = ModuleType("own")
    own.attention = lambda *given: changed(reference.attention(*given))
    own.mass_only = lambda *given: changed(reference.mass_only(*given))
    sra_fast.register_backend("wrong", own)
    (q, k, v), query = inputs()
    with pytest.raises(ValueError, match=f"backend 'wrong' returned .*{told}"):
        span_attention(q, k, v, query, backend="wrong")
    if change is None or "mass" in change:
        with pytest.raises(ValueError, match=f"backend 'wrong' returned .*{told}"):
            span_mass(q, k, query, backend="wrong")


def test_a_package_cannot_offer_a_built_in_name(installed: Callable[..., None]) -> None:
    installed(
        "from sra_fast.kernels.reference import attention, mass_only", backends="lse = theirs"
    )
    with pytest.raises(ValueError, match=r"'lse' is taken .*package 'theirs' offers a backend"):
        backends.check_backend("lse")
    assert backends.check_backend("reference") == "reference"


def test_an_installed_package_adds_one_when_it_is_asked_for(
    installed: Callable[..., None],
) -> None:
    installed(
        "from sra_fast.kernels.reference import attention, mass_only", backends="theirs = theirs"
    )
    assert "theirs" not in backends._OWN.registered
    (q, k, v), query = inputs()
    found = span_attention(q, k, v, query, backend="theirs")
    assert torch.equal(found.mass, span_attention(q, k, v, query, backend="reference").mass)
    assert backends.check_backend("theirs") == "theirs"


def test_what_a_package_offers_wrongly_is_named(installed: Callable[..., None]) -> None:
    installed("", backends="theirs = theirs\nbroken = nowhere")
    with pytest.raises(ValueError, match=r"cannot be used \(theirs\): TypeError: .*'attention'"):
        backends.check_backend("theirs")
    with pytest.raises(ValueError, match=r"cannot be used \(nowhere\): ModuleNotFoundError"):
        backends.check_backend("broken")
