"""Test that `SRACallback` logs what `score` gives, wherever a Trainer's logs go."""

from __future__ import annotations

import copy
import gc
import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    EarlyStoppingCallback,
    Trainer,
    TrainerCallback,
)

import sra_fast
from chat_tokenizers import byte_level_bpe
from marked_examples import COLLATORS, STRATEGIES, arguments, marked_examples, scores
from model_families import FAMILIES, NOT_SERVED
from sra_fast.definitions import register_definition
from sra_fast.measure.served import UnservedModelError
from sra_fast.training.sra.callback import SRACallback
from sra_fast.training.sra.history import NAME, read_history

LLAMA = FAMILIES[0]
TRAINING, EVALUATION = marked_examples(8), marked_examples(5, seed=3)


def trainer_of(
    folder: Path,
    *,
    model: Any = None,
    collator: Any = "padded",
    callbacks: Sequence[TrainerCallback] | None = None,
    **changes: Any,
) -> Trainer:
    return Trainer(
        LLAMA.build() if model is None else model,
        arguments(folder, **changes),
        train_dataset=TRAINING,
        eval_dataset=EVALUATION,
        data_collator=COLLATORS.get(collator, collator) if isinstance(collator, str) else collator,
        callbacks=[SRACallback()] if callbacks is None else list(callbacks),
    )


def training_logs(trainer: Trainer) -> list[dict[str, Any]]:
    return [line for line in trainer.state.log_history if "loss" in line]


def evaluation_logs(trainer: Trainer) -> list[dict[str, Any]]:
    return [line for line in trainer.state.log_history if "eval_loss" in line]


def by_strategy(values: torch.Tensor, examples: Sequence[dict[str, Any]]) -> dict[str, float]:
    named = [example["strategy"] for example in examples]
    return {
        name: values[[at for at, found in enumerate(named) if found == name]].mean().item()
        for name in STRATEGIES
    }


def untouched(model: Any) -> bool:
    return bool(model.config._attn_implementation == LLAMA.build().config._attn_implementation)


# --- the numbers ---


@pytest.mark.parametrize("collator", COLLATORS)
@pytest.mark.parametrize(("batch", "accumulation", "every"), [(2, 1, 1), (2, 2, 1), (1, 2, 2)])
def test_a_log_is_the_mean_over_every_response_since_the_last(
    batch: int, accumulation: int, every: int, collator: str, tmp_path: Path
) -> None:
    trainer = trainer_of(
        tmp_path,
        collator=collator,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        logging_steps=every,
    )
    trainer.train()
    wanted = scores(LLAMA.build(), TRAINING)
    each = batch * accumulation * every
    logs = training_logs(trainer)
    assert len(logs) == len(TRAINING) // each
    for line, chosen, examples in zip(
        logs,
        wanted.split(each),
        [TRAINING[at : at + each] for at in range(0, len(TRAINING), each)],
        strict=True,
    ):
        assert line["sra"] == pytest.approx(chosen.mean().item(), abs=1e-6)
        assert line["log_sra"] == pytest.approx(math.log(chosen.mean().item()), abs=1e-4)
        for name, mean in by_strategy(chosen, examples).items():
            assert math.isnan(mean) or line[f"sra/{name}"] == pytest.approx(mean, abs=1e-6)


@pytest.mark.parametrize("collator", COLLATORS)
def test_an_evaluation_logs_its_data_set_and_leaves_training_alone(
    collator: str, tmp_path: Path
) -> None:
    trainer = trainer_of(
        tmp_path, collator=collator, logging_steps=4, eval_strategy="steps", eval_steps=1
    )
    trainer.train()
    wanted = scores(LLAMA.build(), EVALUATION)
    assert len(evaluation_logs(trainer)) == 4
    for line in evaluation_logs(trainer):
        assert line["eval_sra"] == pytest.approx(wanted.mean().item(), abs=1e-6)
        assert line["eval_log_sra"] == pytest.approx(math.log(wanted.mean().item()), abs=1e-4)
        for name, mean in by_strategy(wanted, EVALUATION).items():
            assert line[f"eval_sra/{name}"] == pytest.approx(mean, abs=1e-6)
    (line,) = training_logs(trainer)
    assert line["sra"] == pytest.approx(scores(LLAMA.build(), TRAINING).mean().item(), abs=1e-6)
    assert not [key for line in training_logs(trainer) for key in line if key.startswith("eval")]


def test_unknown_definitions_and_backends_are_refused_at_once() -> None:
    with pytest.raises(KeyError, match=r"no definition 'masses'; .* did you mean 'mass'"):
        SRACallback("masses")
    with pytest.raises(ValueError, match="no backend 'flash'; there are auto, reference"):
        SRACallback(backend="flash")


@pytest.mark.parametrize("definition", ["mass", "reference", "table1", "peak"])
def test_every_definition_is_logged_as_score_gives_it(
    definition: str, own_names: None, tmp_path: Path
) -> None:
    sra_fast.register_definition("peak", lambda rows: rows.tokens.amax(dim=1))
    trainer = trainer_of(tmp_path, callbacks=[SRACallback(definition)], logging_steps=4)
    trainer.train()
    rows = [COLLATORS["padded"]([example]) for example in TRAINING]
    wanted = [sra_fast.score(LLAMA.build(), row, definition=definition).sra for row in rows]
    assert training_logs(trainer)[0]["sra"] == pytest.approx(
        torch.cat(wanted).mean().item(), rel=1e-5
    )


def test_without_response_mask_the_labelled_tokens_are_the_response(tmp_path: Path) -> None:
    def labels_only(examples: Sequence[Any]) -> dict[str, Any]:
        batch = COLLATORS["padded"](examples)
        return {key: batch[key] for key in batch if key not in ("response_mask", "strategies")}

    trainer = trainer_of(tmp_path, collator=labels_only, logging_steps=4)
    trainer.train()
    (line,) = training_logs(trainer)
    assert line["sra"] == pytest.approx(scores(LLAMA.build(), TRAINING).mean().item(), abs=1e-6)
    assert not [key for key in line if key.startswith("sra/")]


def test_losses_gradients_and_predictions_are_those_without_the_callback(tmp_path: Path) -> None:
    outcomes = []
    for callbacks in ([], [SRACallback()]):
        trainer = trainer_of(
            tmp_path,
            callbacks=callbacks,
            learning_rate=1e-2,
            per_device_eval_batch_size=1,  # what stands on padding is nobody's
            remove_unused_columns=False,
        )
        trainer.train()
        predicted = trainer.predict(EVALUATION)
        outcomes.append(
            (
                [(line["loss"], line["grad_norm"]) for line in training_logs(trainer)],
                predicted.predictions,
            )
        )
    (plain, logits), (watched, logits_watched) = outcomes
    assert torch.tensor(watched).allclose(torch.tensor(plain), rtol=1e-4)
    assert logits.shape == logits_watched.shape
    assert torch.tensor(logits_watched).allclose(torch.tensor(logits), atol=1e-3)


def test_under_autocast_scores_lie_near_those_of_float32(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, bf16=True, logging_steps=4)
    trainer.train()
    (line,) = training_logs(trainer)
    assert line["sra"] == pytest.approx(scores(LLAMA.build(), TRAINING).mean().item(), rel=2e-2)


WAYS: dict[str, dict[str, Any]] = {
    "checkpointing": {"gradient_checkpointing_kwargs": {"use_reentrant": False}},
    "reentrant checkpointing": {"gradient_checkpointing_kwargs": {"use_reentrant": True}},
    "compiled": {"torch_compile": True, "torch_compile_backend": "aot_eager"},
}


@pytest.mark.parametrize("way", WAYS)
def test_checkpointing_and_compilation_change_no_number(way: str, tmp_path: Path) -> None:
    model = LLAMA.build()
    model.enable_input_require_grads()
    checkpointing = {"gradient_checkpointing": "checkpointing" in way}
    trainer = trainer_of(
        tmp_path,
        model=model,
        collator="packed",
        logging_steps=4,
        eval_strategy="steps",
        **WAYS[way] | checkpointing,
    )
    trainer.train()
    for line, name, examples in (
        (training_logs(trainer)[0], "sra", TRAINING),
        (evaluation_logs(trainer)[0], "eval_sra", EVALUATION),
    ):
        wanted = scores(LLAMA.build(), examples).mean().item()
        assert line[name] == pytest.approx(wanted, rel=1e-4)
    assert untouched(model)


# --- where they go ---


class Recorder(TrainerCallback):
    """Stand before the user's callbacks as a reporter, and keep what it is given."""

    def __init__(self) -> None:
        self.logs: list[dict[str, Any]] = []
        self.metrics: list[dict[str, Any]] = []

    def on_log(self, *event: Any, logs: dict[str, Any], **kwargs: Any) -> None:
        self.logs.append(dict(logs))

    def on_evaluate(self, *event: Any, metrics: dict[str, Any], **kwargs: Any) -> None:
        self.metrics.append(dict(metrics))


@pytest.mark.parametrize("how", ["given", "added", "attached"])
def test_callbacks_that_stand_before_it_get_the_values_too(how: str, tmp_path: Path) -> None:
    recorder = Recorder()
    given = [recorder, SRACallback()] if how == "given" else [recorder]
    trainer = trainer_of(
        tmp_path, callbacks=given, eval_strategy="steps", remove_unused_columns=how != "added"
    )
    if how == "added":
        trainer.add_callback(SRACallback())
    elif how == "attached":
        assert SRACallback().attach(trainer) in trainer.callback_handler.callbacks
    trainer.train()
    assert [line["sra"] for line in recorder.logs if "loss" in line] == [
        line["sra"] for line in training_logs(trainer)
    ]
    assert [line["eval_sra"] for line in recorder.metrics] == [
        line["eval_sra"] for line in evaluation_logs(trainer)
    ]
    assert len(trainer.callback_handler.callbacks) == len(set(trainer.callback_handler.callbacks))


def test_the_console_and_tensorboard_show_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    trainer = trainer_of(tmp_path, report_to=["tensorboard"], eval_strategy="steps")
    trainer.train()
    board = EventAccumulator(str(tmp_path / "board"))
    board.Reload()
    shown = {tag: [event.value for event in board.Scalars(tag)] for tag in board.Tags()["scalars"]}
    logged = [line["sra"] for line in training_logs(trainer)]
    assert shown["train/sra"] == pytest.approx(logged)
    assert {"train/log_sra", "train/sra/Offer Hope", "eval/sra/Offer Hope"} <= set(shown)
    assert shown["eval/sra"] == pytest.approx(
        [line["eval_sra"] for line in evaluation_logs(trainer)]
    )
    assert "'sra'" in capsys.readouterr().out


def test_the_best_model_and_early_stopping_go_by_it(tmp_path: Path) -> None:
    trainer = trainer_of(
        tmp_path,
        callbacks=[EarlyStoppingCallback(1), SRACallback()],
        metric_for_best_model="eval_sra",
        greater_is_better=True,
        load_best_model_at_end=True,
        eval_strategy="steps",
        save_strategy="steps",
        eval_steps=1,
        save_steps=1,
    )
    trainer.train()
    assert trainer.state.best_metric == evaluation_logs(trainer)[0]["eval_sra"]
    assert trainer.state.global_step == 2  # nothing was learned


def test_evaluations_outside_of_training_and_predictions_have_it(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path)
    wanted = scores(LLAMA.build(), EVALUATION).mean().item()
    assert trainer.evaluate()["eval_sra"] == pytest.approx(wanted, abs=1e-6)
    trainer.train()
    assert trainer.evaluate()["eval_sra"] == pytest.approx(wanted, abs=1e-6)
    assert trainer.predict(EVALUATION).metrics["test_sra"] == pytest.approx(wanted, abs=1e-6)
    named = trainer.evaluate({"a": EVALUATION[:2], "b": EVALUATION[2:]})
    assert (2 * named["eval_a_sra"] + 3 * named["eval_b_sra"]) / 5 == pytest.approx(wanted)


def test_an_evaluation_that_failed_leaves_nothing_for_the_next(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path)
    broken = [*EVALUATION[:2], {**EVALUATION[2], "strategy_mask": torch.zeros(34, dtype=bool)}]
    with pytest.raises(ValueError, match="no token is marked"):
        trainer.evaluate(broken)
    assert trainer.evaluate()["eval_sra"] == pytest.approx(
        scores(LLAMA.build(), EVALUATION).mean().item(), abs=1e-6
    )


# --- the history ---


def test_a_history_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text('{"step": 2, "sra": 0.5, "layers": [0], "mass": [[0.25]]}\n')
    assert read_history(tmp_path) == [{"step": 2, "sra": 0.5, "layers": [0], "span_mass": [[0.25]]}]


def test_the_history_has_a_line_per_log_with_layers_and_heads(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, logging_steps=2, eval_strategy="steps")
    trainer.train()
    lines = read_history(tmp_path)
    assert [(line["step"], line["split"], line["n"]) for line in lines] == [
        (2, "train", 4),
        (2, "eval", 5),
        (4, "train", 4),
        (4, "eval", 5),
    ]
    assert [line["sra"] for line in lines[::2]] == [line["sra"] for line in training_logs(trainer)]
    result = sra_fast.score(LLAMA.build(), COLLATORS["padded"](EVALUATION))
    mass = torch.tensor(lines[1]["span_mass"])
    torch.testing.assert_close(mass, result.mass[..., 0].mean(0), rtol=0, atol=1e-5)
    assert lines[1]["layers"] == list(result.layers)
    assert {name: found["n"] for name, found in lines[1]["strategies"].items()} == {
        "Offer Hope": 2,
        "Clarification": 2,
        "Share Information": 1,
    }


def test_no_history_is_written_if_none_is_wanted(tmp_path: Path) -> None:
    trainer_of(tmp_path, callbacks=[SRACallback(history=False)]).train()
    assert not (tmp_path / NAME).exists()


def test_a_resumed_run_logs_what_the_whole_one_did_and_nothing_twice(tmp_path: Path) -> None:
    changes: dict[str, Any] = dict(
        learning_rate=1e-2, save_strategy="steps", save_steps=2, eval_strategy="steps", eval_steps=1
    )
    whole = trainer_of(tmp_path, **changes)
    whole.train()
    history = (tmp_path / NAME).read_text()
    with (tmp_path / NAME).open("a") as file:  # killed in the middle of a line
        file.write('{"step": 5, "sr')
    resumed = trainer_of(tmp_path, **changes)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert [line.get("sra") for line in training_logs(resumed)] == [
        line["sra"] for line in training_logs(whole)
    ]
    assert (tmp_path / NAME).read_text() == history


def test_calls_that_are_no_evaluation_are_not_logged(tmp_path: Path) -> None:
    class Probing(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            with torch.no_grad():
                kwargs["model"](**COLLATORS["padded"](EVALUATION))

    trainer = trainer_of(tmp_path, callbacks=[SRACallback(), Probing()])
    trainer.train()
    lines = [(line["split"], line["step"]) for line in read_history(tmp_path)]
    assert lines == [("train", step) for step in (1, 2, 3, 4)]


def test_a_new_run_begins_a_new_history(tmp_path: Path) -> None:
    trainer_of(tmp_path).train()
    trainer_of(tmp_path, logging_steps=4).train()
    assert [line["step"] for line in read_history(tmp_path)] == [4]


def test_a_broken_line_of_a_history_is_named(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text('{"step": 1}\nnonsense\n{"step": 2}\n')
    with pytest.raises(ValueError, match="line 2: no line of an SRA history"):
        read_history(tmp_path)


# --- the model ---


def test_afterwards_the_model_attends_as_it_was_found(tmp_path: Path) -> None:
    model = LLAMA.build()
    callback = SRACallback()
    trainer = trainer_of(tmp_path, model=model, callbacks=[callback], eval_strategy="steps")
    trainer.train()
    assert untouched(model)
    ids = torch.arange(3, 20)[None]
    torch.testing.assert_close(model(ids).logits, LLAMA.build()(ids).logits)
    callback.close()
    assert not model._forward_hooks
    assert not model._forward_pre_hooks


def test_after_a_forward_that_failed_the_model_attends_as_it_was_found(tmp_path: Path) -> None:
    model = LLAMA.build()
    trainer = trainer_of(tmp_path, model=model)
    model.model.layers[2].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trainer.train()
    assert untouched(model)


def test_after_a_backward_that_failed_the_next_call_attends_as_it_was_found(
    tmp_path: Path,
) -> None:
    model = LLAMA.build()
    trainer = trainer_of(tmp_path, model=model)
    handle = model.lm_head.weight.register_hook(lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trainer.train()
    handle.remove()
    model(torch.arange(3, 20)[None])
    assert untouched(model)


def test_hooks_go_with_their_callback(tmp_path: Path) -> None:
    model, callback = LLAMA.build(), SRACallback()
    trainer_of(tmp_path, model=model, callbacks=[callback])
    assert model._forward_pre_hooks
    del callback
    gc.collect()
    assert not model._forward_pre_hooks


def test_a_monitor_inside_of_training_hears_the_same_calls(tmp_path: Path) -> None:
    model = LLAMA.build()
    trainer = trainer_of(tmp_path, model=model, logging_steps=4)
    with sra_fast.monitor(model) as watch:
        trainer.train()
    found = torch.cat([result.sra for result in watch.results]).double().mean().item()
    assert training_logs(trainer)[0]["sra"] == pytest.approx(found, abs=1e-7)


def test_lora_adapters_are_watched(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    model = peft.get_peft_model(LLAMA.build(), config)
    trainer = trainer_of(tmp_path, model=model, learning_rate=1e-1, eval_strategy="steps")
    trainer.train()
    wanted = scores(model, EVALUATION).mean().item()
    assert evaluation_logs(trainer)[-1]["eval_sra"] == pytest.approx(wanted, abs=1e-5)
    assert wanted != pytest.approx(scores(LLAMA.build(), EVALUATION).mean().item(), rel=1e-3)


# --- what cannot be ---


def test_masks_that_never_arrive_stop_the_first_step(tmp_path: Path) -> None:
    def maskless(examples: Sequence[Any]) -> dict[str, Any]:
        batch = COLLATORS["padded"](examples)
        return {key: batch[key] for key in ("input_ids", "attention_mask", "labels")}

    trainer = trainer_of(tmp_path, collator=maskless, learning_rate=1.0)
    before = copy.deepcopy(trainer.model.state_dict())
    with pytest.raises(ValueError, match=r"no masks arrived.*strategy_mask.*remove_unused_columns"):
        trainer.train()
    assert all(torch.equal(before[name], now) for name, now in trainer.model.state_dict().items())
    with pytest.warns(UserWarning, match="no masks arrived in the evaluation 'eval'"):
        trainer.evaluate()


def test_a_callback_that_came_too_late_for_an_evaluation_says_so(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, callbacks=[], remove_unused_columns=False)
    trainer.add_callback(SRACallback())
    with pytest.raises(ValueError, match=r"SRACallback\(\)\.attach\(trainer\)"):
        trainer.evaluate()


def test_a_model_outside_of_the_interface_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UnservedModelError, match="Falcon"):
        trainer_of(tmp_path, model=NOT_SERVED.build())


def test_strategies_that_do_not_match_the_responses_are_refused(tmp_path: Path) -> None:
    def miscounted(examples: Sequence[Any]) -> dict[str, Any]:
        return {**COLLATORS["padded"](examples), "strategies": ["Offer Hope"]}

    with pytest.raises(ValueError, match=r"one per response \(2 in this batch\), got 1"):
        trainer_of(tmp_path, collator=miscounted).train()


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("work", ["train", "evaluate"])
def test_an_own_definition_without_a_score_is_named(
    value: float, work: str, own_names: None, tmp_path: Path
) -> None:
    register_definition("own", lambda rows: rows.tokens.mean(dim=1) + value)
    trainer = trainer_of(tmp_path, callbacks=[SRACallback("own")])
    with pytest.raises(FloatingPointError, match=f"is {value} at step .*the definition 'own'"):
        getattr(trainer, work)()


def test_hidden_states_that_are_nan_stop_the_run(tmp_path: Path) -> None:
    model = LLAMA.build()
    model.model.embed_tokens.weight.data[:] = torch.nan
    with pytest.raises(FloatingPointError, match=r"is nan at step 1.*saved before stays valid"):
        trainer_of(tmp_path, model=model).train()


# --- several processes ---


def test_two_processes_log_the_mean_over_all_examples_and_take_the_same_step(
    tmp_path: Path,
) -> None:
    from safetensors.torch import load_file

    from ddp_training import one_step

    here = Path(__file__).parents[2] / "support"
    subprocess.run(
        [
            *(sys.executable, "-m", "accelerate.commands.launch"),
            *("--multi_gpu", "--num_processes", "2", "--num_machines", "1"),
            *("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"),
            *(str(here / "ddp_training.py"), str(tmp_path)),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        check=True,
        timeout=300,
    )
    for collator in COLLATORS:
        alone = one_step(tmp_path / "alone", batch=4, collator=collator)
        outcome = json.loads((tmp_path / collator / "outcome.json").read_text())
        assert outcome["processes"] == 2
        for line, wanted in zip(outcome["log"][:2], alone.state.log_history[:2], strict=True):
            assert line.keys() == wanted.keys()
            for name in wanted:
                if "sra" in name or name in ("loss", "lm_loss"):
                    assert line[name] == pytest.approx(wanted[name], rel=1e-4)
        assert [line["n"] for line in read_history(tmp_path / collator)] == [8, 5]
        weights = load_file(tmp_path / collator / "weights.safetensors")
        for name, weight in alone.model.named_parameters():
            torch.testing.assert_close(weights[name], weight.data, rtol=0, atol=1e-5)


@pytest.mark.parametrize("collator", COLLATORS)
def test_trls_sft_trainer_logs_it(collator: str, tmp_path: Path) -> None:
    trl = pytest.importorskip("trl", reason="needs the package trl")
    datasets = pytest.importorskip("datasets", reason="needs the package datasets")
    rows = [
        {name: value.tolist() if torch.is_tensor(value) else value for name, value in one.items()}
        for one in TRAINING
    ]
    settings = arguments(tmp_path).to_dict()
    names = ("output_dir", "report_to", "use_cpu", "disable_tqdm", "save_strategy")
    names += ("train_sampling_strategy", "per_device_train_batch_size", "logging_steps")
    trainer = trl.SFTTrainer(
        LLAMA.build(),
        trl.SFTConfig(
            **{name: settings[name] for name in names},
            learning_rate=0.0,
            num_train_epochs=1,
            bf16=False,
            remove_unused_columns=False,
            dataset_kwargs={"skip_prepare_dataset": True},  # it is tokens already
        ),
        train_dataset=datasets.Dataset.from_list(rows),
        data_collator=COLLATORS[collator],
        processing_class=byte_level_bpe(),
        callbacks=[SRACallback()],
    )
    trainer.train()
    wanted = scores(LLAMA.build(), TRAINING).split(2)
    logged = [line["sra"] for line in training_logs(trainer)]
    assert logged == pytest.approx([part.mean().item() for part in wanted], abs=1e-6)
