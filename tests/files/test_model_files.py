"""Test that a damaged file of a model is named, in words of this library."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from broken_checkpoints import MODEL, save_smallest_llama
from sra_fast.files.hub_names import ModelNotFoundError
from sra_fast.files.model_files import INDEX, DamagedModelError, check_model_files, loading
from sra_fast.files.models import ModelSource, find_model
from sra_fast.tools.argument_error import ArgumentError

Damage = Callable[[Path], None]


def halved(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def pointer(file: Path) -> None:
    """Put there what git-lfs leaves where it downloads nothing."""
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1234567\n")


def a_list(file: Path) -> None:
    file.write_text("[1, 2]")


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return save_smallest_llama(tmp_path / "llama")


@pytest.mark.parametrize("damage", [halved, emptied, pointer])
@pytest.mark.parametrize("name", [MODEL, "config.json", "generation_config.json"])
def test_a_file_that_cannot_be_read_is_named(llama: Path, name: str, damage: Damage) -> None:
    damage(llama / name)
    with pytest.raises(DamagedModelError, match=rf"{llama / name} is damaged: .*; download"):
        find_model(str(llama))
    with pytest.raises(DamagedModelError, match=str(llama / name)):
        ModelSource("llama", str(llama)).load("auto", "cpu")


def test_a_configuration_that_is_no_object_is_named(llama: Path) -> None:
    a_list(llama / "config.json")
    with pytest.raises(DamagedModelError, match="holds no JSON object"):
        find_model(str(llama))


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({}, "model_type"),
        ({"model_type": "nobody_made_this"}, "nobody_made_this"),
        ({"model_type": "llama", "hidden_size": "wide"}, "hidden_size"),
    ],
)
def test_a_configuration_that_means_nothing_is_told_in_one_line(
    llama: Path, config: dict[str, str], says: str
) -> None:
    (llama / "config.json").write_text(json.dumps(config))
    source = find_model(str(llama))
    for attempt in (source.check, source.fingerprint, lambda: source.load("auto", "cpu")):
        with pytest.raises(DamagedModelError, match=says) as refused:
            attempt()
        assert str(llama) in str(refused.value)
        assert "\n" not in str(refused.value)


def test_a_folder_without_weights_says_so(llama: Path) -> None:
    (llama / MODEL).unlink()
    with pytest.raises(DamagedModelError, match=rf"{llama}: .*no file named {MODEL}"):
        find_model(str(llama)).load("auto", "cpu")


def test_shards_that_are_not_there_are_named(tmp_path: Path, llama: Path) -> None:
    folder = tmp_path / "shards"
    AutoModelForCausalLM.from_pretrained(llama).save_pretrained(folder, max_shard_size="1KB")
    check_model_files(folder)
    shards = sorted(folder.glob("*-of-*"))
    shards[1].unlink()
    with pytest.raises(DamagedModelError, match=rf"{INDEX} names \d+ .*{shards[1].name}"):
        find_model(str(folder))
    (folder / INDEX).write_text('{"metadata": {}}')
    with pytest.raises(DamagedModelError, match=f"{INDEX} is damaged: it has no weight_map"):
        find_model(str(folder))


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_damaged_file_of_the_tokenizer_is_named(llama: Path, name: str) -> None:
    from chat_tokenizers import byte_level_bpe

    byte_level_bpe().save_pretrained(llama)
    find_model(str(llama)).tokenizer()
    halved(llama / name)
    with pytest.raises(DamagedModelError, match=f"{llama / name} is damaged"):
        find_model(str(llama)).tokenizer()


def test_errors_that_say_enough_are_left_as_they_are() -> None:
    class OutOfMemoryError(RuntimeError):
        pass

    for error in (ArgumentError("no", "model"), ModuleNotFoundError("peft"), OutOfMemoryError()):
        with pytest.raises(type(error)) as raised, loading("model 'x'", "/x"):
            raise error
        assert raised.value is error


def test_a_model_on_the_hub_that_brings_an_adapter_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers.utils

    monkeypatch.setattr(
        transformers.utils, "find_adapter_config_file", lambda name: str(tmp_path / "a.json")
    )
    with pytest.raises(ModelNotFoundError, match="holds an adapter on the hub"):
        ModelSource("someone/tiny", "someone/tiny").load("auto", "cpu")
