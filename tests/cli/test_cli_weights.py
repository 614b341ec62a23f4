"""Test that no command works with a model of which a weight is missing, and that none writes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, BertConfig, BertModel
from typer.testing import CliRunner

from broken_checkpoints import ADAPTER, tensors_of, without, write_tensors
from chat_tokenizers import byte_level_bpe, word_piece
from sra_fast.cli.app import app
from tiny_chat_model import save_tiny_model, talk, write_jsonl

for package in ("datasets", "sklearn"):
    pytest.importorskip(package, reason=f"needs the package {package} (extra 'pipeline')")
peft = pytest.importorskip("peft", reason="needs the package peft (extra 'peft')")

QUERY = "model.layers.1.self_attn.q_proj.weight"
HEAD = "lm_head.weight"
ENCODER = "encoder.layer.0.output.dense.weight"
STRATEGIES = {"Offer Hope": "Hope.", "Clarification": "Ask."}
SMALL = ("--device", "cpu", "--max-steps", "2", "--rank", "2", "--accumulation", "1")
TRAINING = ("train", "CHATS", "--model", "MODEL", "--out", "OUT", *SMALL)
SCORING = {
    "score": ("score", "CHATS", "--model", "MODEL", "--out", "OUT"),
    "compare": ("compare", "CHATS", "--model", "MODEL", "--out", "OUT", "--templates", "standard"),
    "demo": ("demo", "--model", "MODEL", "--out", "OUT"),
}
WITH_LOGITS = {
    "train": TRAINING,
    "extend": ("extend", "DIALOGUES", "--model", "MODEL", "--out", "OUT"),
    "evaluate": ("evaluate", "CHATS", "--model", "MODEL", "--out", "OUT"),
    "tuned": ("evaluate", "CHATS", "--model", "WHOLE", "--tuned", "MODEL", "--out", "OUT"),
    "base of tuned": ("evaluate", "CHATS", "--model", "MODEL", "--tuned", "WHOLE", "--out", "OUT"),
    "reproduce": ("reproduce", "DIALOGUES", "--model", "MODEL", "--out", "OUT"),
}
CLASSIFIERS = {
    kind: ("classify", "train", "CHATS", "--kind", kind, "--model", "ENCODER", "--out", "OUT")
    for kind in ("embedding", "roberta")
}
ALL = SCORING | WITH_LOGITS


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return files and whole models by the words that stand for them in the tables above."""
    root = tmp_path_factory.mktemp("places")
    words = word_piece(pad_token="[UNK]")
    words.save_pretrained(root / "encoder")
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    BertModel(config).save_pretrained(root / "encoder")
    chats = [
        talk(f"c{n}", 1, strategy=name, dialogue=f"c{n}")
        for n in range(8)
        for name in [tuple(STRATEGIES)[n % 2]]
    ]
    dialogue = [
        {"speaker": ("seeker", "supporter")[n % 2], "annotation": {}, "content": f"It is {n}."}
        for n in range(10)
    ]
    dialogues = [{"situation": f"Day {n}.", "dialog": dialogue} for n in range(40)]
    (root / "dialogues.json").write_text(json.dumps(dialogues))
    return {
        "CHATS": write_jsonl(root / "chats.jsonl", chats),
        "DIALOGUES": root / "dialogues.json",
        "WHOLE": save_tiny_model(root / "whole"),
        "ENCODER": root / "encoder",
    }


def copied(source: Path, folder: Path) -> Path:
    shutil.copytree(source, folder)
    return folder


def call(
    words: tuple[str, ...], places: dict[str, Path], *more: str, status: int
) -> dict[str, Any]:
    """Return what a command prints as JSON, which ends with ``status`` and without a traceback."""
    given = [str(places.get(word, word)) for word in words]
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, [*given, *more, "--json"])
    assert result.exit_code == status, result.output
    assert "Traceback" not in result.output
    printed: dict[str, Any] = json.loads(result.stdout)
    return printed


@pytest.mark.parametrize("command", ALL)
def test_a_missing_weight_stops_every_command_before_it_writes(
    tmp_path: Path, places: dict[str, Path], command: str
) -> None:
    model = without(copied(places["WHOLE"], tmp_path / "model"), QUERY)
    given = {**places, "MODEL": model, "OUT": tmp_path / "out"}
    error = call(ALL[command], given, status=1)["error"]
    assert f"lacks 1 weight: {QUERY}" in error
    assert error.endswith("(--allow-missing)")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ALL)
def test_an_output_head_counts_where_logits_do(
    tmp_path: Path, places: dict[str, Path], command: str
) -> None:
    model = without(copied(places["WHOLE"], tmp_path / "model"), HEAD)
    given = {**places, "MODEL": model, "OUT": tmp_path / "out"}
    if command in WITH_LOGITS:
        assert HEAD in call(ALL[command], given, status=1)["error"]
        assert not (tmp_path / "out").exists()
    elif command == "score":
        call(ALL[command], given, status=0)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
@pytest.mark.parametrize("command", ["score", "train", "extend", "tuned"])
def test_a_damaged_file_is_named_before_anything_is_written(
    tmp_path: Path, places: dict[str, Path], command: str, name: str
) -> None:
    model = copied(places["WHOLE"], tmp_path / "model")
    content = (model / name).read_bytes()
    (model / name).write_bytes(content[: len(content) // 2])
    given = {**places, "MODEL": model, "OUT": tmp_path / "out"}
    assert f"{model / name} is damaged" in call(ALL[command], given, status=1)["error"]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["score", "train"])
def test_whoever_means_it_may(tmp_path: Path, places: dict[str, Path], command: str) -> None:
    model = without(copied(places["WHOLE"], tmp_path / "model"), QUERY)
    given = {**places, "MODEL": model, "OUT": tmp_path / "out"}
    more = ("--eval-fraction", "0") if command == "train" else ()
    call(ALL[command], given, "--allow-missing", *more, status=0)
    recorded = json.loads((tmp_path / "out" / "run.json").read_text())
    assert recorded["settings"]["model"]["allow_missing"] is True


@pytest.mark.parametrize("command", ["score", "tuned"])
def test_an_adapter_must_fit_its_base_model(
    tmp_path: Path, places: dict[str, Path], command: str
) -> None:
    adapter = tmp_path / "adapter"
    base = AutoModelForCausalLM.from_pretrained(places["WHOLE"])
    lora = peft.LoraConfig(r=2, target_modules=["q_proj"])
    peft.get_peft_model(base, lora).save_pretrained(adapter)
    whole = tensors_of(adapter, ADAPTER)
    name = sorted(whole)[0]
    write_tensors(adapter, {f"x.{name}": whole.pop(name), **whole}, ADAPTER)
    byte_level_bpe().save_pretrained(adapter)
    given = {**places, "MODEL": adapter, "OUT": tmp_path / "out"}
    error = call(ALL[command], given, status=1)["error"]
    assert f"lacks 1 weight: {name}" in error
    assert f"holds 1 that the base model has no place for: x.{name}" in error
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_that_lost_a_weight_is_neither_merged_nor_trained_on(
    tmp_path: Path, places: dict[str, Path]
) -> None:
    run = tmp_path / "run"
    given = {**places, "MODEL": places["WHOLE"], "OUT": run}
    more = ("--eval-fraction", "0", "--eval-steps", "1")
    call(TRAINING, given, *more, status=0)
    before, last = (run / f"checkpoint-{step}" for step in (1, 2))
    name = sorted(tensors_of(last, ADAPTER))[0]
    for checkpoint in (before, last):
        without(checkpoint, name, name=ADAPTER)
    error = call(TRAINING, given, *more, "--merge", status=1)["error"]
    assert f"lacks 1 weight: {name}" in error
    assert not (run / "merged").exists()
    (run / "run.json").write_text(_without_digests(run / "run.json"), encoding="utf-8")
    for damaged in (last, run / "adapter"):
        shutil.rmtree(damaged)
    error = call(TRAINING, given, *more, status=1)["error"]
    assert f"{before / ADAPTER} is not whole: 1 weights of the adapter are missing" in error
    assert name in error


def _without_digests(file: Path) -> str:
    """Return what a run of an earlier version wrote down, which kept no digests of its files."""
    record = json.loads(file.read_text(encoding="utf-8"))
    del record["digests"]
    return json.dumps(record)


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_a_missing_weight_of_an_encoder_stops_the_training_of_a_classifier(
    tmp_path: Path, places: dict[str, Path], kind: str
) -> None:
    encoder = without(copied(places["ENCODER"], tmp_path / "encoder"), ENCODER)
    given = {**places, "ENCODER": encoder, "OUT": tmp_path / "out"}
    error = call(CLASSIFIERS[kind], given, status=1)["error"]
    assert ENCODER in error
    assert error.endswith("(--allow-missing)")
    assert not (tmp_path / "out").exists()


def test_a_pooler_that_no_embedding_depends_on_may_be_missing(
    tmp_path: Path, places: dict[str, Path]
) -> None:
    names = ("pooler.dense.weight", "pooler.dense.bias")
    encoder = without(copied(places["ENCODER"], tmp_path / "encoder"), *names)
    given = {**places, "ENCODER": encoder, "OUT": tmp_path / "out"}
    call(CLASSIFIERS["embedding"], given, "--folds", "0", "--test-fraction", "0.5", status=0)
