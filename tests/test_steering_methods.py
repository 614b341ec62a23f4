"""Test that each published steering method does what its formula does to eager attention."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import eager_methods
import sra_fast
from biased_masks import assert_same_replies
from eager_methods import Method, eager_method
from marked_batches import marked_batch
from model_families import FAMILIES, Family
from sra_fast.kernels.steering import SteeredGradientError
from sra_fast.measure.unserved import UnservedAttentionError

BY_NAME = {family.name: family for family in FAMILIES}
LLAMA = BY_NAME["llama"]
GREEDY: dict[str, Any] = {"max_new_tokens": 7, "min_new_tokens": 7, "do_sample": False}
GREEDY |= {"output_logits": True, "return_dict_in_generate": True}


@dataclass(frozen=True)
class Way:
    """One method: the arguments of `steer`, and its formula."""

    arguments: dict[str, Any]
    formula: Callable[[Family], Method]

    def __str__(self) -> str:
        return next(iter(self.arguments))


HEADS = [0, 3]
WAYS = [
    Way({"instaboost": 8.0}, lambda family: eager_methods.instaboost(8.0)),
    Way({"spotlight": 0.5}, lambda family: eager_methods.spotlight(0.5)),
    Way(
        {"pasta": 0.05, "heads": HEADS},
        lambda family: eager_methods.pasta(0.05, {at: HEADS for at in family.attention_layers}),
    ),
]
each_way = pytest.mark.parametrize("way", WAYS, ids=str)
each_kind = pytest.mark.parametrize("name", ["llama", "qwen2", "gemma2", "gpt_oss"])


def prompts(*lengths: int) -> dict[str, Any]:
    """Return left-padded prompts with a span each at positions 3 to 6, and no reply."""
    batch = marked_batch(lengths, "left")
    del batch["response_mask"]
    return batch


def inputs(batch: dict[str, Any]) -> dict[str, Any]:
    return {key: batch[key] for key in ("input_ids", "attention_mask")}


@each_way
@each_kind
def test_greedy_replies_are_those_of_eager_attention_by_the_formula(name: str, way: Way) -> None:
    batch, family = prompts(30, 22), BY_NAME[name]
    model, eager = family.build(), family.build()
    plain = model.generate(**inputs(batch), **GREEDY)
    with sra_fast.steer(model, batch, **way.arguments):
        found = model.generate(**inputs(batch), **GREEDY)
    with eager_method(eager, batch["strategy_mask"], way.formula(family)):
        assert_same_replies(found, eager.generate(**inputs(batch), **GREEDY))
    assert not torch.allclose(plain.logits[0], found.logits[0], atol=1e-2)


@each_way
@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_a_forward_pass_is_that_of_eager_attention_by_the_formula(family: Family, way: Way) -> None:
    batch = prompts(40, 29)
    model, eager = family.build(), family.build()
    steer = sra_fast.steer(model, batch, **way.arguments)
    if "spotlight" in way.arguments and family.name == "llama4":
        with pytest.raises(UnservedAttentionError, match=r"attends in chunks.*layers="), steer:
            model(**inputs(batch))
        return
    with steer, torch.no_grad():
        found = model(**inputs(batch)).logits
    with eager_method(eager, batch["strategy_mask"], way.formula(family)), torch.no_grad():
        wanted = eager(**inputs(batch)).logits
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(found[real], wanted[real], rtol=1e-3, atol=1e-3)


@each_way
@each_kind
def test_what_is_recorded_of_a_reply_is_the_attention_of_the_formula(name: str, way: Way) -> None:
    batch, family = prompts(30, 22), BY_NAME[name]
    span = batch["strategy_mask"]
    model, eager = family.build(), family.build()
    plain = sra_fast.generate(model, batch, **GREEDY)
    with sra_fast.steer(model, batch, **way.arguments):
        found = sra_fast.generate(model, batch, **GREEDY)
    with eager_method(eager, span, way.formula(family)) as used:
        wanted = eager.generate(**inputs(batch), **GREEDY)
    assert torch.equal(found.sequences, wanted.sequences)
    for row, (masses, before) in enumerate(zip(found.masses, plain.masses, strict=True)):
        assert not torch.allclose(masses[0], before[0], atol=1e-3)
        for layer, steps in used.items():
            for mass, weights in zip(masses, steps, strict=False):  # the last row is fed afterwards
                held = span[row, 30 - min(weights.shape[3], 30) :]
                if weights.shape[3] < 30:  # the cache of a window has forgotten the span
                    assert not bool(mass[layer, :, 0].any())
                    continue
                seen = weights[row, :, -1, :30][:, held].sum(dim=-1)
                torch.testing.assert_close(mass[layer, :, 0], seen, atol=1e-5, rtol=0)


@each_way
def test_what_is_recorded_of_a_marked_reply_is_the_attention_of_the_formula(way: Way) -> None:
    """The prompt of the reply ends before it, so PASTA leaves what comes from there on alone."""
    batch = marked_batch((40, 29), "left")
    batch["response_mask"] = (batch["response_mask"] == 2).int()
    span, replies = batch["strategy_mask"], batch["response_mask"].bool()
    prompt = replies.cumsum(dim=1) == 0
    model, eager = LLAMA.build(), LLAMA.build()
    with (
        sra_fast.steer(model, batch, **way.arguments),
        sra_fast.monitor(model, keep_rows=True) as watch,
        torch.no_grad(),
    ):
        found = model(**inputs(batch), **masks(batch)).logits
    with eager_method(eager, span, way.formula(LLAMA), prompt) as used, torch.no_grad():
        wanted = eager(**inputs(batch)).logits
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(found[real], wanted[real], rtol=1e-3, atol=1e-3)
    for row, tokens in enumerate(replies):
        recorded = watch.results[0].rows(row)[..., 0]  # [L, R, H], the row before the first too
        rows = tokens | tokens.roll(-1)
        for layer, (weights,) in used.items():
            seen = weights[row][:, rows][..., span[row]].sum(dim=-1)
            torch.testing.assert_close(recorded[layer], seen.T, atol=1e-5, rtol=0)


def masks(batch: dict[str, Any]) -> dict[str, Any]:
    return {key: batch[key] for key in ("strategy_mask", "response_mask")}


@each_way
@each_kind
def test_a_row_of_a_batch_is_steered_as_alone(name: str, way: Way) -> None:
    model, together = BY_NAME[name].build(), prompts(40, 29)
    with sra_fast.steer(model, together, **way.arguments), torch.no_grad():
        found = model(**inputs(together)).logits
    for row, length in enumerate((40, 29)):
        alone = prompts(length)
        with sra_fast.steer(model, alone, **way.arguments), torch.no_grad():
            wanted = model(**inputs(alone)).logits
        torch.testing.assert_close(found[row : row + 1, 40 - length :], wanted, rtol=0, atol=2e-4)


@each_way
def test_packed_sequences_are_steered_as_alone(way: Way) -> None:
    """Without a cache, where transformers tells by the positions where a sequence begins."""
    model, lengths = LLAMA.build(), (30, 22)
    alone = [prompts(length) for length in lengths]
    packed = {
        name: torch.cat([batch[name] for batch in alone], dim=1)
        for name in ("input_ids", "strategy_mask")
    }
    packed["position_ids"] = torch.cat([torch.arange(length) for length in lengths])[None]
    with sra_fast.steer(model, packed, **way.arguments), torch.no_grad():
        tokens = {name: packed[name] for name in ("input_ids", "position_ids")}
        found = model(**tokens, use_cache=False).logits.split(lengths, dim=1)
    for logits, batch in zip(found, alone, strict=True):
        with sra_fast.steer(model, batch, **way.arguments), torch.no_grad():
            wanted = model(**inputs(batch)).logits
        torch.testing.assert_close(logits, wanted, rtol=0, atol=2e-4)


@each_way
def test_a_prompt_in_pieces_is_steered_call_by_call(way: Way) -> None:
    batch, model, eager = prompts(40), LLAMA.build(), LLAMA.build()

    def in_pieces(model: Any) -> Tensor:
        cache, found = None, []
        for piece in batch["input_ids"].split([2, 3, 20, 14, 1], dim=1):  # the span is cut
            out = model(piece, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            found.append(out.logits)
        return torch.cat(found, dim=1)

    with sra_fast.steer(model, batch, **way.arguments), torch.no_grad():
        found = in_pieces(model)
    with eager_method(eager, batch["strategy_mask"], way.formula(LLAMA)), torch.no_grad():
        torch.testing.assert_close(found, in_pieces(eager), rtol=1e-3, atol=1e-3)


def test_the_mean_share_is_one_over_the_steered_heads_and_rows() -> None:
    batch, model, eager = prompts(40), LLAMA.build(), LLAMA.build()
    with sra_fast.steer(model, batch, spotlight=0.5, heads=[1, 2]), torch.no_grad():
        found = model(**inputs(batch)).logits
    formula = eager_methods.spotlight(0.5, heads=[1, 2])
    with eager_method(eager, batch["strategy_mask"], formula), torch.no_grad():
        torch.testing.assert_close(found, eager(**inputs(batch)).logits, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("arguments", [{"instaboost": 1.0}, {"pasta": 1.0}, {"spotlight": 1e-6}])
def test_a_strength_that_asks_for_nothing_changes_nothing(arguments: dict[str, float]) -> None:
    batch, model = prompts(40), LLAMA.build()
    with torch.no_grad():
        plain = model(**inputs(batch)).logits
        with sra_fast.steer(model, batch, **arguments):
            found = model(**inputs(batch)).logits
    torch.testing.assert_close(found, plain, rtol=0, atol=1e-5)


def test_one_prompt_is_needed_for_the_tokens_outside_of_the_span() -> None:
    batch, model = marked_batch((30, 22)), LLAMA.build()
    with (
        pytest.raises(ValueError, match="row 0: pasta: 2 replies are marked"),
        sra_fast.steer(model, batch, pasta=0.1),
    ):
        pass


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        *(({"instaboost": x}, "multiplier above 0") for x in (0.0, -2.0, math.nan, math.inf)),
        *(({"spotlight": x}, "a share between 0 and 1") for x in (0.0, 1.0, -0.1, math.nan)),
        *(({"pasta": x}, "a factor above 0 and at most 1") for x in (0.0, 1.01, -0.5, math.nan)),
        ({"spotlight": 0.3, "exact": True}, "exact.*does not go with spotlight"),
    ],
    ids=str,
)
def test_what_cannot_be_is_named(arguments: dict[str, Any], message: str) -> None:
    name = next(iter(arguments))
    with (
        pytest.raises(ValueError, match=f"steer: ({name}: )?.*{message}"),
        sra_fast.steer(LLAMA.build(), prompts(30), **arguments),
    ):
        pass


@each_way
def test_the_model_is_as_it_was_after_the_block(way: Way) -> None:
    batch, model = prompts(30), LLAMA.build()
    with torch.no_grad():
        before = model(**inputs(batch)).logits
    with (
        pytest.raises(SteeredGradientError, match="no_grad"),
        sra_fast.steer(model, batch, **way.arguments),
    ):
        model(**inputs(batch))
    with torch.no_grad():
        assert torch.equal(model(**inputs(batch)).logits, before)
