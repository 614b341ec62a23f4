"""Test that no key of a batch is dropped: each is read, passed on, without effect, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BatchEncoding, DynamicCache

import sra_fast
from image_models import IMAGE_FAMILIES
from marked_batches import marked_batch
from model_families import DENSE
from sra_fast.measure.batch_keys import WITHOUT_EFFECT
from sra_fast.measure.spans import COLUMN_KEYS, MASK_KEYS

LLAMA, LLAVA = DENSE[0], IMAGE_FAMILIES[0]
PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "own-prompts.md"
NOTHING = torch.zeros(1, 40)


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("attention_masks", "did you mean 'attention_mask'?"),
        ("conversatoin", "did you mean 'conversation'?"),
        ("stratgy_mask", "did you mean 'strategy_mask'?"),
        ("positions_ids", "did you mean 'position_ids'?"),
        ("label", "did you mean 'labels'?"),
        ("pixel_values", "LlamaForCausalLM takes no such input; leave it out"),
        ("token_type_ids", "LlamaForCausalLM takes no such input"),
        ("offset_mapping", "LlamaForCausalLM takes no such input; leave it out"),
    ],
)
def test_a_key_that_nobody_reads_is_refused_with_the_nearest_known_one(key: str, hint: str) -> None:
    batch, model = marked_batch((40,)) | {key: NOTHING}, LLAMA.build()
    with pytest.raises(ValueError, match=f"^'{key}' is no key of a batch") as error:
        sra_fast.score(model, batch)
    assert hint in str(error.value)
    with (
        pytest.warns(UserWarning, match="nothing was recorded"),
        sra_fast.monitor(model),
        pytest.raises(ValueError, match=f"^'{key}' is no key of a batch"),
    ):
        model(**batch)


def test_a_misspelt_input_is_compared_with_those_of_the_model() -> None:
    batch = marked_batch((40,)) | {"pixel_valeus": NOTHING}
    with pytest.raises(ValueError, match="did you mean 'pixel_values'"):
        sra_fast.score(LLAVA.build(), batch)


@pytest.mark.parametrize("key", WITHOUT_EFFECT)
def test_the_keys_without_effect_change_nothing(key: str) -> None:
    batch, model = marked_batch((40,)), LLAMA.build()
    value: Any = ["Offer Hope"] * 2 if key == "strategies" else torch.full((1, 40), 3)
    assert torch.equal(
        sra_fast.score(model, batch | {key: value}).mass, sra_fast.score(model, batch).mass
    )
    with sra_fast.monitor(model) as watch, torch.no_grad():
        model(**batch | {key: value})
    assert len(watch.results) == 1


def test_a_key_without_a_value_is_as_if_it_were_not_there() -> None:
    batch, model = marked_batch((40,)), LLAVA.build()
    nothing = {"pixel_values": None, "position_ids": None, "past_key_values": None}
    assert torch.equal(
        sra_fast.score(model, batch | nothing).mass, sra_fast.score(model, batch).mass
    )


def test_labels_tell_the_responses_where_no_mask_does() -> None:
    batch, model = marked_batch((40, 29)), LLAMA.build()
    last = batch.pop("response_mask") == 2
    labels = batch["input_ids"].masked_fill(~last, -100)
    found = sra_fast.score(model, batch | {"labels": labels})
    assert torch.equal(found.mass, sra_fast.score(model, batch | {"response_mask": last}).mass)


def test_an_encoding_of_a_tokenizer_is_a_batch() -> None:
    batch, model = marked_batch((40,)), LLAMA.build()
    found = sra_fast.score(model, BatchEncoding(batch))
    assert torch.equal(found.mass, sra_fast.score(model, batch).mass)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"past_key_values": DynamicCache()}, "past_key_values: .* without a cache"),
        ({"use_cache": False}, "use_cache: this asks a model for other outputs"),
        ({"output_attentions": True}, "output_attentions: this asks a model for other outputs"),
        ({"inputs_embeds": torch.zeros(1, 40, 64)}, "both input_ids and inputs_embeds"),
        ({"attention_mask": torch.full((1, 40), 2)}, "attention_mask: expected 1 at tokens and 0"),
        ({"input_ids": torch.zeros(1, 40)}, "input_ids: expected int64, got torch.float32"),
        ({"input_ids": None}, "needs `input_ids`, or `inputs_embeds`"),
        ({"response_mask": None}, "needs `response_mask`, or `labels`"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_makes_no_batch_is_refused_by_name(given: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, KeyError), match=message):
        sra_fast.score(LLAMA.build(), marked_batch((40,)) | given)


# --- watched calls ---


def test_a_filled_cache_is_refused_in_words_about_caches() -> None:
    model, batch = LLAMA.build(), marked_batch((40,))
    cache = model(batch["input_ids"], use_cache=True).past_key_values
    with (
        pytest.warns(UserWarning, match="nothing was recorded"),
        sra_fast.monitor(model),
        pytest.raises(ValueError, match=r"past_key_values: .* a cache of 40 tokens"),
    ):
        model(**batch, past_key_values=cache)


def test_a_call_takes_an_empty_cache_and_what_it_asks_of_the_outputs() -> None:
    model, batch = LLAMA.build(), marked_batch((40,))
    options = {"use_cache": True, "output_hidden_states": True, "num_items_in_batch": 3}
    with sra_fast.monitor(model) as watch, torch.no_grad():
        model(**batch, past_key_values=DynamicCache(), labels=batch["input_ids"], **options)
    wanted = sra_fast.score(model, batch).mass
    torch.testing.assert_close(watch.results[0].mass, wanted, rtol=0, atol=1e-6)


def test_a_misspelt_mask_of_a_call_without_others_is_refused() -> None:
    model, batch = LLAMA.build(), marked_batch((40,))
    marks = {"strategie_mask": batch["strategy_mask"], "labels": batch["input_ids"]}
    with (
        pytest.warns(UserWarning, match="nothing was recorded"),
        sra_fast.monitor(model),
        pytest.raises(ValueError, match="did you mean 'strategy_mask'"),
    ):
        model(batch["input_ids"], **marks)


def test_arguments_are_asked_of_functions_that_were_put_around_the_forward_pass() -> None:
    accelerate = pytest.importorskip("accelerate")
    model, batch = LLAMA.build(), marked_batch((40,))
    wanted = sra_fast.score(model, batch).mass
    accelerate.cpu_offload(model, execution_device="cpu")
    with pytest.raises(ValueError, match="LlamaForCausalLM takes no such input"):
        sra_fast.score(model, batch | {"pixel_values": NOTHING})
    with sra_fast.monitor(model) as watch, torch.no_grad():
        model(**batch, labels=batch["input_ids"])
    torch.testing.assert_close(watch.results[0].mass, wanted, rtol=0, atol=1e-6)


# --- the page ---


def test_the_page_on_prompts_names_every_key() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for key in (*MASK_KEYS, *COLUMN_KEYS, *WITHOUT_EFFECT, "position_ids", "inputs_embeds"):
        assert f"`{key}`" in page, key
