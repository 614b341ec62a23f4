"""Test that `SRATrainer`'s penalty has an exact gradient, and a step is the same however cut up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, Trainer

from marked_batches import marked_batch
from marked_examples import COLLATORS, arguments, marked_examples, scores
from model_families import FAMILIES, NOT_SERVED, Family
from sra_fast.measure.request import SpanRequest
from sra_fast.measure.served import UnservedModelError, serve, switched
from sra_fast.measure.watching import WatchedCall, watching
from sra_fast.training import keep_reply_logits
from sra_fast.training.sra.callback import SRACallback
from sra_fast.training.sra.regulariser import NoGradientError, SRARegulariser
from sra_fast.training.sra.trainer import SRATrainer

LLAMA = FAMILIES[0]
EXAMPLES = marked_examples(4)
REGULARISERS = {
    "log": SRARegulariser(2.0),
    "raw": SRARegulariser(2.0, log=False),
    "mass": SRARegulariser(2.0, definition="mass"),
    "hinge": SRARegulariser(2.0, target=0.05),
    "raw hinge": SRARegulariser(2.0, target=0.05, log=False),
    "layers and heads": SRARegulariser(2.0, layers=(1, 2), heads=(1, 3)),
}


def family(name: str) -> Family:
    return next(found for found in FAMILIES if found.name == name)


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def by_eager_maps(model: PreTrainedModel, batch: dict[str, Any], of: SRARegulariser) -> Tensor:
    """Return Σ_r p_r of arXiv 2402.10453, Eq. 5, over the model's own maps."""
    model.set_attn_implementation("eager")
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    maps = torch.stack(model(**inputs, use_cache=False, output_attentions=True).attentions)
    layers = range(len(maps)) if of.layers is None else of.layers
    heads = range(maps.shape[2]) if of.heads is None else of.heads
    found = []
    for row, span in enumerate(batch["strategy_mask"]):
        chosen = maps[list(layers), row][:, list(heads)]
        for number in (1, 2):
            tokens = batch["response_mask"][row] == number
            share = chosen[:, :, tokens][..., span].sum(-1).mean()
            found.append(share if of.definition == "mass" else share / span.sum())
    sra = torch.stack(found)
    level, target = (sra.log(), of.target and torch.tensor(of.target).double().log())
    if not of.log:
        level, target = sra, of.target
    if target is None:
        return -of.weight * level.sum()
    return of.weight * torch.clamp(target - level, min=0).sum()


@pytest.mark.parametrize("kind", REGULARISERS)
@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt_oss"])
def test_the_gradient_is_that_of_autograd_through_the_eager_model(name: str, kind: str) -> None:
    regulariser = REGULARISERS[kind]
    batch = marked_batch((40, 29, 33))
    model, eager = family(name).build(), family(name).build()
    heard: list[WatchedCall] = []
    served = serve(model)
    with switched(served), watching(served, heard.append, mass_grad=True):
        model(**batch, use_cache=False)
        total = regulariser.total(heard[0])
        total.backward()
    wanted = by_eager_maps(eager, batch, regulariser)
    wanted.backward()
    torch.testing.assert_close(total.float(), wanted.float(), rtol=1e-5, atol=1e-6)
    found, true = gradients(model), gradients(eager)
    assert found.keys() == true.keys()
    assert "model.layers.0.self_attn.q_proj.weight" in found
    for parameter, gradient in true.items():
        largest = float(gradient.abs().max())
        torch.testing.assert_close(found[parameter], gradient, rtol=0, atol=1e-5 * largest)


# --- a step is the same step ---


def one_step(
    folder: Path,
    *,
    collator: Any = "padded",
    batch: int = 4,
    trainer: dict[str, Any] | None = None,
    compiled: bool = False,
    divided: bool = False,
    **changes: Any,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the weights after one SGD step on all of ``EXAMPLES``, and what was logged."""
    model: Any = LLAMA.build()
    defaults: dict[str, Any] = dict(
        optim="sgd",
        learning_rate=0.05,
        max_grad_norm=0.0,
        lr_scheduler_type="constant",
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=-(-len(EXAMPLES) // batch),
    )
    run = SRATrainer(
        torch.compile(model, backend="aot_eager") if compiled else model,
        arguments(folder, **defaults | changes),
        train_dataset=EXAMPLES,
        data_collator=COLLATORS[collator] if isinstance(collator, str) else collator,
        callbacks=[SRACallback()],
        **{"sra_weight": 0.5} | (trainer or {}),
    )
    run.model_accepts_loss_kwargs = not divided
    run.train()
    assert run.state.global_step == 1
    logged = next(line for line in run.state.log_history if "loss" in line)
    weights = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    return weights, logged


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Tensor], dict[str, Any]]:
    return one_step(tmp_path_factory.mktemp("whole"))


WAYS: dict[str, dict[str, Any]] = {
    "packed": {"collator": "packed"},
    "two micro-batches": {"batch": 2},
    "packed micro-batches of 3 and 1": {"collator": "packed", "batch": 3},
    "one by one": {"batch": 1},
    "losses that the Trainer divides by the number of batches": {"batch": 2, "divided": True},
    "logits of the reply alone": {
        "batch": 2,
        "collator": lambda examples: keep_reply_logits(COLLATORS["packed"](examples)),
    },
    "checkpointing": {
        "gradient_checkpointing": True,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
    },
    "packed with checkpointing": {"collator": "packed", "gradient_checkpointing": True},
    "compiled by the Trainer": {"torch_compile": True, "torch_compile_backend": "eager"},
    "compiled by the user": {"compiled": True, "gradient_checkpointing": True},
}


@pytest.mark.parametrize("way", WAYS)
def test_the_step_is_the_same(
    way: str, whole: tuple[dict[str, Tensor], dict[str, Any]], tmp_path: Path
) -> None:
    weights, logged = one_step(tmp_path, **WAYS[way])
    before = dict(LLAMA.build().named_parameters())
    for name, wanted in whole[0].items():
        moved = float((wanted - before[name]).abs().max())
        torch.testing.assert_close(weights[name], wanted, rtol=0, atol=1e-4 * moved + 1e-7)
    for name in ("loss", "lm_loss", "sra_loss", "sra", "log_sra"):
        assert logged[name] == pytest.approx(whole[1][name], rel=1e-4)


def test_the_penalty_is_the_mean_over_responses_and_the_rest_is_the_models_loss(
    whole: tuple[dict[str, Tensor], dict[str, Any]], tmp_path: Path
) -> None:
    logged = whole[1]
    sra = scores(LLAMA.build(), EXAMPLES)
    assert logged["sra_loss"] == pytest.approx(-0.5 * sra.log().mean().item(), rel=1e-5)
    assert logged["sra"] == pytest.approx(sra.mean().item(), rel=1e-5)
    plain = Trainer(
        LLAMA.build(),
        arguments(tmp_path, per_device_train_batch_size=4, remove_unused_columns=False),
        train_dataset=EXAMPLES,
        data_collator=COLLATORS["padded"],
    )
    plain.train()
    assert logged["lm_loss"] == pytest.approx(plain.state.log_history[0]["loss"], rel=1e-5)
    assert logged["loss"] == pytest.approx(logged["lm_loss"] + logged["sra_loss"])


def trainer_of(folder: Path, model: Any = None, **changes: Any) -> SRATrainer:
    given = {
        name: changes.pop(name) for name in list(changes) if name.startswith(("sra_", "callb"))
    }
    return SRATrainer(
        LLAMA.build() if model is None else model,
        arguments(folder, **changes),
        train_dataset=EXAMPLES,
        eval_dataset=EXAMPLES[:3],
        data_collator=COLLATORS["packed"],
        **given,
    )


@pytest.mark.parametrize("log", [True, False])
def test_training_towards_it_raises_sra_and_a_reached_target_leaves_it(
    log: bool, tmp_path: Path
) -> None:
    weight = 1.0 if log else 30.0
    reached = []
    for target in (None, 1e-4):
        model = LLAMA.build()
        trainer_of(
            tmp_path,
            model,
            sra_weight=weight,
            sra_target=target,
            sra_log=log,
            learning_rate=3e-3,
            num_train_epochs=3,
        ).train()
        reached.append(scores(model, EXAMPLES).mean().item())
    before = scores(LLAMA.build(), EXAMPLES).mean().item()
    assert reached[0] > 1.2 * before
    assert reached[1] < 1.1 * before


def test_the_evaluation_loss_is_the_models_own(tmp_path: Path) -> None:
    losses = [
        trainer_of(tmp_path, sra_weight=weight, callbacks=callbacks).evaluate()["eval_loss"]
        for weight in (0.0, 5.0)
        for callbacks in ([], [SRACallback()])
    ]
    assert losses == pytest.approx([losses[0]] * 4, rel=1e-5)


def test_callback_and_trainer_share_one_request_per_forward(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[bool] = []

    class Counted(SpanRequest):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            made.append(kwargs["mass_grad"])
            super().__init__(*args, **kwargs)

    monkeypatch.setattr("sra_fast.measure.watching.SpanRequest", Counted)
    trainer = trainer_of(tmp_path, sra_weight=1.0, callbacks=[SRACallback()], eval_strategy="epoch")
    forwards: list[None] = []
    trainer.model.model.register_forward_hook(lambda *_: forwards.append(None))
    trainer.train()
    assert made == [True, True, False, False]
    assert len(forwards) == 4


def test_a_resumed_run_logs_what_the_whole_one_did(tmp_path: Path) -> None:
    changes: dict[str, Any] = dict(
        sra_weight=1.0, learning_rate=1e-2, save_strategy="steps", save_steps=2, num_train_epochs=2
    )
    runs = [trainer_of(tmp_path, **changes) for _ in range(2)]
    runs[0].train()
    runs[1].train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    parts = [
        [line[name] for line in run.state.log_history[:4] for name in ("lm_loss", "sra_loss")]
        for run in runs
    ]
    assert parts[0] == parts[1]


def test_a_weight_of_zero_is_a_plain_trainer(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path)
    trainer.train()
    assert "sra_loss" not in trainer.state.log_history[0]
    assert trainer.state.log_history[0]["loss"] > 0


def test_afterwards_the_model_is_as_it_was_found(tmp_path: Path) -> None:
    model = LLAMA.build()
    trainer = trainer_of(tmp_path, model, sra_weight=1.0)
    trainer.train()
    handle = model.lm_head.weight.register_hook(lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trainer.train()
    handle.remove()
    assert model.config._attn_implementation == "sdpa"
    assert not model._forward_hooks
    assert not model._forward_pre_hooks


def test_lora_adapters_are_trained_towards_it(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    model = peft.get_peft_model(LLAMA.build(), config)
    trainer_of(tmp_path, model, sra_weight=1.0, learning_rate=2e-2, num_train_epochs=4).train()
    before = scores(LLAMA.build(), EXAMPLES).mean()
    assert scores(model, EXAMPLES).mean() > 1.1 * before


# --- what cannot be ---


def test_reentrant_checkpointing_is_refused_with_the_way_out(tmp_path: Path) -> None:
    reentrant: dict[str, Any] = dict(
        gradient_checkpointing=True, gradient_checkpointing_kwargs={"use_reentrant": True}
    )
    with pytest.raises(ValueError, match="'use_reentrant': False"):
        trainer_of(tmp_path, sra_weight=1.0, **reentrant)
    trainer_of(tmp_path, **reentrant).train()


def test_reentrant_checkpointing_that_the_user_turned_on_is_refused_too(tmp_path: Path) -> None:
    model = LLAMA.build()
    model.gradient_checkpointing_enable({"use_reentrant": True})
    model.enable_input_require_grads()
    with pytest.raises(NoGradientError, match="'use_reentrant': False"):
        trainer_of(tmp_path, model, sra_weight=1.0).train()
    assert model.config._attn_implementation == "sdpa"


def test_weights_that_the_attention_does_not_depend_on_are_named(tmp_path: Path) -> None:
    model = LLAMA.build().requires_grad_(False)
    model.lm_head.weight.requires_grad_(True)
    with pytest.raises(NoGradientError, match="train q_proj and k_proj"):
        trainer_of(tmp_path, model, sra_weight=1.0).train()


def test_a_model_outside_of_the_interface_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UnservedModelError, match="Falcon"):
        trainer_of(tmp_path, NOT_SERVED.build(), sra_weight=1.0)


@pytest.mark.parametrize(
    ("left_out", "message"),
    [
        (("strategy_mask",), "the batch needs `strategy_mask`"),
        (("strategy_mask", "response_mask"), "has no masks to train on.*`response_mask`"),
    ],
)
def test_batches_without_masks_are_refused(
    left_out: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    trainer = trainer_of(tmp_path, sra_weight=1.0)
    collator = trainer.data_collator
    trainer.data_collator = lambda examples: {
        key: value for key, value in collator(examples).items() if key not in left_out
    }
    with pytest.raises((KeyError, ValueError), match=message):
        trainer.train()


def test_a_loss_that_is_nan_stops_before_the_step_is_taken(tmp_path: Path) -> None:
    model = LLAMA.build()
    model.lm_head.weight.data[0] = torch.nan
    before = model.model.layers[0].mlp.up_proj.weight.clone()
    with pytest.raises(FloatingPointError, match=r"loss is nan in step 1.*is valid"):
        trainer_of(tmp_path, model, sra_weight=1.0, learning_rate=1.0).train()
    assert torch.equal(model.model.layers[0].mlp.up_proj.weight, before)


def test_a_gradient_that_is_nan_stops_before_the_step_is_taken(tmp_path: Path) -> None:
    model = LLAMA.build()
    weight = model.model.layers[0].mlp.up_proj.weight
    before = weight.detach().clone()
    weight.register_hook(lambda gradient: gradient * torch.nan)
    with pytest.raises(FloatingPointError, match=r"gradient is nan in step 1.*is valid"):
        trainer_of(tmp_path, model, learning_rate=1.0).train()
    assert torch.equal(weight, before)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sra_target": 0.1}, "sra_target has no effect without a weight"),
        ({"sra_layers": [99]}, "sra_layers has no effect without a weight"),
        ({"sra_weight": -1.0}, "sra_weight must be a number from 0 on"),
        ({"sra_weight": 1.0, "sra_target": -6.0}, "not its logarithm"),
        ({"sra_weight": 1.0, "sra_layers": [1, 7]}, "has no attention layer 7"),
        ({"sra_weight": 1.0, "sra_layers": []}, "sra_layers: expected different numbers"),
        ({"sra_weight": 1.0, "sra_definition": "table1"}, "'paper' or 'mass'"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    given: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        trainer_of(tmp_path, **given)


def test_a_head_that_there_is_not_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no head 4; there are 0 to 3"):
        trainer_of(tmp_path, sra_weight=1.0, sra_heads=[4]).train()
