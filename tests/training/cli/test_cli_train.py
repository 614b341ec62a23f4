"""Test `sra-fast train` from the outside: a run, its options and settings, and how it fails."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from model_families import NOT_SERVED
from sra_fast.cli.app import app
from tiny_chat_model import save_tiny_model, talk, write_jsonl

pytest.importorskip("datasets", reason="needs the package datasets (extra 'train')")
pytest.importorskip("peft", reason="needs the package peft (extra 'train')")

from sra_fast.training.lora.settings import TrainingConfig, TrainingConfigError, read_config

ANSI = re.compile(r"\x1b\[[0-9;]*m")
SMALL = ("--rank", 4, "--accumulation", 1, "--learning-rate", 0.01, "--device", "cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    records = [talk(f"c{index}", 1 + index % 3) for index in range(8)]
    records[3]["strategy"] = "Chit Chat"
    return write_jsonl(tmp_path / "chats.jsonl", records)


def call(*arguments: object, status: int = 0) -> tuple[str, str]:
    """Return standard output and standard error of a command that ends with ``status``."""
    given = ["train", *(str(one) for one in arguments)]
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, given)
    assert result.exit_code == status, result.output
    assert "Traceback" not in result.output
    return ANSI.sub("", result.stdout), ANSI.sub("", result.stderr)


def error_of(*arguments: object) -> str:
    """Return what a failing command says, in one line."""
    out, err = call(*arguments, *SMALL, status=1)
    assert not out
    return " ".join(err.split())


def test_an_environment_that_names_no_process_is_wrong_use(
    tmp_path: Path, model: Path, chats: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "a")
    _, err = call(chats, "--model", model, "--out", tmp_path / "out", *SMALL, status=2)
    assert "RANK is 'a' and no whole number from 0 on" in " ".join(err.split())
    assert not (tmp_path / "out").exists()


# --- A run ---


def test_a_run_from_end_to_end(tmp_path: Path, model: Path, chats: Path) -> None:
    settings = tmp_path / "settings.yaml"
    settings.write_text("learning_rate: 1e-30\ndropout: 0\nlogging_steps: 1\neval_steps: 99\n")
    out = tmp_path / "out"
    given = [chats, "--model", model, "--out", out, "--config", settings]
    chosen = ["--epochs", 2, "--eval-steps", 3, "--eval-fraction", 0.25, "--merge"]
    printed, said = call(*given, *chosen, *SMALL, "--json")
    result = json.loads(printed)
    assert result == json.loads((out / "result.json").read_text())
    assert result["examples"] == {"train": 6, "eval": 2}
    assert result["steps"] == result["chosen_step"] == 6
    assert result["after"]["loss"] < result["before"]["loss"]  # options override the file
    assert re.search(r"step 3 of 6: held-out loss \d\.\d+, held-out SRA 0\.\d+", said)
    assert {"adapter", "merged", "curves.png", "sra_history.jsonl", "result.json"} == set(
        result["files"]
    )
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    shown, _ = call(*given, *chosen, *SMALL)  # done already
    assert re.search(r"base model .*\d", shown)
    assert re.search(r"step 6 .*\d", shown)
    scored = CliRunner().invoke(
        app,
        ["score", str(chats), "--model", str(out / "adapter"), "--out", str(tmp_path / "scores")],
    )
    assert scored.exit_code == 0, scored.output


def test_another_run_in_the_folder_is_left_alone(tmp_path: Path, model: Path, chats: Path) -> None:
    out = tmp_path / "out"
    given = [chats, "--model", model, "--out", out, "--max-steps", 1, *SMALL]
    call(*given)
    before = (out / "run.json").read_bytes()
    for changes, named in (
        (["--seed", 7], "'seed' is 42, and now it is 7"),
        (["--template", "c1_hf"], "'template.name' is 'standard', and now it is 'c1_hf'"),
        (["--model", save_tiny_model(tmp_path / "other" / "tiny", seed=1)], "'model.weights'"),
    ):
        message = " ".join(call(*given, *changes, status=1)[1].split())
        assert named in message
        assert "another folder" in message
        assert "(--out, --overwrite)" in message
    message = " ".join(call(*given, "--out", tmp_path, status=1)[1].split())
    assert "holds no run" in message
    assert (out / "run.json").read_bytes() == before
    call(*given, "--seed", 7, "--overwrite")
    assert json.loads((out / "run.json").read_text())["settings"]["seed"] == 7


def test_too_long_conversations_are_counted_and_named(
    tmp_path: Path, model: Path, chats: Path
) -> None:
    given = [chats, "--model", model, "--out", tmp_path / "out", "--max-length", 500]
    refused = error_of(*given)
    assert "too_long 'drop' or 'cut_oldest_turns'" in refused
    assert refused.endswith("(--max-length, --too-long)")
    _, said = call(*given, "--too-long", "cut_oldest_turns", "--max-steps", 1, *SMALL)
    assert re.search(r"\d of 8 conversations are longer than 500 tokens and lost", said)


# --- Bad input ---


def without(key: str) -> Callable[[dict[str, Any]], None]:
    return lambda record: record.pop(key)


def no_reply(record: dict[str, Any]) -> None:
    del record["messages"][1:]


def unknown_strategy(record: dict[str, Any]) -> None:
    record["strategy"] = "Hope"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (without("strategy"), "strategy"),
        (no_reply, "reply"),
        (unknown_strategy, "did you mean 'Offer Hope'?"),
    ],
    ids=["no strategy", "no reply", "unknown strategy"],
)
def test_data_that_cannot_be_trained_on(
    tmp_path: Path, model: Path, change: Callable[[dict[str, Any]], None], named: str
) -> None:
    records = [talk("c1"), talk("c2"), talk("c3")]
    change(records[1])
    chats = write_jsonl(tmp_path / "chats.jsonl", records)
    message = error_of(chats, "--model", model, "--out", tmp_path / "out")
    assert "line 2" in message
    assert named in message
    assert not (tmp_path / "out").exists()


def test_a_strategy_that_the_prompt_leaves_out(tmp_path: Path, model: Path, chats: Path) -> None:
    template = tmp_path / "own.json"
    template.write_text(json.dumps({"name": "own", "instruction": "Be kind."}))
    given = [chats, "--model", model, "--out", tmp_path / "out", "--template", template]
    assert "{strategy}" in error_of(*given)


def test_one_dialogue_cannot_be_split(tmp_path: Path, model: Path) -> None:
    records = [talk("a", dialogue="d"), talk("b", dialogue="d")]
    chats = write_jsonl(tmp_path / "chats.jsonl", records)
    given = [chats, "--model", model, "--out", tmp_path / "out"]
    assert "or hold out the fraction 0 (--eval-data, --eval-fraction)" in error_of(*given)


def test_held_out_dialogues_are_not_trained_on(tmp_path: Path, model: Path, chats: Path) -> None:
    given = [chats, "--model", model, "--out", tmp_path / "out", "--eval-data", chats]
    assert "8 dialogues are in the training and in the evaluation data" in error_of(*given)


def test_the_same_dialogues_under_other_names_are_not_held_out(
    tmp_path: Path, model: Path, chats: Path
) -> None:
    renamed = [
        {**json.loads(line), "id": f"other-{number}"}
        for number, line in enumerate(chats.read_text("utf-8").splitlines())
    ]
    other = write_jsonl(
        tmp_path / "other.jsonl", [{**one, "dialogue": one["id"]} for one in renamed]
    )
    given = [chats, "--model", model, "--out", tmp_path / "out", "--eval-data", other]
    assert "begin like one of the training data, the first is 'other-0'" in error_of(*given)


@pytest.mark.parametrize(
    ("targets", "named"),
    [
        ("[q_prj]", "'q_prj' matches no module of LlamaForCausalLM; did you mean 'q_proj'?"),
        ("[q_proj, nothing]", "its linear layers are q_proj, k_proj, v_proj, o_proj"),
        ("nothing.*", "'nothing.*' match no module"),
        ("[]", "targets is empty"),
    ],
)
def test_lora_targets_that_match_nothing(
    tmp_path: Path, model: Path, chats: Path, targets: str, named: str
) -> None:
    settings = tmp_path / "settings.yaml"
    settings.write_text(f"targets: {targets}\n")
    given = [chats, "--model", model, "--out", tmp_path / "out", "--config", settings]
    assert named in error_of(*given)
    settings.write_text("targets: [q_proj]\n")  # nothing was saved, so the folder takes another run
    call(*given, "--max-steps", 1, *SMALL)


def test_a_model_that_does_not_take_the_interface(tmp_path: Path, model: Path, chats: Path) -> None:
    from chat_tokenizers import byte_level_bpe

    refused = tmp_path / "refused"
    NOT_SERVED.build().save_pretrained(refused)
    byte_level_bpe().save_pretrained(refused)
    message = error_of(chats, "--model", refused, "--out", tmp_path / "out")
    assert "does not follow transformers' attention interface" in message


def test_an_adapter_as_base_model(tmp_path: Path, model: Path, chats: Path) -> None:
    out = tmp_path / "out"
    call(chats, "--model", model, "--out", out, "--max-steps", 1, *SMALL)
    message = error_of(chats, "--model", out / "adapter", "--out", tmp_path / "second")
    assert "is itself an adapter" in message


def test_reentrant_checkpointing_with_a_weight(tmp_path: Path, model: Path, chats: Path) -> None:
    settings = tmp_path / "settings.yaml"
    settings.write_text("gradient_checkpointing: true\nreentrant_checkpointing: true\n")
    given = [chats, "--model", model, "--out", tmp_path / "out", "--config", settings]
    assert "set reentrant_checkpointing: false" in error_of(*given, "--sra-weight", 1)


def test_nan_leaves_what_was_saved(tmp_path: Path, model: Path, chats: Path) -> None:
    settings = tmp_path / "settings.yaml"
    settings.write_text("learning_rate: 1e9\nscheduler: constant_with_warmup\nwarmup_ratio: 0.9\n")
    given = [chats, "--model", model, "--out", tmp_path / "out", "--config", settings]
    few = ["--rank", 4, "--accumulation", 1, "--eval-steps", 1, "--device", "cpu"]
    _, said = call(*given, *few, status=1)
    assert "lower the learning rate" in said
    assert "valid" in said
    from sra_fast.training.lora.checkpoints import newest_checkpoint

    saved = newest_checkpoint(tmp_path / "out")
    assert saved is not None
    assert saved.step >= 1


def test_weights_that_are_nan_are_never_handed_out(
    tmp_path: Path, model: Path, chats: Path
) -> None:
    out = tmp_path / "out"
    settings = tmp_path / "settings.yaml"
    settings.write_text("learning_rate: 1e38\nscheduler: constant\nwarmup_ratio: 0\n")
    given = [chats, "--model", model, "--out", out, "--config", settings, "--eval-fraction", 0]
    _, said = call(*given, "--max-steps", 1, "--rank", 4, "--accumulation", 1, status=1)
    assert "its adapter is NaN or infinite" in " ".join(said.split())
    assert not (out / "adapter").exists()


def test_four_bits_need_bitsandbytes(tmp_path: Path, model: Path, chats: Path) -> None:
    message = error_of(chats, "--model", model, "--out", tmp_path / "out", "--load-4bit")
    assert "pip install bitsandbytes" in message or "needs a CUDA device" in message


def test_float16_on_a_cpu(tmp_path: Path, model: Path, chats: Path) -> None:
    given = [chats, "--model", model, "--out", tmp_path / "out", "--dtype", "float16"]
    assert "choose the dtype bfloat16 or float32 (--dtype)" in error_of(*given)


def test_missing_packages_are_named(
    tmp_path: Path, model: Path, chats: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    message = error_of(chats, "--model", model, "--out", tmp_path / "out")
    assert "the package 'datasets' is missing: pip install 'sra_fast[train]'" in message


# --- Settings ---


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (
            "learning_rat: 1",
            "own.yaml: unknown setting 'learning_rat'; did you mean 'learning_rate",
        ),
        ("zzz: 1", "the settings are template, "),
        ("rank: many", "own.yaml: rank must be a whole number, found 'many'"),
        ("seed: 1\nrank: 1_0", "own.yaml line 2: '1_0' is not a finite number in plain decimal"),
        ("rank: 010", "own.yaml line 1: '010' is not"),
        ("epochs: 1:30", "own.yaml line 1: '1:30' is not"),
        ("epochs: '1_0'", "own.yaml: epochs must be a number, found '1_0'"),
        ("rank: 0", "rank must be a whole number from 1 on"),
        ("rank: true", "rank must be a whole number"),
        ("sra_layers: [1, x]", "sra_layers must be a list of whole numbers or null"),
        ("too_long: cut", "too_long must be one of error, drop, cut_oldest_turns"),
        ("learning_rate: -1.0", "learning_rate must be a finite number above 0"),
        ("learning_rate: .nan", "own.yaml line 1: '.nan' is not a finite number"),
        ("rank: 1\nrank: 2", "'rank' is given twice"),
        ("[1, 2]", "expected settings"),
        ("a: [", "line 1: not valid YAML"),
        ("eval_steps: 3\nlogging_steps: 2", "must be a multiple of logging_steps"),
        ("scheduler: cosin", "did you mean 'cosine"),
    ],
)
def test_settings_that_cannot_be(tmp_path: Path, text: str, named: str) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(text)
    with pytest.raises(TrainingConfigError, match=re.escape(named)):
        read_config(file, {})


def test_settings_are_the_defaults_under_the_file_under_the_options(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(
        "learning_rate: 5e-5\nepochs: 3\nsra_weight: 0.1\nsra_layers: [1, 2]\n"
        "targets: [q_proj]\npatience: null\n"
    )
    found = read_config(file, {"epochs": 1.0, "rank": None})
    assert found == TrainingConfig(
        learning_rate=5e-5,
        epochs=1.0,
        sra_weight=0.1,
        sra_layers=(1, 2),
        targets=("q_proj",),
        patience=None,
    )
    assert read_config(None, {}) == TrainingConfig()


def test_the_defaults_are_the_papers() -> None:
    """Compare with the settings of arXiv 2402.10453, section on fine-tuning."""
    paper = TrainingConfig()
    assert (paper.rank, paper.lora_alpha, paper.dropout) == (128, 256, 0.05)
    assert (paper.batch_size, paper.accumulation, paper.epochs) == (2, 32, 5)
    assert (paper.scheduler, paper.cycles, paper.warmup_ratio) == ("cosine_with_restarts", 5, 0.1)
    assert (paper.eval_steps, paper.patience, paper.max_length) == (20, 10, 4096)
    assert (paper.template, paper.targets, paper.sra_weight) == ("standard", "all-linear", 0)
