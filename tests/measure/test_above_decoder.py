"""Test that what changes a decoder's input from above is measured as the model does it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, LlamaForCausalLM, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

import sra_fast
from marked_batches import SPAN, marked_batch, response_positions
from model_families import DENSE, FAMILIES
from sra_fast.measure.served import UnservedModelError

LLAMA = DENSE[0]
LENGTHS = (40, 29)


def raised(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """Return the embeddings of tokens with a change that their attention shows."""
    return model.get_input_embeddings()(ids) * torch.linspace(-2, 2, ids.shape[1])[:, None]


def hook_on_the_model(model: PreTrainedModel) -> PreTrainedModel:
    def change(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        ids = kwargs.pop("input_ids")
        # It does nothing to short texts, so that no trial on a few tokens would tell.
        if ids.shape[1] < 20:
            return args, {**kwargs, "input_ids": ids}
        return args, {**kwargs, "inputs_embeds": raised(model, ids)}

    model.register_forward_pre_hook(change, with_kwargs=True)
    return model


def replaced_forward(model: PreTrainedModel) -> PreTrainedModel:
    own = model.forward

    def forward(input_ids: Tensor, **kwargs: Any) -> Any:
        return own(inputs_embeds=raised(model, input_ids), **kwargs)

    model.forward = forward  # type: ignore[method-assign]
    return model


class ChangedLlama(LlamaForCausalLM):
    """A class of a user's own, whose call changes the embeddings."""

    def forward(self, input_ids: Tensor, **kwargs: Any) -> Any:
        return super().forward(inputs_embeds=raised(self, input_ids), **kwargs)


def own_class(model: PreTrainedModel) -> PreTrainedModel:
    model.__class__ = ChangedLlama
    return model


def check_against_own_maps(model: PreTrainedModel) -> None:
    for length in LENGTHS:
        batch = marked_batch((length,))
        found = sra_fast.score(model, batch, definition="mass").sra
        model.set_attn_implementation("eager")
        with torch.no_grad():
            maps = model(input_ids=batch["input_ids"], output_attentions=True).attentions
        whole = torch.stack([attention[0].double() for attention in maps])[..., list(SPAN)].sum(-1)
        wanted = torch.stack([whole[:, :, at].mean() for at in response_positions(length)])
        torch.testing.assert_close(found.double(), wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("changed", [hook_on_the_model, replaced_forward, own_class])
def test_what_changes_the_input_above_the_decoder_is_measured(changed: Any) -> None:
    check_against_own_maps(changed(LLAMA.build()))


@pytest.mark.parametrize("changed", [hook_on_the_model, replaced_forward])
def test_a_change_after_the_first_score_is_seen(changed: Any) -> None:
    model = LLAMA.build()
    check_against_own_maps(model)
    check_against_own_maps(changed(model))


def test_a_forward_that_changes_nothing_leaves_batches_packed() -> None:
    model, widths = LLAMA.build(), []
    own = model.forward
    model.forward = lambda *args, **kwargs: own(*args, **kwargs)  # type: ignore[method-assign]
    model.model.layers[0].register_forward_pre_hook(lambda _, args: widths.append(args[0].shape))
    sra_fast.score(model, marked_batch(LENGTHS), check=False)
    assert widths[-1][:2] == (1, sum(LENGTHS))


def test_packed_rows_of_a_hybrid_are_refused_where_they_run_as_given() -> None:
    hybrid = next(family for family in FAMILIES if family.name.startswith("lfm2"))
    batch = {k: v.reshape(1, -1) for k, v in marked_batch((40, 40)).items()}
    batch["position_ids"] = torch.arange(40).repeat(2)[None]
    del batch["attention_mask"]
    sra_fast.score(hybrid.build(), batch)
    with pytest.raises(ValueError, match="carries a state along the row"):
        sra_fast.score(hook_on_the_model(hybrid.build()), batch)


# --- attention and adapters of another kind ---


def hotter(module: nn.Module, query: Tensor, *args: Any, **kwargs: Any) -> Any:
    return sdpa_attention_forward(module, query * 3, *args, **kwargs)


def watched(model: PreTrainedModel) -> None:
    with sra_fast.monitor(model):
        model(**marked_batch(LENGTHS))


@pytest.mark.parametrize("door", [lambda m: sra_fast.score(m, marked_batch(LENGTHS)), watched])
def test_an_attention_function_of_the_users_own_is_refused_by_name(door: Any) -> None:
    AttentionInterface.register("hotter", hotter)
    model = LLAMA.build()
    model.set_attn_implementation("hotter")
    with pytest.raises(UnservedModelError, match="attends by 'hotter', a function that test_above"):
        door(model)


def test_an_activated_lora_is_refused_by_score_and_measured_in_the_users_own_calls() -> None:
    peft = pytest.importorskip("peft")
    batch = marked_batch((40,))
    config = peft.LoraConfig(
        task_type="CAUSAL_LM",
        target_modules=["q_proj", "k_proj"],
        init_lora_weights=False,
        alora_invocation_tokens=batch["input_ids"][0, 20:22].tolist(),
    )
    model = peft.get_peft_model(LLAMA.build(), config).eval()
    with pytest.raises(UnservedModelError, match="'default' is an activated LoRA"):
        sra_fast.score(model, batch)
    with torch.no_grad(), sra_fast.monitor(model, definition="mass") as seen:
        model(**batch)
    model.get_base_model().set_attn_implementation("eager")
    with torch.no_grad():
        maps = model(input_ids=batch["input_ids"], output_attentions=True).attentions
    whole = torch.stack([attention[0] for attention in maps])[..., list(SPAN)].sum(-1)
    wanted = torch.stack([whole[:, :, at].mean() for at in response_positions(40)])
    torch.testing.assert_close(seen.results[0].sra, wanted, rtol=0, atol=1e-6)
