"""Test that a checkpoint whose weights are not all there is refused by their names."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from broken_checkpoints import (
    MODEL,
    save_smallest_llama,
    tensors_of,
    without,
    write_tensors,
)
from model_families import FAMILIES, MULTIMODAL, Family
from sra_fast.files.models import ModelSource
from sra_fast.files.weights import Mismatch, MissingWeightsError

QUERY = "model.layers.0.self_attn.q_proj.weight"
FAMILY = {family.name: family for family in (*FAMILIES, MULTIMODAL)}
SOME = ("gpt_oss", "qwen3_moe", "llama4", "gpt2", "gpt_neox", "gemma2", "qwen3_next")


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return save_smallest_llama(tmp_path / "llama")


def source(folder: Path, *, allow_missing: bool = False) -> ModelSource:
    return ModelSource(folder.name, str(folder), allow_missing=allow_missing)


def refusal(folder: Path) -> MissingWeightsError:
    """Return the error with which a model is not loaded, and not even checked."""
    with pytest.raises(MissingWeightsError) as checked:
        source(folder).check()
    with pytest.raises(MissingWeightsError) as loaded:
        source(folder).load("auto", "cpu")
    assert str(checked.value) == str(loaded.value)
    return loaded.value


def told(caplog: pytest.LogCaptureFixture) -> str:
    """Return what this library logged, which is warnings only."""
    own = [record for record in caplog.records if record.name.startswith("sra_fast")]
    assert {record.levelno for record in own} <= {logging.WARNING}
    return "\n".join(record.getMessage() for record in own)


@pytest.mark.parametrize("tied", [False, True])
def test_every_weight_of_a_checkpoint_is_missed_by_its_name(tmp_path: Path, tied: bool) -> None:
    folder = save_smallest_llama(tmp_path / "llama", tied=tied)
    whole = tensors_of(folder)
    assert ("lm_head.weight" in whole) is not tied
    for name in whole:
        write_tensors(folder, {one: tensor for one, tensor in whole.items() if one != name})
        with pytest.raises(MissingWeightsError, match=f"{MODEL} lacks .*{name}") as refused:
            source(folder).load("auto", "cpu")
        both = tied and name == "model.embed_tokens.weight"  # then the head has no weight either
        assert refused.value.missing == (("lm_head.weight",) if both else ()) + (name,)
    write_tensors(folder, whole)
    source(folder).load("auto", "cpu")


def test_of_two_tied_weights_either_will_do(tmp_path: Path) -> None:
    folder = save_smallest_llama(tmp_path / "llama", tied=True)
    whole = tensors_of(folder)
    embedding = whole.pop("model.embed_tokens.weight")
    write_tensors(folder, {**whole, "lm_head.weight": embedding})
    loaded = source(folder).load("auto", "cpu")
    assert torch.equal(loaded.get_input_embeddings().weight, embedding)


def test_an_output_head_may_be_missing_where_no_logit_is_asked_for(
    llama: Path, caplog: pytest.LogCaptureFixture
) -> None:
    without(llama, "lm_head.weight")
    assert refusal(llama).missing == ("lm_head.weight",)
    source(llama).load("auto", "cpu", logits=False)
    assert "lack 1 weight that no mass depends on: lm_head.weight" in told(caplog)


def test_a_weight_of_another_shape_is_named_with_both_shapes_and_its_file(tmp_path: Path) -> None:
    folder = save_smallest_llama(tmp_path / "llama")
    whole = tensors_of(folder)
    write_tensors(folder, {**whole, QUERY: torch.zeros(3, 8)})
    found = refusal(folder)
    assert found.mismatched == (Mismatch(QUERY, (3, 8), (8, 8)),)
    assert found.missing == ()
    assert f"{QUERY} has [3, 8] where the model has [8, 8]" in str(found)
    assert str(folder / MODEL) in str(found)


def test_a_weight_is_named_with_the_shard_that_should_hold_it(tmp_path: Path) -> None:
    folder = save_smallest_llama(tmp_path / "llama")
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.save_pretrained(tmp_path / "shards", max_shard_size="1KB")
    shard = next(
        file
        for file in (tmp_path / "shards").glob("*-of-*")
        if QUERY in tensors_of(file.parent, file.name)
    )
    without(shard.parent, QUERY, name=shard.name)
    assert f"{shard} lacks 1 weight: {QUERY}" in str(refusal(shard.parent))


def test_a_tensor_that_the_model_has_no_place_for_is_told_once(
    llama: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_tensors(llama, {**tensors_of(llama), "model.layers.7.extra": torch.zeros(2)})
    for _ in range(2):
        source(llama).load("auto", "cpu")
    assert told(caplog).count("model.layers.7.extra") == 1


def test_whoever_allows_it_gets_the_same_random_numbers_every_time(
    llama: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = source(llama).load("auto", "cpu").state_dict()
    whole_run = source(llama).fingerprint()
    without(llama, QUERY)
    allowed = source(llama, allow_missing=True)
    before = torch.random.get_rng_state()
    first, second = (allowed.load("auto", "cpu").state_dict() for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), before)
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name])
        assert torch.equal(tensor, whole[name]) is (name != QUERY)
    assert f"lacks 1 weight: {QUERY}; random numbers stand in for them" in told(caplog)
    assert allowed.fingerprint()["allow_missing"] is True
    assert "allow_missing" not in whole_run


@pytest.mark.parametrize("lost", ["w1", "w2", "w3"])
def test_an_expert_that_transformers_joins_with_others_is_named(tmp_path: Path, lost: str) -> None:
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(
        vocab_size=24,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_local_experts=3,
    )
    MixtralForCausalLM(config).save_pretrained(tmp_path)
    source(tmp_path).load("auto", "cpu")
    name = f"model.layers.0.block_sparse_moe.experts.1.{lost}.weight"
    without(tmp_path, name)
    assert refusal(tmp_path).missing == (name,)


@pytest.mark.parametrize("family", [FAMILY[name] for name in SOME] + [MULTIMODAL], ids=str)
def test_what_a_family_saves_is_all_that_it_loads(
    family: Family, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    family.build().save_pretrained(tmp_path)
    source(tmp_path).check()
    assert not told(caplog)


def test_tensors_that_old_versions_stored_are_no_fault(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gpt2 = tmp_path / "gpt2"
    GPT2LMHeadModel(GPT2Config(vocab_size=24, n_embd=8, n_layer=1, n_head=2)).save_pretrained(gpt2)
    mask = {f"transformer.h.0.attn.{name}": torch.ones(1) for name in ("bias", "masked_bias")}
    write_tensors(gpt2, tensors_of(gpt2) | mask)
    llama = save_smallest_llama(tmp_path / "llama")
    rotary = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2)}
    write_tensors(llama, tensors_of(llama) | rotary)
    source(llama).load("auto", "cpu")
    assert not told(caplog)
    source(gpt2).load("auto", "cpu")
    assert "masked_bias" in told(caplog)


def test_a_gguf_file_is_complete_or_its_weight_is_named(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf", reason="needs the package gguf (extra 'demo')")
    shapes = {"token_embd": (24, 32), "output_norm": (32,), "output": (24, 32)}
    layer = {"attn_q": (32, 32), "attn_k": (16, 32), "attn_v": (16, 32), "attn_output": (32, 32)}
    layer |= {"ffn_gate": (32, 32), "ffn_up": (32, 32), "ffn_down": (32, 32)}
    layer |= {"attn_norm": (32,), "ffn_norm": (32,)}
    shapes |= {f"blk.0.{name}": shape for name, shape in layer.items()}
    for lost in (None, "blk.0.attn_q"):
        writer = gguf.GGUFWriter(tmp_path / "tiny.gguf", "llama")
        writer.add_block_count(1)
        writer.add_context_length(64)
        writer.add_embedding_length(32)
        writer.add_feed_forward_length(32)
        writer.add_head_count(2)
        writer.add_head_count_kv(1)
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_vocab_size(24)
        writer.add_tokenizer_model("gpt2")
        for name, shape in shapes.items():
            if name != lost:
                writer.add_tensor(f"{name}.weight", torch.ones(shape).numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        packed = ModelSource("tiny", str(tmp_path), "tiny.gguf")
        if lost is None:
            assert packed.load("float32", "cpu").config.num_hidden_layers == 1
        else:
            with pytest.raises(MissingWeightsError) as refused:
                packed.load("float32", "cpu")
            assert refused.value.missing == (QUERY,)
