"""Test what a trial on a few tokens finds out, and which models it refuses by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from packaging.version import Version
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

import sra_fast
from marked_batches import SPAN, marked_batch, response_positions
from model_families import random_tokens
from sra_fast.measure.served import UnservedModelError, serve
from sra_fast.measure.trial import tried
from sra_fast.training.data.packable import why_not_packed

SIZES: dict[str, Any] = dict(
    vocab_size=128,
    hidden_size=32,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    max_position_embeddings=64,
    initializer_range=0.3,
    pad_token_id=1,
)
LENGTHS = (40, 29, 38)


def tiny(family: str, **changes: Any) -> Any:
    """Build the causal language model of a family of transformers, by the name of its config."""
    sizes = {**SIZES, **changes}
    config = getattr(transformers, f"{family}Config")(**sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def own_masses(model: PreTrainedModel, length: int) -> Tensor:
    """Return the mean mass of the span over a sequence's responses, `[n]`, by the model's maps."""
    model.set_attn_implementation("eager")
    with torch.no_grad():
        maps = model(random_tokens(1, length), output_attentions=True, use_cache=False).attentions
    whole = torch.stack([attention[0].double() for attention in maps])  # [L, H, T, T]
    rows = [whole[:, :, positions] for positions in response_positions(length)]
    return torch.stack([one[..., list(SPAN)].sum(-1).mean() for one in rows])


def check_against_own_maps(model: Any) -> None:
    found = sra_fast.score(model, marked_batch(LENGTHS), definition="mass").sra
    wanted = torch.cat([own_masses(model, length) for length in LENGTHS])
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=1e-6)


# --- positions ---


@pytest.mark.parametrize("family", ["Roberta", "XLMRoberta", "Camembert", "Data2VecText"])
def test_a_decoder_that_counts_from_elsewhere_makes_its_positions_itself(family: str) -> None:
    model = tiny(family, is_decoder=True)
    assert not tried(serve(model)).counts_from_zero
    check_against_own_maps(model)
    assert "positions that do not count from 0" in str(why_not_packed(model, max_length=20))


@pytest.mark.parametrize("family", ["Llama", "Bert", "GPT2"])
def test_a_decoder_that_counts_from_zero_is_given_packed_rows(family: str) -> None:
    model = tiny(family, is_decoder=True)
    assert tried(serve(model)).counts_from_zero
    check_against_own_maps(model)
    assert why_not_packed(model, max_length=20) is None


# --- windows ---


@pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.23"),
    reason="Moshi has attention classes of its own in this version of transformers",
)
def test_a_window_that_the_model_never_applies_is_not_applied() -> None:
    """Use Moshi's text decoder: its config has a window and its mask function has none."""
    model = tiny("Moshi", head_dim=16, ffn_dim=64, sliding_window=8, num_key_value_heads=2)
    check_against_own_maps(model)
    ids, states = random_tokens(1, 40), []
    for name in ("eager", "sra_fast"):
        model.set_attn_implementation(name)
        with torch.no_grad():
            states.append(model(ids, use_cache=False).logits)
    torch.testing.assert_close(states[1], states[0], rtol=0, atol=5e-5)


# --- layers that run twice ---


class Looped(nn.Module):
    """A decoder layer that is applied twice to what it is given."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, hidden: Tensor, **kwargs: Any) -> Tensor:
        out: Tensor = self.layer(self.layer(hidden, **kwargs), **kwargs)
        return out


@pytest.mark.parametrize("how", ["shared", "looped"])
@pytest.mark.parametrize("last", [False, True])
def test_a_layer_that_runs_twice_is_refused_by_name(how: str, last: bool) -> None:
    model = tiny("Llama", num_hidden_layers=3)
    layers = model.model.layers
    at = 2 if last else 0
    if how == "looped":
        layers[at] = Looped(layers[at])
    else:
        layers[1] = layers[at]
    with pytest.raises(UnservedModelError, match=r"LlamaModel \(llama\).*attends more than once"):
        sra_fast.score(model, marked_batch(LENGTHS))


def test_a_layer_that_runs_twice_is_refused_where_the_users_own_call_is_watched() -> None:
    model = tiny("Llama")
    model.model.layers[1] = Looped(model.model.layers[1])
    with sra_fast.monitor(model), pytest.raises(UnservedModelError, match="LlamaAttention"):
        model(**marked_batch((40,)), use_cache=False)


def test_a_layer_that_spreads_its_values_over_two_calls_counts_once() -> None:
    """Use DiffLlama, which attends twice with the same queries, each time to half its values."""
    check_against_own_maps(tiny("DiffLlama", num_attention_heads=4, num_key_value_heads=4))


# --- once per decoder ---


def test_a_model_is_tried_once_and_again_when_its_parts_have_changed() -> None:
    model, seen = tiny("Llama"), []
    model.model.layers[0].register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    for _ in range(2):
        sra_fast.score(model, marked_batch((40,)), check=False)
    assert seen == [4, 4, 40, 40]
    model.model.layers[1] = model.model.layers[0]
    with pytest.raises(UnservedModelError, match="attends more than once"):
        sra_fast.score(model, marked_batch((40,)))


def test_a_trial_leaves_the_random_state_and_the_model_as_they_were() -> None:
    model = tiny("Llama").train()
    before = torch.random.get_rng_state()
    tried(serve(model))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert model.training
    assert model.config._attn_implementation == "sdpa"


# --- kinds that are refused, before any text of the user's runs ---


def sparse_index() -> Any:
    return tiny(
        "DeepseekV32",
        moe_intermediate_size=32,
        num_key_value_heads=2,
        q_lora_rank=24,
        kv_lora_rank=16,
        qk_nope_head_dim=16,
        qk_rope_head_dim=8,
        v_head_dim=16,
        n_routed_experts=4,
        n_group=1,
        topk_group=1,
        num_experts_per_tok=2,
        first_k_dense_replace=1,
        index_topk=8,
        index_head_dim=16,
        index_n_heads=2,
    )


def encoder_decoder() -> Any:
    encoder = transformers.BertConfig(**SIZES)
    decoder = transformers.GPT2Config(vocab_size=128, n_embd=32, n_layer=2, n_head=2)
    config = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    return transformers.EncoderDecoderModel(config).eval()


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda: tiny("Mamba"), "MambaForCausalLM has no attention layers"),
        (lambda: tiny("Rwkv"), "RwkvForCausalLM has no softmax attention"),
        (sparse_index, "DeepseekV32ForCausalLM chooses by an index of its own"),
        (encoder_decoder, "EncoderDecoderModel is an encoder-decoder model"),
        (lambda: tiny("Bert"), r"BertModel \(bert\) cannot be scored.* queries see later keys"),
        (lambda: tiny("Doge"), r"DogeModel \(doge\) cannot be scored.* 4-D attention mask"),
        (
            lambda: tiny("StableLm", num_key_value_heads=2),
            r"StableLmModel \(stablelm\).* does not pass its keyword",
        ),
    ],
    ids=["state", "linear", "index", "encoder", "bidirectional", "dynamic mask", "not passed on"],
)
def test_a_kind_that_is_not_served_is_refused_with_its_reason(build: Any, reason: str) -> None:
    model = build()
    ran: list[int] = []
    model.get_input_embeddings().register_forward_hook(
        lambda _, args, out: ran.append(args[0].shape[1])
    )
    with pytest.raises(UnservedModelError, match=reason):
        sra_fast.score(model, marked_batch((40,)))
    assert all(length == 4 for length in ran)


# --- kinds that are served ---


def test_a_decoder_whose_head_is_called_decoder_is_served() -> None:
    check_against_own_maps(tiny("ModernBertDecoder", bos_token_id=2, eos_token_id=2))


def test_layers_with_linear_attention_are_not_asked_for_masses() -> None:
    model = tiny(
        "MiniMax",
        num_hidden_layers=4,
        layer_types=["linear_attention", "full_attention"] * 2,
        num_key_value_heads=2,
        head_dim=16,
        num_local_experts=2,
        block_size=16,
    )
    result = sra_fast.score(model, marked_batch(LENGTHS), definition="mass")
    assert result.layers == (1, 3)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        maps = model(random_tokens(1, 40), output_attentions=True, use_cache=False).attentions
    whole = torch.stack([maps[layer][0].double() for layer in (1, 3)])
    wanted = [whole[:, :, rows][..., list(SPAN)].sum(-1).mean() for rows in response_positions(40)]
    torch.testing.assert_close(result.sra[:2].double(), torch.stack(wanted), rtol=0, atol=1e-5)


def test_layers_that_attend_to_images_are_not_asked_for_masses_of_text() -> None:
    text = {**SIZES, "cross_attention_layers": [1], "num_hidden_layers": 3}
    config = transformers.models.mllama.configuration_mllama.MllamaTextConfig(
        **text, num_key_value_heads=2
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.MllamaForCausalLM(config).eval()
    assert sra_fast.score(model, marked_batch((40,))).layers == (0, 2)
    check_against_own_maps(model)


def test_an_error_of_the_models_own_is_told_as_such() -> None:
    model = tiny("Llama")
    model.model.layers[1].mlp.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(
        UnservedModelError, match="fails on 4 tokens of plain text, also by itself"
    ) as caught:
        sra_fast.score(model, marked_batch((40,)))
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_the_config_of_a_plain_llama_has_no_say_in_its_window() -> None:
    config = LlamaConfig(**SIZES, sliding_window=4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        check_against_own_maps(transformers.LlamaForCausalLM(config).eval())
