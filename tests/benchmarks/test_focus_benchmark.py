"""The benchmark of the recipe ``focus`` makes fair prompts, and computes the area as it says."""

from __future__ import annotations

import re
from typing import Literal

import pytest
import torch

from benchmarks.recipes.focus_auroc import auroc, split
from benchmarks.recipes.injected_prompts import InjectedPrompt, injected_prompts

Which = Literal["finding", "testing"]
BOTH: tuple[Which, ...] = ("finding", "testing")


def sentences(prompt: InjectedPrompt) -> set[str]:
    return set(re.split(r"(?<=[.?!]) ", f"{prompt.instruction} {prompt.data}"))


@pytest.mark.parametrize("which", BOTH)
def test_a_pair_differs_in_one_sentence_at_one_place(which: Which) -> None:
    prompts = injected_prompts(which, 12, seed=3)
    assert [prompt.attacked for prompt in prompts] == [False, True] * 12
    for normal, attacked in zip(prompts[::2], prompts[1::2], strict=True):
        assert normal.instruction == attacked.instruction
        shared = sentences(normal) & sentences(attacked)
        assert len(shared) >= 3
        assert sentences(normal) - shared
        assert sentences(attacked) - shared


def test_the_two_sets_share_no_sentence_and_a_seed_gives_the_same_prompts() -> None:
    found = {which: injected_prompts(which, 60, seed=1) for which in BOTH}
    texts = {which: set().union(*map(sentences, prompts)) for which, prompts in found.items()}
    assert texts["finding"].isdisjoint(texts["testing"])
    assert found["testing"] == injected_prompts("testing", 60, seed=1)
    assert found["testing"] != injected_prompts("testing", 60, seed=2)


def test_the_area_is_how_often_a_normal_prompt_is_above_an_attacked_one() -> None:
    draw = torch.Generator().manual_seed(0)
    normal = torch.randint(0, 6, (25,), generator=draw).float() + 1
    attacked = torch.randint(0, 6, (25,), generator=draw).float()
    counted = [(a > b) + 0.5 * (a == b) for a in normal.tolist() for b in attacked.tolist()]
    area = auroc(normal, attacked)
    assert area.value == pytest.approx(sum(counted) / len(counted))
    assert 0 < area.low < area.value < area.high < 1
    swapped = auroc(attacked, normal)
    assert swapped.value == pytest.approx(1 - area.value)
    assert (swapped.low, swapped.high) == pytest.approx((1 - area.high, 1 - area.low), abs=1e-9)


@pytest.mark.parametrize(("above", "area"), [(1.0, 1.0), (0.0, 0.5), (-1.0, 0.0)])
def test_the_area_of_prompts_that_are_all_alike(above: float, area: float) -> None:
    found = auroc(torch.full((8,), above), torch.zeros(8))
    assert (found.value, found.low, found.high) == (area, area, area)


def test_prompts_are_split_by_whether_they_are_attacked() -> None:
    prompts = injected_prompts("finding", 3, seed=0)
    normal, attacked = split(torch.arange(6), prompts)
    assert (normal.tolist(), attacked.tolist()) == ([0, 2, 4], [1, 3, 5])
