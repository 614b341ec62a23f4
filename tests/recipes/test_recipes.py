"""Test the recipes against their formulas on the models' own eager maps."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from marked_batches import eager_maps, marked_batch
from model_families import DENSE, Family
from sra_fast.recipes.focus import FocusDetector, find_heads, head_focus
from sra_fast.recipes.lookback import (
    fit_lookback,
    lookback_features,
    lookback_ratios,
)

LLAMA = DENSE[0]
SOME = [family for family in DENSE if family.name in ("llama", "gemma2", "gpt_oss", "mistral")]


def prompts(lengths: tuple[int, ...]) -> dict[str, Any]:
    """Return prompts with an instruction at 2 to 4 and data at 10 to 19, and no reply."""
    batch = marked_batch(lengths)
    del batch["strategy_mask"], batch["response_mask"]
    spans = {name: torch.zeros(batch["input_ids"].shape, dtype=torch.bool) for name in "ab"}
    spans["a"][:, 2:5], spans["b"][:, 10:20] = True, True
    return {**batch, "span_masks": {"instruction": spans["a"], "data": spans["b"]}}


@pytest.mark.parametrize("family", SOME, ids=lambda family: family.name)
def test_focus_is_that_of_the_eager_maps(family: Family) -> None:
    lengths = (40, 33)
    found = head_focus(family.build(), prompts(lengths))
    for i, length in enumerate(lengths):
        row = eager_maps(family, length)[:, :, -1]
        instruction, data = row[..., 2:5].sum(-1), row[..., 10:20].sum(-1)
        wanted = instruction / (instruction + data)
        seen = instruction + data > 1e-6  # a window may leave neither
        torch.testing.assert_close(found[i].double()[seen], wanted[seen], atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", SOME, ids=lambda family: family.name)
def test_lookback_is_that_of_the_eager_maps(family: Family) -> None:
    batch = marked_batch((40,))
    batch["response_mask"] = (batch["response_mask"] == 2).int()
    batch["span_masks"] = {"context": batch.pop("strategy_mask")}
    (found,) = lookback_ratios(family.build(), batch)
    maps = eager_maps(family, 40)
    for t, at in enumerate(range(35, 40)):
        row = maps[:, :, at - 1]
        context = row[..., 3:7].mean(-1)
        new = row[..., 35:at].mean(-1) if t else torch.zeros_like(context)
        seen = context + new > 1e-6
        wanted = context / (context + new)
        torch.testing.assert_close(found[t].double()[seen], wanted[seen], atol=1e-5, rtol=0)
    assert lookback_features([found, found]).shape == (2, found[0].numel())


def test_heads_that_lose_their_focus_are_found_and_detect() -> None:
    torch.manual_seed(0)
    normal, attacked = torch.rand(30, 3, 4), torch.rand(30, 3, 4)
    normal[:, 1, 2] = 0.9 + 0.01 * torch.rand(30)
    attacked[:, 1, 2] = 0.2 + 0.01 * torch.rand(30)
    heads = find_heads(normal[:15], attacked[:15])
    assert heads.nonzero().tolist() == [[1, 2]]
    detector = FocusDetector(heads)
    assert not detector.is_attacked(normal[15:]).any()
    assert detector.is_attacked(attacked[15:]).all()
    torch.testing.assert_close(detector.focus(normal), normal[:, 1, 2])


def test_a_logistic_model_tells_what_its_features_tell() -> None:
    torch.manual_seed(0)
    faithful = [number % 2 == 0 for number in range(40)]
    features = torch.rand(40, 6) + 2 * torch.tensor(faithful)[:, None]
    model = fit_lookback(features, faithful)
    assert (model.predict(features.numpy()) == faithful).all()


@pytest.mark.parametrize(
    ("do", "message"),
    [
        (lambda: find_heads(torch.rand(5, 2, 3), torch.rand(5, 2, 4)), "expected normal"),
        (lambda: find_heads(torch.rand(1, 2, 3), torch.rand(5, 2, 3)), "at least two"),
        (lambda: find_heads(torch.ones(5, 2, 3), torch.ones(5, 2, 3)), "no head tells"),
        (
            lambda: FocusDetector(torch.ones(2, 3, dtype=torch.bool)).focus(torch.rand(4, 2)),
            "expected the focus of heads",
        ),
        (
            lambda: FocusDetector(torch.zeros(2, 3, dtype=torch.bool)).focus(torch.rand(4, 2, 3)),
            "none is chosen",
        ),
        (
            lambda: FocusDetector(torch.ones(2, 3, dtype=torch.bool)).is_attacked(
                torch.full((4, 2, 3), torch.nan)
            ),
            "prompt 0: a chosen head pays neither",
        ),
        (
            lambda: lookback_ratios(
                LLAMA.build(),
                {**marked_batch((40,)), "span_masks": {"new": torch.ones(1, 40).bool()}},
                "new",
            ),
            "'new' is what the reply's own tokens are called",
        ),
        (lambda: head_focus(LLAMA.build(), prompts((40,)), "rule"), "no span 'rule'"),
        (lambda: find_heads({}, torch.ones(5, 2, 3)), "normal: expected what head_focus"),
        (lambda: find_heads(torch.ones(5, 2, 3), {}), "attacked: expected what head_focus"),
        (
            lambda: lookback_ratios(
                LLAMA.build(),
                {**prompts((40,)), "response_mask": torch.zeros(1, 40, dtype=torch.int32)},
                "data",
            ),
            "row 0: it has no reply",
        ),
        (lambda: lookback_ratios(LLAMA.build(), prompts((40,))), "no span 'context'"),
        (
            lambda: lookback_ratios(
                LLAMA.build(),
                {**marked_batch((40,)), "span_masks": {"context": torch.ones(1, 40).bool()}},
            ),
            "a row of its own",
        ),
        (lambda: fit_lookback(torch.rand(3, 2), [True]), "3 replies and 1 labels"),
        (lambda: fit_lookback(torch.rand(2, 2), [True, True]), "others that do not"),
    ],
)
def test_what_cannot_be_is_named(do: Any, message: str) -> None:
    with pytest.raises((ValueError, KeyError, TypeError), match=message):
        do()
