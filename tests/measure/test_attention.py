"""Test that the attention in transformers' models is exact, with a request and without one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers
from packaging.version import Version
from torch import Tensor
from transformers import (
    AttentionInterface,
    DynamicCache,
    PhimoeConfig,
    PhimoeForCausalLM,
    StaticCache,
)
from transformers.masking_utils import AttentionMaskInterface, create_causal_mask

import sra_fast.measure.attention as implementation
from model_families import DENSE, FAMILIES, MULTIMODAL, VARIANTS, Family, random_tokens
from sra_fast import SpanQuery, SpanRequest, span_attention, span_mass
from sra_fast.kernels.contract import ProfileQuery
from sra_fast.measure.request import ForwardStopped

each_family = pytest.mark.parametrize("family", FAMILIES + VARIANTS, ids=str)
each_dense = pytest.mark.parametrize("family", DENSE, ids=str)
each_side = pytest.mark.parametrize("side", ["left", "right"])


def padded(lengths: tuple[int, ...], side: str) -> tuple[Tensor, Tensor]:
    """Return token ids and their mask, with padding."""
    ids = random_tokens(len(lengths), max(lengths))
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        where = slice(max(lengths) - length, None) if side == "left" else slice(length)
        mask[row, where] = 1
    return ids, mask


def usual(family: Family) -> str:
    """Return the attention implementation that the family runs with otherwise."""
    return "sdpa" if family.sdpa else "eager"


def query_of(length: int, batch: int = 1, rows: Any = None) -> SpanQuery:
    """Ask for two spans, keys 3 to 6 and key 0, and the rows 20 and up."""
    labels = torch.zeros(batch, length, dtype=torch.int32)
    labels[:, 3:7] |= 1
    labels[:, 0] |= 2
    return SpanQuery(
        labels,
        torch.arange(20, length) if rows is None else torch.tensor(rows),
        torch.tensor([[b, 0, length] for b in range(batch)], dtype=torch.int32),
        ("four", "null"),
    )


@each_side
@each_family
def test_without_a_request_hidden_states_are_the_usual_ones(family: Family, side: str) -> None:
    ids, mask = padded((40, 29, 33), side)
    model = family.build().get_decoder()
    states = []
    for name in (usual(family), "sra_fast"):
        model.set_attn_implementation(name)
        with torch.no_grad():
            out = model(ids, attention_mask=mask, use_cache=False, output_hidden_states=True)
        states.append(out.hidden_states[-1][mask.bool()])
    torch.testing.assert_close(states[1], states[0], rtol=1e-5, atol=1e-5)


@each_family
def test_greedy_generation_gives_the_same_tokens(family: Family) -> None:
    if family.name == "phi3_longrope" and Version(transformers.__version__) < Version("5.23"):
        pytest.skip("this Phi3 drops its cache at the limit and goes on with the last token alone")
    ids, mask = padded((30, 19), "left")
    found = []
    for name in (usual(family), "sra_fast"):
        model = family.build()  # anew: some RoPE keeps a state from one prompt to the next
        model.set_attn_implementation(name)
        found.append(
            model.generate(ids, attention_mask=mask, max_new_tokens=12, do_sample=False)[:, 30:]
        )
    assert torch.equal(found[0], found[1])


@each_dense
def test_packed_rows_without_a_request_are_what_the_models_own_masks_make_of_them(
    family: Family,
) -> None:
    ids = random_tokens(1, 40)
    positions = torch.cat([torch.arange(13), torch.arange(27)])[None]
    model = family.build().get_decoder()
    states = []
    for name in (usual(family), "sra_fast"):
        model.set_attn_implementation(name)
        with torch.no_grad():
            states.append(model(ids, position_ids=positions, use_cache=False)[0])
    torch.testing.assert_close(states[1], states[0], rtol=0, atol=2e-5)


@each_dense
def test_masses_with_a_cache_are_those_of_the_whole_pass(family: Family) -> None:
    model = family.build()
    model.set_attn_implementation("sra_fast")
    ids, length = random_tokens(1, 40), 40
    whole = SpanRequest(query_of(length))
    with torch.no_grad():
        model(ids, use_cache=False, sra_request=whole)
        cache = DynamicCache(config=model.config)
        model(ids[:, :30], past_key_values=cache, use_cache=True)
        for first, last in ((30, 39), (39, 40)):
            part = SpanRequest(query_of(last, rows=range(last - first)))
            model(ids[:, first:last], past_key_values=cache, use_cache=True, sra_request=part)
            for layer, mass in part.masses.items():
                wanted = whole.masses[layer][first - 20 : last - 20]
                torch.testing.assert_close(mass, wanted, rtol=0, atol=1e-5)


def _llama() -> Any:
    model = DENSE[0].build()
    model.set_attn_implementation("sra_fast")
    return model


def test_masses_are_found_in_the_outputs_by_whoever_asks_for_attentions() -> None:
    request = SpanRequest(query_of(40))
    out = _llama()(random_tokens(1, 40), sra_request=request, output_attentions=True)
    assert len(out.attentions) == 3
    assert all(torch.equal(out.attentions[i], request.masses[i]) for i in range(3))


def test_masses_do_not_show_in_the_outputs_of_somebody_elses_call() -> None:
    request = SpanRequest(query_of(40), in_outputs=False)
    out = _llama()(random_tokens(1, 40), sra_request=request, output_attentions=True)
    assert not out.attentions
    assert len(request.masses) == 3


def test_a_forward_ends_after_the_layer_it_was_told_to() -> None:
    request = SpanRequest(query_of(40), stop_after=1)
    model, ids = _llama(), random_tokens(1, 40)
    with pytest.raises(ForwardStopped):
        model(ids, sra_request=request)
    through = SpanRequest(query_of(40))
    model(ids, sra_request=through)
    assert sorted(request.masses) == [0, 1]
    torch.testing.assert_close(request.masses[1], through.masses[1].detach(), rtol=0, atol=1e-6)


def test_masses_carry_gradients_into_the_model() -> None:
    model, ids = _llama(), random_tokens(1, 40)
    request = SpanRequest(query_of(40))
    model(ids, use_cache=False, sra_request=request)
    sum(mass[..., 0].mean() for mass in request.masses.values()).backward()
    assert model.model.layers[0].self_attn.q_proj.weight.grad.abs().max() > 0


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_changes_no_mass(reentrant: bool) -> None:
    model, ids = _llama(), random_tokens(1, 40)
    plain, recomputed = SpanRequest(query_of(40)), SpanRequest(query_of(40))
    model(ids, use_cache=False, sra_request=plain)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.train()
    model.enable_input_require_grads()
    model(ids, use_cache=False, sra_request=recomputed).logits.sum().backward()
    for layer, mass in plain.masses.items():
        torch.testing.assert_close(recomputed.masses[layer], mass, rtol=0, atol=1e-6)


def test_a_compiled_model_gives_the_same_masses() -> None:
    model, ids = _llama(), random_tokens(1, 40)
    eager, compiled = SpanRequest(query_of(40)), SpanRequest(query_of(40))
    with torch.no_grad():
        model(ids, use_cache=False, sra_request=eager)
        torch.compile(model, backend="eager")(ids, use_cache=False, sra_request=compiled)
    for layer, mass in eager.masses.items():
        torch.testing.assert_close(compiled.masses[layer], mass, rtol=0, atol=1e-6)


@pytest.mark.parametrize("requested", [False, True])
def test_under_autocast_the_attention_is_that_of_sdpa_and_masses_stay_float32(
    requested: bool,
) -> None:
    ids = random_tokens(1, 40)
    request = SpanRequest(query_of(40)) if requested else None
    given = {"sra_request": request} if requested else {}
    states = []
    for name in ("sdpa", "sra_fast"):
        model = DENSE[0].build().model
        model.set_attn_implementation(name)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            states.append(model(ids, use_cache=False, **(given if name == "sra_fast" else {}))[0])
    torch.testing.assert_close(states[1], states[0], rtol=0.05, atol=0.1)
    if request is not None:
        assert request.masses[0].dtype == torch.float32


def test_masses_of_the_op_are_exact_under_autocast() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 4, 40, 16, generator=generator) for _ in range(3))
    wanted = span_attention(q, k, v, query_of(40))
    with torch.autocast("cpu", torch.bfloat16):
        found = span_attention(q, k, v, query_of(40))
        alone = span_mass(q, k, query_of(40))
    assert torch.equal(found.mass, wanted.mass)
    torch.testing.assert_close(alone.mass, wanted.mass, rtol=0, atol=1e-6)


def test_a_window_that_only_the_config_tells_is_kept() -> None:
    """Use PhiMoE, whose window is in its mask alone: the attention function is handed none."""
    config = PhimoeConfig(
        vocab_size=128,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=2,
        sliding_window=8,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    model = PhimoeForCausalLM(config).eval().model
    states = []
    for name in ("sdpa", "sra_fast"):
        model.set_attn_implementation(name)
        with torch.no_grad():
            states.append(model(random_tokens(1, 40), use_cache=False)[0])
    torch.testing.assert_close(states[1], states[0], rtol=0, atol=1e-5)


def test_the_vision_tower_of_a_multimodal_model_is_left_alone() -> None:
    model = MULTIMODAL.build()
    model.set_attn_implementation({"text_config": "sra_fast"})
    assert model.config.vision_config._attn_implementation == "sdpa"
    pixels = torch.rand(1, 3, *[model.config.vision_config.image_size] * 2)
    model.model.vision_tower(pixels)
    model.set_attn_implementation("sra_fast")  # for all parts, which is not what one wants
    with pytest.raises(ValueError, match="not causal"):
        model.model.vision_tower(pixels)


# --- refusals, by name ---


def test_a_ready_made_mask_is_refused() -> None:
    ids = random_tokens(1, 20)
    with pytest.raises(ValueError, match="ready-made 4-D attention mask"):
        _llama()(ids, attention_mask=torch.zeros(1, 1, 20, 20))


def test_a_hole_in_the_mask_is_refused() -> None:
    mask = torch.ones(1, 20, dtype=torch.int64)
    mask[0, 5] = 0
    with pytest.raises(ValueError, match="hole inside a row"):
        _llama()(random_tokens(1, 20), attention_mask=mask)


def test_a_static_cache_is_refused() -> None:
    model = _llama()
    cache = StaticCache(config=model.config, max_cache_len=64)
    with pytest.raises(ValueError, match="StaticCache"):
        model(random_tokens(1, 20), past_key_values=cache)


def test_dropout_is_refused() -> None:
    model = _llama().train()
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.1
    with pytest.raises(ValueError, match="dropout"):
        model(random_tokens(1, 20))


@pytest.mark.parametrize(
    "mask_arguments",
    [
        {"or_mask_function": lambda b, h, q, k: q == k + 1},
        {"and_mask_function": lambda b, h, q, k: q >= k},
        {"block_sequence_ids": torch.tensor([[-1, 0, 0, 0, -1, -1, -1, -1, -1, -1]])},
    ],
    ids=["or", "and", "blocks"],
)
def test_masks_that_two_dimensions_cannot_say_are_refused(mask_arguments: Any) -> None:
    config = _llama().config
    with pytest.raises(ValueError, match="does not serve"):
        create_causal_mask(
            config=config,
            inputs_embeds=torch.zeros(1, 10, config.hidden_size),
            attention_mask=None,
            past_key_values=None,
            **mask_arguments,
        )


def test_attention_that_sees_later_tokens_is_refused() -> None:
    model = _llama()
    model.config.is_causal = False
    with pytest.raises(ValueError, match="does not serve"):
        model.model(random_tokens(1, 10))


@pytest.mark.parametrize("name", ["position_bias", "cache"])
def test_what_the_attention_would_have_to_ignore_is_refused(name: str) -> None:
    module = _llama().model.layers[0].self_attn
    x = torch.zeros(1, 4, 5, 16)
    with pytest.raises(ValueError, match=name):
        implementation.attention(module, x, x, x, None, **{name: object()})


def test_packed_sequences_are_kept_apart_or_refused() -> None:
    model = DENSE[0].build()
    collator = transformers.DataCollatorWithFlattening(
        return_tensors="pt", return_flash_attn_kwargs=True
    )
    sequences = [row.tolist() for row in random_tokens(2, 7)]
    batch = dict(collator([{"input_ids": sequence} for sequence in sequences]))
    alone = torch.cat([model(torch.tensor([each])).logits for each in sequences], dim=1)
    model.set_attn_implementation("sra_fast")
    assert torch.allclose(model(**batch, use_cache=False).logits, alone, atol=1e-5)
    with pytest.raises(ValueError, match="with 2 sequences where the mask has 1"):
        model(**batch)  # transformers looks for packed rows only where there is no cache
    del batch["position_ids"]
    with pytest.raises(ValueError, match="with 2 sequences where the mask has 1"):
        model(**batch, use_cache=False)


def test_packed_rows_with_a_cache_are_refused() -> None:
    model, ids = _llama(), random_tokens(1, 40)
    cache = DynamicCache(config=model.config)
    model(ids[:, :30], past_key_values=cache, use_cache=True)
    query = query_of(40, rows=[3])
    pieces = torch.tensor([[0, 0, 20], [0, 20, 40]], dtype=torch.int32)
    request = SpanRequest(SpanQuery(query.key_labels, query.rows, pieces, query.names))
    with pytest.raises(ValueError, match="packed rows with a cache"):
        model(ids[:, 30:], past_key_values=cache, use_cache=True, sra_request=request)


def test_a_request_that_lets_padding_be_seen_is_refused() -> None:
    ids, mask = padded((40, 30), "left")
    request = SpanRequest(query_of(40, batch=2))
    with pytest.raises(ValueError, match="reach beyond the sequences of the attention mask"):
        _llama()(ids, attention_mask=mask, sra_request=request)


def test_a_request_that_joins_packed_sequences_is_refused() -> None:
    positions = torch.cat([torch.arange(20), torch.arange(20)])[None]
    request = SpanRequest(query_of(40))
    with pytest.raises(ValueError, match="reach beyond"):
        _llama()(random_tokens(1, 40), position_ids=positions, use_cache=False, sra_request=request)


def test_a_layer_with_the_last_keys_alone_puts_its_profile_where_they_are() -> None:
    family = next(family for family in DENSE if family.name == "gemma2")
    model, ids = family.build(), random_tokens(1, 40)
    model.set_attn_implementation("eager")
    maps = model(ids, use_cache=False, output_attentions=True).attentions
    model.set_attn_implementation("sra_fast")
    cache = DynamicCache(config=model.config)
    model(ids[:, :39], past_key_values=cache, use_cache=True)
    row_groups = torch.zeros(1, dtype=torch.int32)
    query = replace(query_of(40, rows=[0]), profile=ProfileQuery(row_groups, 1, by_head=True))
    found: dict[int, Tensor] = {}

    class Keeper:
        def add(self, layer: int, profile: Tensor) -> None:
            found[layer] = profile

    request = SpanRequest(query, profiles=Keeper())
    model(ids[:, 39:], past_key_values=cache, use_cache=True, sra_request=request)
    held = [layer.keys.shape[2] for layer in cache.layers]
    assert min(held) < max(held) == 40
    for layer, profile in found.items():
        wanted = maps[layer][0, :, 39]
        assert torch.allclose(profile[0], wanted, atol=1e-5)
    assert len(found) == len(held)


def test_labels_that_miss_the_cached_history_are_refused() -> None:
    model, ids = _llama(), random_tokens(1, 40)
    cache = DynamicCache(config=model.config)
    model(ids[:, :30], past_key_values=cache, use_cache=True)
    request = SpanRequest(query_of(10, rows=[3]))
    with pytest.raises(ValueError, match="whole history"):
        model(ids[:, 30:], past_key_values=cache, use_cache=True, sra_request=request)


def test_both_of_transformers_interfaces_know_the_name() -> None:
    assert AttentionInterface()["sra_fast"] is implementation.attention
    assert AttentionMaskInterface()["sra_fast"] is implementation.attention_mask
