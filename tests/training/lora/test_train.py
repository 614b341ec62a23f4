"""Test that a training run ends the same if it is killed, and leaves what others can use."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import accelerate
import pytest
import torch
from transformers import AutoModelForCausalLM

import sra_fast
from chat_tokenizers import byte_level_bpe
from sra_fast.chat.conversations import as_conversations
from sra_fast.files.models import find_model
from tiny_chat_model import save_tiny_model, talk, write_jsonl

pytest.importorskip("datasets", reason="needs the package datasets (extra 'train')")
pytest.importorskip("peft", reason="needs the package peft (extra 'train')")

import sra_fast.training.lora.train as run_module
from sra_fast.training import training_examples
from sra_fast.training.data.trained_on import beginning, read_trained_on
from sra_fast.training.lora import outcome
from sra_fast.training.lora.checkpoints import (
    Checkpoint,
    newest_checkpoint,
    remove_incomplete,
)
from sra_fast.training.lora.settings import TrainingConfig
from sra_fast.training.lora.train import TrainingRun, train
from sra_fast.training.sra.history import read_history

# All runs share one import of torch: each is a forked child that shares nothing but the code.
SCRIPT = """
import json, os, signal, sys
from pathlib import Path

import torch
torch.set_num_threads(1)  # so that forking is safe
from safetensors.torch import load_file
from transformers import Trainer, TrainerState
import datasets, matplotlib.figure, matplotlib.backends.backend_agg, pandas, peft, rich.progress
from sra_fast.cli.app import app
import sra_fast.training.lora.train
from sra_fast.training.lora import outcome

arguments, out = json.loads(sys.argv[1]), Path(sys.argv[2])

def dying(function, at):
    '''The function, whose call number `at` never begins.'''
    count = 0
    def counted(*args, **kwargs):
        nonlocal count
        count += 1
        if count == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return counted

def run(folder, owner=None, name=None, at=0):
    child = os.fork()
    if child == 0:
        log = os.open(out / f"{folder.name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1), os.dup2(log, 2)
        if owner is not None:
            setattr(owner, name, dying(getattr(owner, name), at))
        try:
            app([*arguments, "--out", str(folder)])
        except SystemExit as end:
            os._exit(end.code or 0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def content(folder):
    result = json.loads((folder / "result.json").read_text())
    result["out"] = None
    adapter = load_file(folder / "adapter" / "adapter_model.safetensors")
    history = (folder / "sra_history.jsonl").read_text()
    return result, {name: tensor.numpy().tobytes() for name, tensor in adapter.items()}, history

assert run(out / "whole") == 0, (out / "whole.log").read_text()
whole = content(out / "whole")
print(json.dumps(whole[0]))
moments = {
    "after_a_checkpoint_within_an_epoch": (Trainer, "training_step", 10),
    "while_saving_the_optimizer": (Trainer, "_save_optimizer_and_scheduler", 3),
    "while_saving_the_state": (TrainerState, "save_to_json", 1),
    "while_drawing": (outcome, "write_curves", 1),
}
for moment, (owner, name, at) in moments.items():
    folder = out / moment
    assert run(folder, owner, name, at) == -signal.SIGKILL, moment
    assert not (folder / "result.json").exists(), moment
    assert run(folder) == 0, (moment, (out / f"{moment}.log").read_text())
    for before, after in zip(whole, content(folder)):
        assert before == after, (moment, before, after)
log = (out / "while_saving_the_optimizer.log").read_text()
assert "checkpoint-8 is incomplete" in log and "going on from checkpoint-6" in log, log
log = (out / "after_a_checkpoint_within_an_epoch.log").read_text()
assert "going on from checkpoint-3" in log, log
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


def conversations(count: int = 10) -> list[dict[str, Any]]:
    return [talk(f"c{index}", 1 + index % 3) for index in range(count)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_killed_at_any_moment_the_run_ends_as_if_nothing_had_happened(
    tmp_path: Path, model: Path
) -> None:
    chats = write_jsonl(tmp_path / "chats.jsonl", conversations())
    settings = tmp_path / "settings.yaml"
    settings.write_text("eval_fraction: 0.2\ndropout: 0.2\n")
    options = "--rank 4 --accumulation 2 --epochs 4 --eval-steps 3 --learning-rate 0.01"
    arguments = ["train", str(chats), "--model", str(model), "--config", str(settings)]
    runs = tmp_path / "runs"
    runs.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps([*arguments, *options.split()]), str(runs)],
        capture_output=True,
        text=True,
        env={"OMP_NUM_THREADS": "1", "PATH": "", "HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["steps"] == 8
    assert result["after"]["loss"] < result["before"]["loss"]


# --- Within this process -------------------------------------------------------------------------


def trained(folder: Path, model: Path, records: Any = None, **changes: Any) -> dict[str, Any]:
    """Return the result of a run of three steps, changed by ``changes``."""
    about: dict[str, Any] = {
        name: changes.pop(name) for name in ("merge", "overwrite", "on_log") if name in changes
    }
    defaults: dict[str, Any] = dict(
        rank=4, batch_size=3, accumulation=1, epochs=1, eval_steps=2, eval_fraction=0.2
    )
    config = TrainingConfig(**defaults | {"learning_rate": 0.01} | changes)
    folder.mkdir(exist_ok=True)
    chats = write_jsonl(folder / "chats.jsonl", records or conversations())
    run = TrainingRun(chats, find_model(str(model)), folder / "out", config, device="cpu", **about)
    return train(run)


def logs(folder: Path, split: str) -> list[dict[str, Any]]:
    return [line for line in read_history(folder / "out") if line["split"] == split]


def losses(model: Path, records: list[dict[str, Any]]) -> list[tuple[float, int]]:
    """Return the mean loss of each conversation's last reply and its tokens, one by one."""
    examples = training_examples(records, byte_level_bpe(), max_length=4096).dataset
    whole = AutoModelForCausalLM.from_pretrained(model).eval()
    found = []
    for example in examples:
        ids, labels = (torch.tensor([example[name]]) for name in ("input_ids", "labels"))
        with torch.no_grad():
            loss = whole(input_ids=ids, labels=labels).loss.item()
        found.append((loss, int((labels[:, 1:] != -100).sum())))
    return found


def test_the_adapter_scores_and_loses_what_the_run_said(tmp_path: Path, model: Path) -> None:
    held_out = [talk(f"e{index}", 1 + index, response="Yes. " * 9**index) for index in range(3)]
    for record in held_out:
        record["messages"].pop()
    file = write_jsonl(tmp_path / "held_out.jsonl", held_out)
    result = trained(tmp_path, model, eval_data=str(file), merge=True)
    assert result["examples"] == {"train": 10, "eval": 3}
    assert result["chosen_step"] == 4
    batch = sra_fast.encode(byte_level_bpe(), held_out)
    for folder in ("adapter", "merged"):
        found = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / folder)
        sra = float(sra_fast.score(found, batch).sra.double().mean())
        assert sra == pytest.approx(result["after"]["sra"], rel=1e-5)
    for stage, place in (("before", model), ("after", tmp_path / "out" / "merged")):
        each = losses(place, held_out)
        mean = sum(loss * count for loss, count in each) / sum(count for _, count in each)
        assert result[stage]["loss"] == pytest.approx(mean, rel=1e-5)
    assert [line["step"] for line in logs(tmp_path, "train")] == [1, 2, 3, 4]
    assert [line["step"] for line in logs(tmp_path, "eval")] == [0, 2, 4]
    assert set(result["files"]) <= {path.name for path in (tmp_path / "out").iterdir()}


def test_what_a_merged_base_was_trained_on_is_remembered(tmp_path: Path, model: Path) -> None:
    both = [as_conversations([talk(name)])[0] for name in ("first", "second")]
    for name, base in (("first", model), ("second", tmp_path / "first" / "out" / "merged")):
        settings: dict[str, Any] = {"eval_fraction": 0.0, "max_steps": 1, "merge": True}
        trained(tmp_path / name, base, [talk(name)], **settings)
    for folder in ("adapter", "merged"):
        learnt = read_trained_on(tmp_path / "second" / "out" / folder)
        assert learnt == {beginning(one) for one in both}


def test_packed_checkpointed_sliced_and_padded_runs_are_the_same(
    tmp_path: Path,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "sra_fast")
    plain = trained(tmp_path / "plain", model, dropout=0.0)
    changes: dict[str, dict[str, Any]] = {
        "checkpointed": {"gradient_checkpointing": True, "mlp_slices": 3},
        "reentrant": {"gradient_checkpointing": True, "reentrant_checkpointing": True},
        "padded": {},
    }
    for name, change in changes.items():
        if name == "padded":
            monkeypatch.setattr(run_module, "why_not_packed", lambda *args, **kwargs: "told so")
        caplog.clear()
        other = trained(tmp_path / name, model, dropout=0.0, **change)
        padded = "batches are padded, not packed: told so" in caplog.messages
        assert padded == (name == "padded")
        for stage in ("before", "after"):
            assert other[stage] == pytest.approx(plain[stage], rel=1e-4), name


def test_the_regulariser_raises_sra(tmp_path: Path, model: Path) -> None:
    plain = trained(tmp_path / "plain", model, epochs=4)
    drawn = trained(tmp_path / "drawn", model, epochs=4, sra_weight=3.0)
    assert drawn["after"]["sra"] > 1.1 * plain["after"]["sra"]
    assert drawn["before"] == plain["before"]


def test_two_processes_train_and_evaluate_as_one(tmp_path: Path, model: Path) -> None:
    """Hold five out, in batches of two per process: examples that are repeated are not counted."""
    shared = dict(eval_fraction=0.5, max_steps=1, eval_steps=1, dropout=0.0)
    alone = trained(tmp_path, model, batch_size=4, **shared)
    settings = tmp_path / "settings.yaml"
    settings.write_text("".join(f"{name}: {value}\n" for name, value in shared.items()))
    out = tmp_path / "two"
    command = [
        *(sys.executable, "-m", "accelerate.commands.launch"),
        *("--multi_gpu", "--num_processes", "2", "--num_machines", "1"),
        *("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"),
        *("-m", "sra_fast", "train", str(tmp_path / "chats.jsonl")),
        *("--model", str(model), "--out", str(out), "--config", str(settings)),
        *("--rank", "4", "--batch-size", "2", "--accumulation", "1", "--learning-rate", "0.01"),
        *("--device", "cpu"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    for said in ("conversations to train on", "written to"):
        assert done.stderr.count(said) == 1
    together = json.loads((out / "result.json").read_text())
    for stage in ("before", "after"):
        assert together[stage] == pytest.approx(alone[stage], rel=1e-5)
    assert together["first_loss"] == pytest.approx(alone["first_loss"], rel=1e-5)


def test_patience_outlives_a_crash(tmp_path: Path, model: Path) -> None:
    """Train with a learning rate of 0, so that no evaluation is better than the first."""

    def crash(step: int, last: int, logged: Mapping[str, Any]) -> None:
        if step == 5:
            raise KeyboardInterrupt

    changes: dict[str, Any] = dict(learning_rate=1e-30, patience=2, epochs=5)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, model, on_log=crash, **changes)
    result = trained(tmp_path, model, **changes)
    assert result["stopped_early"]
    assert (result["steps"], result["chosen_step"]) == (6, 2)


def test_without_evaluation_the_last_adapter_is_kept(tmp_path: Path, model: Path) -> None:
    result = trained(tmp_path, model, eval_fraction=0.0, max_steps=3)
    assert result["examples"] == {"train": 10, "eval": 0}
    assert result["before"] is result["after"] is None
    assert result["chosen_step"] == result["steps"] == 3
    assert not logs(tmp_path, "eval")


def test_a_finished_run_is_not_run_again(tmp_path: Path, model: Path) -> None:
    first = trained(tmp_path, model, max_steps=1)

    def fail(*logged: Any) -> None:
        raise AssertionError("trained again")

    assert trained(tmp_path, model, max_steps=1, on_log=fail) == first
    merged = trained(tmp_path, model, max_steps=1, on_log=fail, merge=True)
    assert merged == {**first, "files": [*first["files"], "merged"]}
    again = trained(tmp_path, model, max_steps=2, overwrite=True)
    assert again["steps"] == 2
    assert not (tmp_path / "out" / "merged").exists()


def test_a_finished_run_needs_its_checkpoints_no_more(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = trained(tmp_path / "run", model)
    for checkpoint in (tmp_path / "run").glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    monkeypatch.setattr(run_module, "_train", None)
    assert trained(tmp_path / "run", model) == first


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, model: Path) -> tuple[Path, dict[str, Any]]:
    """Return the folder of a finished run, which a test may damage and makes whole, and result."""
    folder = tmp_path_factory.mktemp("finished")
    return folder, trained(folder, model)


def results_in(out: Path) -> dict[str, bytes]:
    files = [*out.glob("adapter/*"), out / "result.json", out / "sra_history.jsonl"]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize(
    ("names", "trains"),
    [
        (["adapter/adapter_model.safetensors", "adapter/adapter_config.json"], False),
        (["result.json"], False),
        (["checkpoint-3/adapter_model.safetensors", "adapter/adapter_model.safetensors"], True),
        (["sra_history.jsonl"], True),
    ],
    ids=["adapter", "result", "checkpoint", "history"],
)
def test_damaged_files_of_a_finished_run_are_told_and_made_again(
    finished: tuple[Path, dict[str, Any]],
    model: Path,
    names: list[str],
    trains: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder, expected = finished
    out = folder / "out"
    whole = results_in(out)
    for name in names:
        changed = bytearray((out / name).read_bytes())
        changed[-3] ^= 1  # one bit, in the last number or word
        (out / name).write_bytes(changed)
    steps: list[int] = []
    with caplog.at_level("INFO", "sra_fast"):
        again = trained(folder, model, on_log=lambda step, *_: steps.append(step))
        assert bool(steps) == trains
        assert again == expected
        assert results_in(out) == whole
        assert "nothing is trained" not in caplog.text
        trained(folder, model)
        assert "nothing is trained" in caplog.text
    for name in names:
        told = f"{out / name} is missing, or not as it was written" in caplog.text
        assert told != name.startswith("checkpoint")


def test_an_sra_of_0_is_no_number_that_json_lacks() -> None:
    log = [{"step": 3, "eval_loss": 1.0, "eval_sra": 0.0, "eval_log_sra": -math.inf}]
    assert outcome._evaluation(log, 3) == {"loss": 1.0, "sra": 0.0, "log_sra": None}


def test_fsdp_that_saves_in_shards_is_refused_before_training() -> None:
    def trainer(kind: str) -> Any:
        plugin = accelerate.FullyShardedDataParallelPlugin(fsdp_version=2, state_dict_type=kind)
        state = SimpleNamespace(fsdp_plugin=plugin)
        return SimpleNamespace(accelerator=SimpleNamespace(state=state))

    run_module._check_saving(trainer("FULL_STATE_DICT"))
    with pytest.raises(run_module.TrainingRunError, match="fsdp_state_dict_type: FULL_STATE_DICT"):
        run_module._check_saving(trainer("SHARDED_STATE_DICT"))


def test_reporters_get_sra(tmp_path: Path, model: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trained(tmp_path, model, max_steps=2, report_to=("tensorboard",))
    (events,) = (tmp_path / "out" / "runs").rglob("events.*")
    found = EventAccumulator(str(events)).Reload().Tags()["scalars"]
    assert {"train/sra", "train/sra/Offer Hope", "eval/sra", "eval/loss"} <= set(found)


def test_what_is_written_holds_no_pickle_but_the_trainers_own(tmp_path: Path, model: Path) -> None:
    trained(tmp_path, model, max_steps=1, merge=True)
    out = tmp_path / "out"
    own = {
        path.suffix for path in out.rglob("*") if path.is_file() and "checkpoint" not in str(path)
    }
    assert own <= {".json", ".jsonl", ".png", ".safetensors", ".jinja"}


# --- Checkpoints ---------------------------------------------------------------------------------


def test_broken_checkpoints_are_told_and_removed(tmp_path: Path, model: Path) -> None:
    trained(tmp_path, model, max_steps=3, eval_steps=1, save_total_limit=3)
    out = tmp_path / "out"
    newest = out / "checkpoint-3"
    assert newest_checkpoint(out) == Checkpoint(newest, 3)
    whole = {path.name: path.read_bytes() for path in newest.iterdir()}

    def problem() -> str | None:
        return Checkpoint(newest, 3).why_incomplete()

    assert problem() is None
    for name, text in {
        "trainer_state.json": "it has no trainer_state.json",
        "adapter_model.safetensors": "it has no adapter_model.safetensors",
        "adapter_config.json": "it has no adapter_config.json",
        "optimizer.pt": "it has no optimizer.pt",
        "rng_state.pth": "it has no rng_state.pth",
    }.items():
        (newest / name).unlink()
        assert text in str(problem())
        (newest / name).write_bytes(whole[name][: len(whole[name]) // 2])
        assert "cannot be read" in str(problem()), name
        (newest / name).write_bytes(whole[name])
    assert problem() is None
    (newest / "trainer_state.json").unlink()
    assert newest_checkpoint(out) == Checkpoint(out / "checkpoint-2", 2)
    (note,) = remove_incomplete(out)
    assert "checkpoint-3 is incomplete" in note
    assert not newest.exists()
    assert remove_incomplete(out) == []
