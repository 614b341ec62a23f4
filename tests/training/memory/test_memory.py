"""Test that saving memory changes nothing: logits of labelled positions alone, MLPs in slices."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM

import sra_fast
from marked_batches import marked_batch
from model_families import DENSE, FAMILIES, MULTIMODAL, Family, random_tokens
from sra_fast.training import keep_reply_logits, reply_loss, sliced_mlps
from sra_fast.training.data.collator import PackingCollator, PaddingCollator

BY_NAME = {family.name: family for family in FAMILIES}
EXPERTS = ("qwen3_moe", "gpt_oss", "deepseek_v3", "llama4", "granitemoehybrid", "qwen3_next")
PER_TOKEN = tuple(family for family in FAMILIES if family.name not in EXPERTS)


def examples(*lengths: int) -> list[dict[str, Any]]:
    found = []
    for length in lengths:
        batch = marked_batch((length,))
        row = {key: batch[key][0] for key in ("input_ids", "strategy_mask", "response_mask")}
        labels = row["input_ids"].masked_fill(row["response_mask"] == 0, -100)
        found.append({**row, "labels": labels, "strategy": "Offer Hope"})
    return found


def model_inputs(batch: Mapping[str, Any]) -> dict[str, Any]:
    marks = ("strategy_mask", "response_mask", "strategies")
    return {key: value for key, value in batch.items() if key not in marks}


def padded(*lengths: int) -> dict[str, Any]:
    return model_inputs(PaddingCollator()(examples(*lengths)))


def gradients(model: nn.Module) -> dict[str, Tensor]:
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert found
    return found


def assert_same(
    found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], tolerance: float = 2e-6
) -> None:
    """Assert that gradients agree to a part of a parameter's largest, or to 1e-6 if small."""
    assert found.keys() == wanted.keys()
    for name, value in found.items():
        allowed = max(tolerance * float(wanted[name].abs().max()), 1e-6)
        torch.testing.assert_close(value, wanted[name], rtol=0, atol=allowed, msg=name)


# --- Logits of the replies alone ---


@pytest.mark.parametrize("family", [*FAMILIES, MULTIMODAL], ids=str)
def test_the_loss_and_its_gradients_are_the_models_own(family: Family) -> None:
    batch = padded(40, 29)
    own, saving = family.build(), family.build()
    wanted = own(**batch, use_cache=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = reply_loss(saving, {**batch, "use_cache": False})
    assert not found.full_logits
    assert found.outputs.logits.shape[1] < wanted.logits.shape[1] / 2
    torch.testing.assert_close(found.loss, wanted.loss, rtol=1e-6, atol=1e-6)
    found.loss.backward()
    wanted.loss.backward()
    assert_same(gradients(saving), gradients(own))


@pytest.mark.parametrize("name", ["llama", "gemma2", "granite", "cohere2", "gpt2", "gpt_oss"])
def test_logits_that_are_kept_are_capped_and_scaled_as_ever(name: str) -> None:
    model, batch = BY_NAME[name].build(), padded(40, 29)
    kept = keep_reply_logits(batch)
    with torch.no_grad():
        wanted = model(**batch).logits[:, kept["logits_to_keep"]]
        torch.testing.assert_close(model(**kept).logits, wanted, rtol=1e-6, atol=1e-5)


def test_kept_are_the_positions_that_predict_a_label_in_any_row() -> None:
    labels = torch.full((2, 8), -100)
    labels[0, 5], labels[1, 2], labels[1, 5] = 7, 8, 9
    kept = keep_reply_logits({"labels": labels})
    assert kept["logits_to_keep"].tolist() == [1, 4]
    assert kept["shift_labels"].tolist() == [[-100, 7], [8, 9]]


def test_the_number_of_items_divides_the_sum() -> None:
    model, batch = DENSE[0].build(), padded(40, 29)
    tokens = int((batch["labels"] != -100).sum())
    mean = reply_loss(model, batch).loss
    for items in (2 * tokens, torch.tensor(2 * tokens)):
        torch.testing.assert_close(2 * reply_loss(model, batch, items).loss, mean)
        own = model(**batch, num_items_in_batch=items).loss
        torch.testing.assert_close(reply_loss(model, batch, items).loss, own)


def test_the_load_balancing_loss_of_experts_is_kept() -> None:
    family, batch = BY_NAME["qwen3_moe"], padded(40, 29)
    model = family.build()
    asked = {**batch, "output_router_logits": True}
    own = model(**asked)
    assert own.aux_loss is not None
    torch.testing.assert_close(reply_loss(model, asked).loss, own.loss, rtol=1e-6, atol=1e-6)


def test_a_packed_row_is_watched_while_its_logits_are_spared() -> None:
    model, batch = DENSE[0].build(), PackingCollator()(examples(40, 29))
    strategies = batch.pop("strategies")
    with sra_fast.monitor(model) as watch:
        found = reply_loss(model, {**batch, "use_cache": False})
    wanted = model(**model_inputs(batch), use_cache=False).loss
    torch.testing.assert_close(found.loss, wanted, rtol=1e-5, atol=1e-6)
    assert len(watch.results[0].sra) == len(strategies)


class _TakesNoChoice(LlamaForCausalLM):
    def forward(self, input_ids: Any = None, labels: Any = None, **kwargs: Any) -> Any:
        kwargs.pop("attention_mask")
        assert "logits_to_keep" not in kwargs
        return super().forward(input_ids, labels=labels, **kwargs)


class _HasItsOwnLoss(LlamaForCausalLM):
    @property
    def loss_function(self) -> Callable[..., Tensor]:
        return lambda logits, labels, **_: logits.mean()


@pytest.mark.parametrize(
    ("kind", "says"),
    [(_TakesNoChoice, "takes no logits_to_keep"), (_HasItsOwnLoss, "has a loss of its own")],
)
def test_a_model_that_takes_no_choice_computes_all_logits_and_says_so(
    kind: type[LlamaForCausalLM], says: str
) -> None:
    model, batch = kind(DENSE[0].build().config), padded(40)
    with pytest.warns(UserWarning, match=f"every position.*{kind.__name__} {says}"):
        found = reply_loss(model, batch)
    assert found.full_logits
    assert found.outputs.logits.shape[1] == 40
    assert torch.equal(found.loss, model(**batch).loss)


def test_no_label_at_all_is_refused() -> None:
    batch = padded(40)
    with pytest.raises(ValueError, match="no token is labelled"):
        reply_loss(DENSE[0].build(), {**batch, "labels": torch.full_like(batch["labels"], -100)})


def test_through_peft_and_compile() -> None:
    peft = pytest.importorskip("peft")
    batch = padded(40, 29)
    wanted = DENSE[0].build()(**batch).loss
    adapted = peft.get_peft_model(
        DENSE[0].build(), peft.LoraConfig(r=2, target_modules="all-linear")
    )
    for model in (adapted, torch.compile(DENSE[0].build(), backend="eager")):
        found = reply_loss(model, batch)
        assert not found.full_logits
        torch.testing.assert_close(found.loss, wanted, rtol=1e-6, atol=1e-6)


def test_a_plain_trainer_trains_the_same_on_such_batches(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    from transformers import Trainer, TrainingArguments

    def whole(members: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return model_inputs(PackingCollator()(members))

    def losses(collate: Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]]) -> list[float]:
        arguments = TrainingArguments(
            output_dir=str(tmp_path),
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            num_train_epochs=2,
            logging_steps=1,
            learning_rate=1e-3,
            remove_unused_columns=False,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        )
        trainer = Trainer(
            model=DENSE[0].build(),
            args=arguments,
            train_dataset=examples(40, 29, 33, 37, 25, 31),
            data_collator=collate,
        )
        trainer.train()
        return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

    wanted = losses(whole)
    assert len(wanted) == 4
    assert losses(lambda members: keep_reply_logits(whole(members))) == pytest.approx(
        wanted, abs=1e-4
    )


# --- MLPs in slices ---


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("family", PER_TOKEN, ids=str)
def test_slices_change_neither_outputs_nor_gradients(family: Family, recompute: bool) -> None:
    batch = padded(40, 29)
    whole, sliced = family.build(), family.build()
    wanted = whole(**batch, use_cache=False)
    wanted.loss.backward()
    with sliced_mlps(sliced, 3, recompute=recompute) as names:
        found = sliced(**batch, use_cache=False)
        found.loss.backward()
    assert len(names) == whole.config.num_hidden_layers
    torch.testing.assert_close(found.loss, wanted.loss, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.logits, wanted.logits, rtol=1e-5, atol=1e-5)
    assert_same(gradients(sliced), gradients(whole))


def test_in_float64_slices_of_one_token_are_exact() -> None:
    batch = padded(40, 29)
    whole, sliced = DENSE[0].build().double(), DENSE[0].build().double()
    whole(**batch).loss.backward()
    with sliced_mlps(sliced, 40):
        sliced(**batch).loss.backward()
    for name, gradient in gradients(sliced).items():
        torch.testing.assert_close(gradient, gradients(whole)[name], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("reentrant", [False, True])
def test_slices_go_with_checkpointed_layers(reentrant: bool) -> None:
    batch = padded(40, 29)
    models = [DENSE[0].build().train() for _ in range(2)]
    for model in models:
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        model.enable_input_require_grads()
    models[0](**batch, use_cache=False).loss.backward()
    with sliced_mlps(models[1], 4):
        models[1](**batch, use_cache=False).loss.backward()
    assert_same(gradients(models[1]), gradients(models[0]))


def test_recomputed_slices_keep_no_intermediates() -> None:
    def widths(recompute: bool) -> list[int]:
        """Return the last dimensions of what the MLPs keep for the backward pass."""
        model = BY_NAME["lfm2"].build()  # its MLP is wider than its hidden states
        kept: list[int] = []

        def keep(tensor: Tensor) -> Tensor:
            kept.append(tensor.shape[-1] if tensor.ndim == 3 else 0)
            return tensor

        mlp = model.model.layers[0].feed_forward
        inputs = torch.randn(1, 12, 64, requires_grad=True)
        with (
            sliced_mlps(model, 3, recompute=recompute),
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        ):
            mlp(inputs)
        return kept

    wide = BY_NAME["lfm2"].build().model.layers[0].feed_forward.w1.out_features
    assert wide != 64
    assert wide in widths(recompute=False)
    assert wide not in widths(recompute=True)


def test_slices_run_one_after_the_other_and_short_sequences_take_fewer() -> None:
    model = DENSE[0].build()
    seen: list[int] = []
    model.model.layers[0].mlp.up_proj.register_forward_hook(
        lambda module, args, output: seen.append(args[0].shape[1])
    )
    with sliced_mlps(model, 4), torch.no_grad():
        model(random_tokens(1, 10))
        assert seen == [3, 3, 2, 2]
        seen.clear()
        model(random_tokens(1, 1))
        assert seen == [1]


def test_slices_go_with_lora_and_with_monitoring() -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
    torch.manual_seed(0)
    model = peft.get_peft_model(DENSE[0].build(), config)
    batch = PackingCollator()(examples(40, 29))
    del batch["strategies"]
    found = []
    for slices in (1, 3):
        model.zero_grad()
        with sliced_mlps(model, slices), sra_fast.monitor(model) as watch:
            reply_loss(model, {**batch, "use_cache": False}).loss.backward()
        found.append((watch.results[0].sra, gradients(model)))
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-5, atol=1e-7)
    assert_same(found[1][1], found[0][1])


def test_afterwards_the_mlps_are_as_they_were() -> None:
    model = DENSE[0].build()
    first, second = model.model.layers[0].mlp, model.model.layers[1].mlp

    def mine(hidden_states: Tensor) -> Tensor:
        return hidden_states

    second.forward = mine
    state = set(model.state_dict())
    handle = second.register_forward_pre_hook(lambda *_: 1 / 0)
    with sliced_mlps(model, 2) as names:
        assert names == tuple(f"layers.{layer}.mlp" for layer in range(3))
        assert set(model.state_dict()) == state
    with pytest.raises(ZeroDivisionError), sliced_mlps(model, 2):
        model(random_tokens(1, 8))
    handle.remove()
    assert "forward" not in vars(first)
    assert second.forward is mine


@pytest.mark.parametrize("name", EXPERTS)
def test_experts_are_refused_by_name(name: str) -> None:
    model = BY_NAME[name].build()
    with pytest.raises(ValueError, match=r"layers\.\d.*mixture of experts"), sliced_mlps(model, 2):
        pass
    assert not any("forward" in vars(module) for module in model.modules())


def test_what_cannot_be_sliced_is_refused() -> None:
    model = DENSE[0].build()
    with pytest.raises(ValueError, match="slices must be at least 1"), sliced_mlps(model, 0):
        pass
    model.model.layers[1].mlp.add_module("mix", nn.Conv1d(4, 4, 3))
    with pytest.raises(ValueError, match=r"layers\.1\.mlp holds a Conv1d"), sliced_mlps(model, 2):
        pass
    del model.model.layers[1].mlp
    with (
        pytest.raises(ValueError, match=r"layers\.1 .* no module of its own"),
        sliced_mlps(model, 2),
    ):
        pass


def test_the_vision_tower_stays_whole() -> None:
    with sliced_mlps(MULTIMODAL.build(), 2) as names:
        assert len(names) == 3
