"""Test that the tiny models can fail a test: their maps are peaked, and their heads differ."""

from __future__ import annotations

import copy

import pytest
import torch

from model_families import (
    DENSE,
    FAMILIES,
    HYBRIDS,
    MULTIMODAL,
    NOT_SERVED,
    VARIANTS,
    Family,
    attention_layers,
    eager_attentions,
    random_tokens,
    reduce_by_hand,
)

LENGTH = 40
SERVED = (*FAMILIES, *VARIANTS, MULTIMODAL)
FAMILY = {family.name: family for family in SERVED}

each_family = pytest.mark.parametrize("family", SERVED, ids=str)


def test_the_table_names_each_family_once() -> None:
    assert len(FAMILY) == len(SERVED)
    assert len(DENSE) == 17
    assert [family.name for family in FAMILIES if family.hybrid] == [
        family.name for family in HYBRIDS
    ]


@each_family
def test_building_twice_gives_the_same_model_and_leaves_the_random_state(family: Family) -> None:
    before = torch.random.get_rng_state()
    first, second = family.build(), family.build()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not first.training
    assert all(parameter.dtype == torch.float32 for parameter in first.parameters())
    assert all(
        torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)
    )


@each_family
def test_the_declared_layers_attend(family: Family) -> None:
    model = family.build()
    assert attention_layers(model) == family.attention_layers
    assert tuple(eager_attentions(model, random_tokens(1, 8))) == family.attention_layers


def test_some_hybrid_ends_with_a_layer_that_does_not_attend() -> None:
    last = {family.name: family.build().config.num_hidden_layers - 1 for family in HYBRIDS}
    assert any(family.attention_layers[-1] < last[family.name] for family in HYBRIDS)


def test_a_model_outside_the_attention_interface_declares_no_attention() -> None:
    assert attention_layers(NOT_SERVED.build()) == NOT_SERVED.attention_layers == ()


@each_family
def test_maps_are_those_the_model_returns_itself(family: Family) -> None:
    model, tokens = family.build(), random_tokens(2, LENGTH)
    maps = eager_attentions(model, tokens)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        returned = model(tokens, use_cache=False, output_attentions=True).attentions
    assert len(returned) == len(maps)
    for own, collected in zip(returned, maps.values(), strict=True):
        assert collected.shape == (2, 4, LENGTH, LENGTH)  # no column for a sink
        torch.testing.assert_close(collected, own, rtol=0, atol=0)


@each_family
def test_asking_for_maps_leaves_the_model_as_it_was(family: Family) -> None:
    model, tokens = family.build(), random_tokens(1, 8)
    implementation = model.config._attn_implementation
    assert implementation == ("sdpa" if family.sdpa else "eager")
    with torch.no_grad():
        before = model(tokens, use_cache=False).logits
        eager_attentions(model, random_tokens(1, LENGTH))
        after = model(tokens, use_cache=False).logits
    assert model.config._attn_implementation == implementation
    assert not any(module._forward_hooks for module in model.modules())
    torch.testing.assert_close(after, before, rtol=0, atol=0)


@each_family
def test_rows_are_causal_distributions(family: Family) -> None:
    for attn in eager_attentions(family.build(), random_tokens(2, LENGTH)).values():
        assert not attn.triu(1).any()
        mass = attn.sum(-1)
        if family.sinks:
            assert mass.max() <= 1 + 1e-5
            assert 0.1 < 1 - mass.mean() < 0.9
        else:
            torch.testing.assert_close(mass, torch.ones_like(mass))


@each_family
def test_attention_is_peaked_and_heads_differ(family: Family) -> None:
    for layer, attn in eager_attentions(family.build(), random_tokens(2, LENGTH)).items():
        late = attn[:, :, 8:]
        uniform = 1 / (late > 0).sum(-1)
        assert late.amax(-1).mean() > 2.5 * uniform.mean(), layer
        heads = late.unbind(1)
        for i, head in enumerate(heads):
            for other in heads[:i]:
                distance = (head - other).abs().sum(-1).mean() / 2  # total variation, 0 to 1
                assert distance > 0.3, layer


@each_family
def test_windows_and_chunks_are_shorter_than_the_text(family: Family) -> None:
    model = family.build()
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    without_types = "full_attention" if window is None else "sliding_attention"  # Mistral
    layer_types = getattr(config, "layer_types", [without_types] * config.num_hidden_layers)
    reach = {
        "sliding_attention": window,
        "chunked_attention": getattr(config, "attention_chunk_size", None),
    }
    for layer, attn in eager_attentions(model, random_tokens(1, LENGTH)).items():
        assert (attn > 0).sum(-1).max() == reach.get(layer_types[layer], LENGTH)


def test_the_softcap_changes_the_maps() -> None:
    model, tokens = FAMILY["gemma2"].build(), random_tokens(1, LENGTH)
    uncapped = copy.deepcopy(model)
    for layer in uncapped.model.layers:
        layer.self_attn.attn_logit_softcapping = None
    difference = eager_attentions(model, tokens)[0] - eager_attentions(uncapped, tokens)[0]
    assert difference.abs().sum(-1).mean() / 2 > 0.1


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_left_padding_changes_no_map(family: Family) -> None:
    model, length, padding = family.build(), 20, 7
    tokens = random_tokens(1, length)
    mask = torch.ones(1, padding + length, dtype=torch.int64)
    mask[:, :padding] = 0
    padded = torch.nn.functional.pad(tokens, (padding, 0))
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    alone = eager_attentions(model, tokens)
    for layer, attn in eager_attentions(model, padded, mask, positions).items():
        torch.testing.assert_close(attn[:, :, padding:, padding:], alone[layer], rtol=0, atol=5e-5)


@each_family
def test_packed_maps_are_those_of_the_sequences_one_by_one_where_the_table_says_so(
    family: Family,
) -> None:
    model, lengths = family.build(), (13, 36)  # on both sides of the length limits
    sequences = [random_tokens(1, length, seed) for seed, length in enumerate(lengths)]
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    packed = eager_attentions(model, torch.cat(sequences, dim=1), position_ids=positions)
    alone = [eager_attentions(model, sequence) for sequence in sequences]
    first, second = slice(None, lengths[0]), slice(lengths[0], None)
    difference = 0.0
    for layer, attn in packed.items():
        attn[..., first, first] -= alone[0][layer]
        attn[..., second, second] -= alone[1][layer]
        difference = max(difference, attn.abs().max().item())
    if family.packs and family.masks_keep_packed_apart:
        assert difference < 5e-5
    else:
        assert difference > 0.05


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_a_variant_does_not_compute_what_its_family_computes(variant: Family) -> None:
    tokens = random_tokens(1, LENGTH)
    maps = eager_attentions(variant.build(), tokens)
    plain = eager_attentions(FAMILY[variant.name.split("_")[0]].build(), tokens)
    assert max((maps[layer] - plain[layer]).abs().max() for layer in maps) > 0.05


@pytest.mark.parametrize("name", ["llama_dynamic", "phi3_longrope"])
def test_beyond_the_length_limit_the_first_rows_depend_on_the_length(name: str) -> None:
    model, tokens = FAMILY[name].build(), random_tokens(1, LENGTH)
    limit = FAMILY[name].length_limit
    assert limit is not None
    short, within, beyond = (
        eager_attentions(model, tokens[:, :n])[0][..., :20, :20] for n in (20, limit, LENGTH)
    )
    torch.testing.assert_close(short, within, rtol=0, atol=5e-5)
    assert (within - beyond).abs().max() > 0.05


def test_a_model_with_images_reads_them() -> None:
    model, tokens = MULTIMODAL.build(), random_tokens(1, 12)
    tokens[:, 2:6] = model.config.image_token_id
    with torch.no_grad():
        dark, light = (
            model(tokens, pixel_values=torch.full((1, 3, 16, 16), c)).logits for c in (0.0, 1.0)
        )
    assert not torch.allclose(dark, light)


def test_reducing_by_hand_sums_the_keys_of_each_span() -> None:
    attn = torch.tensor([[[1.0, 0.0, 0.0], [0.25, 0.75, 0.0], [0.5, 0.25, 0.25]]])
    mass = reduce_by_hand(attn, rows=[1, 2], spans={"start": [0], "ends": [0, 2], "none": []})
    assert mass.dtype == torch.float64
    assert mass.tolist() == [[[0.25, 0.25, 0.0]], [[0.5, 0.75, 0.0]]]
