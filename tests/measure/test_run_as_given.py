"""Test that images, sounds and other inputs of a model are scored with it, or refused by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import sra_fast
from image_models import (
    IMAGE_FAMILIES,
    MORE_IMAGE_FAMILIES,
    SEEN_BOTH_WAYS,
    WIDTH,
    ImageFamily,
    image_batch,
    own_masses,
)
from marked_batches import marked_batch
from model_families import DENSE

LLAMA, GPT2 = DENSE[0], DENSE[-1]
LLAVA, QWEN2_5_VL, QWEN3_VL = IMAGE_FAMILIES
LAYOUTS = {
    "one row": ((WIDTH,), "right"),
    "two rows": ((WIDTH, WIDTH), "right"),
    "padded left": ((WIDTH - 4, WIDTH), "left"),
    "padded right": ((WIDTH - 4, WIDTH), "right"),
}
IN_EVERY_LAYOUT = [(family, layout) for family in IMAGE_FAMILIES for layout in LAYOUTS]
ONCE = [(family, "padded left") for family in MORE_IMAGE_FAMILIES]


@pytest.mark.parametrize(("family", "layout"), IN_EVERY_LAYOUT + ONCE, ids=str)
def test_masses_with_images_are_those_of_the_models_own_maps(
    family: ImageFamily, layout: str
) -> None:
    batch = image_batch(family, *LAYOUTS[layout])
    wanted = own_masses(family.build(), batch)
    assert wanted.max() > 0.1
    model = family.build()
    found = sra_fast.score(model, batch).mass[..., 0]
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    with sra_fast.monitor(model) as watch, torch.no_grad():
        model(**batch)
    torch.testing.assert_close(watch.results[0].mass[..., 0], wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", SEEN_BOTH_WAYS, ids=str)
def test_images_that_are_seen_both_ways_are_refused_by_name(family: ImageFamily) -> None:
    batch, model = image_batch(family, (WIDTH, WIDTH)), family.build()
    assert own_masses(family.build(), batch).max() > 0.1
    with pytest.raises(ValueError, match=r"Gemma.*(a mask in which|mask_function|not causal)"):
        sra_fast.score(model, batch)
    assert model.config._attn_implementation == "sdpa"


def test_an_image_changes_the_score() -> None:
    batch, model = image_batch(LLAVA, (WIDTH,)), LLAVA.build()
    other = batch | {"pixel_values": batch["pixel_values"].flip(-1)}
    assert not torch.allclose(sra_fast.score(model, batch).sra, sra_fast.score(model, other).sra)


@pytest.mark.parametrize("family", [LLAVA, QWEN2_5_VL], ids=str)
def test_text_alone_needs_no_image_and_is_packed(family: ImageFamily) -> None:
    model, batch = family.build(), marked_batch((20, 16))
    alone = torch.cat([sra_fast.score(model, marked_batch((length,))).sra for length in (20, 16)])
    torch.testing.assert_close(sra_fast.score(model, batch).sra, alone, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("axes", [3, 4])
def test_positions_of_several_axes_are_the_models_own(axes: int) -> None:
    batch, model = image_batch(QWEN2_5_VL, *LAYOUTS["padded left"]), QWEN2_5_VL.build()
    positions, _ = model.model.get_rope_index(
        batch["input_ids"],
        mm_token_type_ids=batch["mm_token_type_ids"],
        image_grid_thw=batch["image_grid_thw"],
        attention_mask=batch["attention_mask"],
    )
    text = torch.arange(WIDTH).expand(1, 2, WIDTH)
    given = positions if axes == 3 else torch.cat([text, positions])
    found = sra_fast.score(model, batch | {"position_ids": given})
    assert torch.equal(found.mass, sra_fast.score(model, batch).mass)


def test_what_a_model_notes_of_an_image_is_forgotten_again() -> None:
    batch, model = image_batch(QWEN3_VL, (WIDTH,)), QWEN3_VL.build()
    assert model.model.rope_deltas is None
    sra_fast.score(model, batch)
    assert model.model.rope_deltas is None
    assert not any(part._forward_pre_hooks for part in model.modules())


def test_lora_compilation_and_offloading_change_nothing() -> None:
    peft, accelerate = pytest.importorskip("peft"), pytest.importorskip("accelerate")
    batch = image_batch(LLAVA, (WIDTH - 4, WIDTH))
    wanted = sra_fast.score(LLAVA.build(), batch).mass
    lora = peft.LoraConfig(target_modules=["q_proj"], r=2)
    offloaded = LLAVA.build()
    accelerate.cpu_offload(offloaded, execution_device="cpu")
    for model in (
        peft.get_peft_model(LLAVA.build(), lora),
        torch.compile(LLAVA.build(), backend="eager"),
        offloaded,
    ):
        torch.testing.assert_close(sra_fast.score(model, batch).mass, wanted, rtol=0, atol=1e-6)


def test_what_the_model_says_of_its_inputs_is_passed_on_with_its_name() -> None:
    batch = image_batch(LLAVA, (WIDTH, WIDTH))
    batch["pixel_values"] = batch["pixel_values"][:1]
    says = r"LlavaForConditionalGeneration with pixel_values: .*do not match"
    with pytest.raises(ValueError, match=says):
        sra_fast.score(LLAVA.build(), batch)


def test_an_input_that_goes_with_an_image_and_is_missing_is_said_with_the_models_name() -> None:
    batch = image_batch(QWEN2_5_VL, (WIDTH,))
    del batch["image_grid_thw"]
    says = r"Qwen2_5_VLForConditionalGeneration with pixel_values.*another input may be missing"
    with pytest.raises(ValueError, match=says):
        sra_fast.score(QWEN2_5_VL.build(), batch)


def test_a_decoder_that_gets_another_number_of_tokens_is_refused() -> None:
    batch, model = image_batch(LLAVA, (WIDTH,)), LLAVA.build()
    inner = model.model.language_model

    def shorten(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        given = kwargs.get("inputs_embeds")
        return args, kwargs if given is None else kwargs | {"inputs_embeds": given[:, 1:]}

    inner.register_forward_pre_hook(shorten, with_kwargs=True)
    with pytest.raises(ValueError, match=r"its decoder got \[1, 23\] tokens .* \[1, 24\]"):
        sra_fast.score(model, batch)


def test_embeddings_in_place_of_token_ids_give_the_same_scores() -> None:
    batch, model = marked_batch((40, 29), "left"), LLAMA.build()
    embeddings = model.get_input_embeddings()(batch["input_ids"]).detach()
    given = {key: value for key, value in batch.items() if key != "input_ids"}
    found = sra_fast.score(model, given | {"inputs_embeds": embeddings})
    torch.testing.assert_close(found.mass, sra_fast.score(model, batch).mass, rtol=0, atol=1e-6)


def test_token_types_reach_the_model() -> None:
    batch, model = marked_batch((40,)), GPT2.build()
    batch["token_type_ids"] = batch["strategy_mask"].long()
    found = sra_fast.score(model, batch).mass[..., 0]
    model.set_attn_implementation("eager")
    with torch.no_grad():
        maps = model(
            batch["input_ids"], token_type_ids=batch["token_type_ids"], output_attentions=True
        ).attentions
    span = batch["strategy_mask"][0]
    for response in (1, 2):
        rows = batch["response_mask"][0] == response
        wanted = torch.stack([one[0][:, rows][..., span].sum(-1).mean(-1) for one in maps])
        torch.testing.assert_close(found[response - 1], wanted, rtol=0, atol=1e-5)
