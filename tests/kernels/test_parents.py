"""Test segments with a parent against whole sequences, each of which has all of its keys."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from op_truth import worst
from sra_fast import SpanQuery, explain, span_attention, span_mass
from sra_fast.kernels import blocks, profile, row_blocks
from sra_fast.kernels.contract import ProfileQuery, SpanAttention
from sra_fast.kernels.providers import PROVIDERS
from sra_fast.op import PREFIX

pytestmark = pytest.mark.usefixtures("unwritten_memory_is_nan")

HEADS, NAMES = 4, ("one", "two", "three")
SEGMENTS = (
    (0, 2, 11),  # a parent, behind two keys of padding
    (0, 11, 17),
    (0, 17, 18),  # a tail of one token
    (0, 18, 25),  # a sequence of its own
    (0, 25, 29),  # another parent
    (0, 29, 41),
    (0, 43, 46),  # a tail that does not follow at once
    (1, 0, 46),  # a whole row
)
PARENTS = (-1, 0, 0, -1, -1, 4, 4, -1)
KEYS = 46


@dataclass(frozen=True)
class Rule:
    """Describe the heads and the rule of a call."""

    name: str
    kv_heads: int = 2
    width: int = 16
    value_width: int = 16
    window: int | None = None
    softcap: float | None = None
    sinks: bool = False

    def __str__(self) -> str:
        return self.name

    def arguments(self, dtype: torch.dtype) -> dict[str, Any]:
        """Return the keyword arguments of the op."""
        sinks = torch.linspace(-1, 2, HEADS, dtype=torch.float64).to(dtype)
        return {
            "scale": 0.4,
            "window": self.window,
            "softcap": self.softcap,
            "sinks": sinks if self.sinks else None,
        }

    def tensors(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Return q, k and v for two batch rows, transposed as models have them."""
        generator = torch.Generator().manual_seed(1)
        sizes = (
            (HEADS, self.width),
            (self.kv_heads, self.width),
            (self.kv_heads, self.value_width),
        )
        q, k, v = (
            (torch.randn(2, KEYS, *size, generator=generator, dtype=torch.float64) * 1.5)
            .to(dtype)
            .transpose(1, 2)
            for size in sizes
        )
        return q, k, v


RULES = (
    Rule("plain"),
    Rule("one key head", kv_heads=1),
    Rule("values narrower than keys", width=24, value_width=16),
    Rule("values wider than keys", value_width=24),
    Rule("sinks", sinks=True),
    Rule("softcap", softcap=2.0),
    *(Rule(f"window of {size}", window=size) for size in (1, 2, 5, 9, 12, 400)),
    Rule("window, softcap and sinks", window=7, softcap=2.0, sinks=True),
)
each_rule = pytest.mark.parametrize("rule", RULES, ids=str)
each_backend = pytest.mark.parametrize("backend", ["reference", "lse", "lse:blocks"])


def query(parents: tuple[int, ...] | None = PARENTS) -> SpanQuery:
    """Ask for every third row, with labels all over the place and profiles of two groups."""
    generator = torch.Generator().manual_seed(2)
    labels = torch.randint(0, 8, (2, KEYS), generator=generator)
    labels = torch.where(torch.rand(labels.shape, generator=generator) < 0.5, labels, 0)
    rows = torch.arange(2 * KEYS)[1::3]
    groups = (torch.arange(len(rows)) % 3 - 1).to(torch.int32)
    return SpanQuery(
        labels.to(torch.int32),
        rows,
        torch.tensor(SEGMENTS, dtype=torch.int32),
        NAMES,
        ProfileQuery(groups, 2),
        None if parents is None else torch.tensor(parents, dtype=torch.int32),
    )


def truth(rule: Rule, dtype: torch.dtype) -> SpanAttention:
    """Attend in each sequence by itself, parent and tail put together, in float64."""
    q, k, v = (x.double() for x in rule.tensors(dtype))
    arguments = {
        name: value.double() if isinstance(value, Tensor) else value
        for name, value in rule.arguments(dtype).items()
    }
    asked = query()
    assert asked.profile is not None
    out = torch.zeros(*q.shape[:3], v.shape[3], dtype=torch.float64)
    lse = torch.full(q.shape[:3], -torch.inf, dtype=torch.float64)
    mass = torch.zeros(len(asked.rows), HEADS, len(NAMES), dtype=torch.float64)
    weights = torch.zeros(len(asked.rows), HEADS, KEYS, dtype=torch.float64)
    for (b, start, end), parent in zip(SEGMENTS, PARENTS, strict=True):
        before = range(0) if parent < 0 else range(*SEGMENTS[parent][1:])
        at = torch.tensor([*before, *range(start, end)])
        own = at[len(before) :]
        bits = torch.arange(len(at), dtype=torch.int32)  # each key is a span of its own
        for first in range(0, len(at), 31):
            here = (bits >= first) & (bits < first + 31)
            labels = torch.where(here, 1 << (bits - first).clamp(0, 30), 0).to(torch.int32)
            alone = SpanQuery(
                labels[None],
                torch.arange(len(at)),
                torch.tensor([[0, 0, len(at)]], dtype=torch.int32),
                tuple(map(str, range(31))),
            )
            whole = [x[b : b + 1, :, at] for x in (q, k, v)]
            found = span_attention(*whole, alone, backend="reference", **arguments)
            for index, row in enumerate(asked.rows.tolist()):
                if row // KEYS == b and start <= row % KEYS < end:
                    place = int((at == row % KEYS).nonzero())
                    keys = at[here]
                    weights[index][:, keys] = found.mass[place, :, : len(keys)]
        out[b, :, own] = found.out[0, :, len(before) :]
        lse[b, :, own] = found.lse[0, :, len(before) :]
    spans = ((asked.key_labels[..., None] >> torch.arange(3)) & 1).double()
    mass = weights @ spans[asked.rows // KEYS]
    groups = asked.profile.row_groups
    means = torch.stack([weights[groups == group].mean(dim=0) for group in range(2)])
    return SpanAttention(out, mass, lse, means)


@each_backend
@each_rule
def test_a_tail_attends_as_the_end_of_its_whole_sequence(rule: Rule, backend: str) -> None:
    wanted = truth(rule, torch.float32)
    inputs, arguments = rule.tensors(torch.float32), rule.arguments(torch.float32)
    found = span_attention(*inputs, query(), backend=backend, **arguments)
    assert found.profile is not None
    assert wanted.profile is not None
    for mine, true in (
        (found.out, wanted.out),
        (found.mass, wanted.mass),
        (found.lse, wanted.lse),
        (found.profile, wanted.profile),
    ):
        assert worst(mine, true) <= 1e-5
    alone = span_mass(*inputs[:2], query(), backend=backend, **arguments)
    assert alone.profile is not None
    assert worst(alone.mass, wanted.mass) <= 1e-5
    assert worst(alone.profile, wanted.profile) <= 1e-5
    without_parents = span_attention(*inputs, query(None), backend=backend, **arguments)
    if rule.window != 1:  # under which no tail sees its parent
        assert worst(without_parents.lse, wanted.lse) > 0.1


@each_rule
def test_blocks_of_any_size_give_the_same(rule: Rule, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, arguments = rule.tensors(torch.float32), rule.arguments(torch.float32)
    wanted = [f(query(), rule, inputs, arguments) for f in (_attention, _mass)]
    monkeypatch.setattr(blocks, "BLOCK_NUMBERS", 1)
    monkeypatch.setattr(profile, "BLOCK_NUMBERS", 1)
    monkeypatch.setattr(profile, "ROWS_AT_ONCE", 2)
    monkeypatch.setattr(row_blocks, "ROW_BLOCK_NUMBERS", 1)
    monkeypatch.setattr(row_blocks, "FEWEST_ROWS", 1)
    for whole, made in zip(wanted, (_attention, _mass), strict=True):
        for mine, true in zip(made(query(), rule, inputs, arguments), whole, strict=True):
            assert worst(mine, true) <= 1e-5


def _attention(asked: SpanQuery, rule: Rule, inputs: Any, arguments: Any) -> list[Tensor]:
    found = span_attention(*inputs, asked, backend="lse", **arguments)
    assert found.profile is not None
    return [found.out, found.mass, found.lse, found.profile]


def _mass(asked: SpanQuery, rule: Rule, inputs: Any, arguments: Any) -> list[Tensor]:
    found = span_mass(*inputs[:2], asked, backend="lse", **arguments)
    assert found.profile is not None
    return [found.mass, found.lse, found.profile]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_masses_in_float32(dtype: torch.dtype) -> None:
    rule = RULES[0]
    wanted = truth(rule, dtype)
    found = span_attention(*rule.tensors(dtype), query(), **rule.arguments(dtype))
    assert found.out.dtype == dtype
    assert found.mass.dtype == torch.float32
    assert worst(found.mass, wanted.mass) <= 1e-4
    assert worst(found.out, wanted.out) <= 0.03


def test_segments_may_come_in_any_order() -> None:
    order = [5, 7, 0, 3, 1, 6, 4, 2]
    asked = query()
    assert asked.parents is not None
    turned = replace(
        asked,
        segments=asked.segments[order],
        parents=torch.tensor(
            [order.index(p) if p >= 0 else -1 for p in asked.parents[order].tolist()]
        ).to(torch.int32),
    )
    inputs, arguments = RULES[0].tensors(torch.float32), RULES[0].arguments(torch.float32)
    for one, other in zip(
        _attention(asked, RULES[0], inputs, arguments),
        _attention(turned, RULES[0], inputs, arguments),
        strict=True,
    ):
        assert torch.equal(one, other)


def test_the_reference_carries_the_gradient_into_the_parents_keys() -> None:
    q, k, v = (x.requires_grad_() for x in RULES[0].tensors(torch.float64))
    span_attention(q, k, v, query(), backend="reference").mass[2:6].sum().backward()
    assert k.grad is not None
    assert bool((k.grad[0, :, 2:11] != 0).all())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parents": torch.tensor([-1, 0], dtype=torch.int32)}, "one for each of the 8 segments"),
        ({"parents": torch.tensor(PARENTS)}, r"parents: expected \[S\] torch.int32"),
    ],
)
def test_parents_of_another_shape_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(query(), **change)


@pytest.mark.parametrize(
    ("parents", "message"),
    [
        ((-1, 8, 0, -1, -1, 4, 4, -1), "8 is none of the 8 segments"),
        ((-1, -2, 0, -1, -1, 4, 4, -1), "-2 is none of the 8 segments"),
        ((1, -1, 0, -1, -1, 4, 4, -1), "does not lie before"),
        ((0, -1, 0, -1, -1, 4, 4, -1), "does not lie before"),
        ((-1, 0, 0, -1, -1, 4, 4, 0), "does not lie before .* in its batch row"),
        ((-1, 0, 1, -1, -1, 4, 4, -1), "has a parent itself"),
    ],
)
def test_parents_that_cannot_be_are_refused(parents: tuple[int, ...], message: str) -> None:
    inputs, arguments = RULES[0].tensors(torch.float32), RULES[0].arguments(torch.float32)
    with pytest.raises(ValueError, match=message):
        span_attention(*inputs, query(parents), **arguments)


def test_what_does_not_serve_parents_says_so() -> None:
    q, k, v = RULES[0].tensors(torch.float32)
    others = ["triton", *(PREFIX + name for name, one in PROVIDERS.items() if not one.parents)]
    for backend in others:
        with pytest.raises(ValueError, match="whole sequences only; give every sequence whole"):
            span_attention(q, k, v, query(), backend=backend)
        told = explain(q, k, v, query(), backend=backend)
        assert told.backend is None
        assert "segments with a parent" in told.why
    with pytest.raises(ValueError, match="no gradient"):
        span_attention(q.requires_grad_(), k, v, query())
    with pytest.raises(ValueError, match="as many queries as keys, got 5 and 46"):
        span_attention(
            q.detach()[:, :, :5], k, v, replace(query(), rows=torch.arange(0), profile=None)
        )
    told = explain(q.detach(), k, v, query())
    assert told.backend == "lse:cpu_flash"
    assert {one.name for one in told.providers if one.reason is None} == {"cpu_flash", "blocks"}


def test_parents_that_were_written_into_are_read_anew() -> None:
    inputs, arguments = RULES[0].tensors(torch.float32), RULES[0].arguments(torch.float32)
    asked = query()
    assert asked.parents is not None
    before = span_attention(*inputs, asked, **arguments)
    asked.parents.fill_(-1)
    after = span_attention(*inputs, asked, **arguments)
    wanted = span_attention(*inputs, query(None), **arguments)
    assert torch.equal(after.mass, wanted.mass)
    assert not torch.equal(before.mass, after.mass)
