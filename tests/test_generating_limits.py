"""Test where recording a generation ends: passes that are no steps, and what cannot be recorded."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor
from transformers import LogitsProcessor

import sra_fast
from marked_batches import marked_batch
from model_families import FAMILIES
from sra_fast.measure.generation_modes import UnservedGenerationError

LLAMA = next(family for family in FAMILIES if family.name == "llama")
GREEDY: dict[str, Any] = dict(max_new_tokens=3, min_new_tokens=3, do_sample=False)


def prompts(*lengths: int) -> dict[str, Any]:
    batch = marked_batch(lengths or (40, 29, 33), "left")
    del batch["response_mask"]
    return batch


class Processor(LogitsProcessor):  # type: ignore[misc]
    """A logits processor that does something in each step, and changes no logit."""

    def __init__(self, act: Callable[[], Any]) -> None:
        self.act = act

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.act()
        return scores


class Stream:
    """A streamer that does something whenever it hears of tokens, and at the end."""

    def __init__(self, act: Callable[[], Any]) -> None:
        self.act = act

    def put(self, _: Tensor) -> None:
        self.act()

    def end(self) -> None:
        self.act()


@pytest.mark.parametrize("new", [1, 3])
def test_a_second_pass_in_a_step_is_refused_whatever_it_holds(new: int) -> None:
    model, batch = LLAMA.build(), prompts()
    ahead = torch.cat([batch["input_ids"], batch["input_ids"][:, -1:]], dim=1)
    seen = torch.cat([batch["attention_mask"], batch["attention_mask"][:, -1:]], dim=1)
    for act in (lambda: model(ahead, attention_mask=seen), lambda: model(ahead[:1, :7])):
        with pytest.raises(UnservedGenerationError, match="step 0: a second forward pass"):
            sra_fast.generate(
                model,
                batch,
                max_new_tokens=new,
                min_new_tokens=new,
                logits_processor=[Processor(act)],
            )
    assert not model._forward_hooks
    assert not model.model._forward_hooks


def test_passes_of_other_threads_are_left_alone() -> None:
    model, batch, other = LLAMA.build(), prompts(), marked_batch((40, 29))["input_ids"]
    wanted = sra_fast.generate(model, batch, keep_rows=True, **GREEDY)
    with torch.no_grad():
        plain = model(other).logits
    found: list[Tensor] = []

    def act() -> None:
        with torch.no_grad():
            found.append(model(other).logits)

    def elsewhere() -> None:
        thread = threading.Thread(target=act)
        thread.start()
        thread.join()

    replies = sra_fast.generate(
        model, batch, keep_rows=True, streamer=Stream(elsewhere), check=False, **GREEDY
    )
    for row in range(3):
        assert torch.equal(replies.scored.rows(row), wanted.scored.rows(row))
    assert len(found) == 1 + 3 + 1
    for logits in found:
        torch.testing.assert_close(logits, plain, rtol=1e-4, atol=1e-4)


def test_tokens_that_are_the_padding_token_are_no_padding() -> None:
    model, batch = LLAMA.build(), prompts(40)
    model.generation_config.pad_token_id = int(batch["input_ids"][0, 9])
    wanted = sra_fast.generate(model, batch, **GREEDY)
    del batch["attention_mask"]
    assert torch.equal(sra_fast.generate(model, batch, **GREEDY).masses[0], wanted.masses[0])


def test_numbers_of_numpy_are_numbers() -> None:
    model, batch = LLAMA.build(), prompts()
    replies = sra_fast.generate(model, batch, num_beams=numpy.int64(1), **GREEDY)
    assert replies.new_tokens == (3, 3, 3)
    with pytest.raises(UnservedGenerationError, match=r"^use_cache: a step without a cache"):
        sra_fast.generate(model, batch, use_cache=numpy.bool_(False), **GREEDY)


def test_embeddings_beside_tokens_are_refused() -> None:
    model, batch = LLAMA.build(), prompts()
    embeddings = model.get_input_embeddings()(batch["input_ids"]).detach()
    with pytest.raises(
        ValueError, match=r"^inputs_embeds: a generation is recorded from token ids"
    ):
        sra_fast.generate(model, batch, inputs_embeds=embeddings, **GREEDY)


@pytest.mark.parametrize("definition", ["reference", "table1"])
def test_a_definition_that_a_span_is_too_short_for_is_refused(definition: str) -> None:
    model, batch = LLAMA.build(), prompts()
    batch["strategy_mask"][:] = False
    batch["strategy_mask"][:, 20] = True
    with pytest.raises(ValueError, match=f"row 0: '{definition}' leaves out the span's last"):
        sra_fast.generate(model, batch, definition=definition, **GREEDY)
    marked = marked_batch((40,))
    marked["strategy_mask"] = torch.arange(40)[None] == 4
    with (
        sra_fast.monitor(model, definition=definition),
        torch.no_grad(),
        pytest.raises(ValueError, match=f"row 0: '{definition}' leaves out the span's last"),
    ):
        model(**marked)


def test_tokens_without_an_embedding_and_prompts_beyond_the_context_are_refused() -> None:
    model, batch = LLAMA.build(), prompts()
    model.config.max_position_embeddings = 39
    with pytest.raises(ValueError, match=r"row 0: 40 tokens, and .* reaches to 39"):
        sra_fast.generate(model, batch, **GREEDY)
    model = LLAMA.build()
    batch["input_ids"][1, 20] = 1000
    unknown = "row 1: token id 1000 at position 20"
    with pytest.raises(ValueError, match=unknown):
        sra_fast.generate(model, batch, **GREEDY)
    with pytest.raises(ValueError, match=unknown), sra_fast.steer(model, batch, bias=1.0):
        pass


def test_a_copy_of_a_recorded_model_is_refused() -> None:
    model, batch = LLAMA.build(), prompts()
    with (
        pytest.raises(ValueError, match="is being recorded, and a copy of it"),
        sra_fast.monitor(model, batch),
    ):
        copy.deepcopy(model)
    copy.deepcopy(model)
