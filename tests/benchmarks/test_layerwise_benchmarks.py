"""Test the benchmarks of layer-by-layer scores: counts, equal masses first, and runs that end."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from benchmarks.cpu import layerwise_cost, layerwise_limit
from benchmarks.cpu.layerwise_record import page, record
from benchmarks.cpu.layerwise_sizes import EXAMPLES, layerwise_sizes
from sra_fast.files.models import find_model
from tiny_chat_model import save_tiny_model

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")


def test_sizes_are_those_of_the_model_itself() -> None:
    config = LlamaConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=40,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    sizes = layerwise_sizes(config, tokens=7)
    assert sizes.whole == sum(one.nbytes for one in model.parameters())
    assert sizes.layer == sum(one.nbytes for one in model.model.layers[0].parameters())
    assert sizes.read == sizes.whole - model.lm_head.weight.nbytes
    assert sizes.hidden == 7 * 16 * 2


def test_the_examples_have_as_many_weights_as_their_names_say() -> None:
    for name, config in EXAMPLES.items():
        billions = float(name.split()[-1].removesuffix("B"))
        assert layerwise_sizes(config).whole / 2e9 == pytest.approx(billions, rel=0.02)


@on_linux
def test_figures_are_told_after_the_masses_were_found_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = save_tiny_model(tmp_path / "tiny")
    words = ["--model", str(model), "--texts", "2", "--tokens", "160"]
    monkeypatch.setattr(
        layerwise_cost, "in_fresh_process", lambda function, *given: function(*given)
    )
    assert layerwise_cost.main(words) == 0
    assert "| layerwise |" in capsys.readouterr().out
    monkeypatch.setattr(layerwise_cost, "EQUAL", -1.0)
    assert layerwise_cost.main(words) == 1
    assert "no figures are told" in capsys.readouterr().out


def test_a_checkpoint_that_was_written_layer_by_layer_is_a_whole_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
    small |= {"num_key_value_heads": 2, "vocab_size": 120}
    monkeypatch.setattr(
        layerwise_limit, "CONFIGURATION", {**layerwise_limit.CONFIGURATION, **small}
    )
    size = layerwise_limit.write_checkpoint(tmp_path, 3)
    model = find_model(str(tmp_path)).load("auto", "cpu")
    assert model.dtype == torch.bfloat16
    assert sum(one.nbytes for one in model.parameters()) == size


def test_parts_of_the_record_are_replaced_one_by_one(tmp_path: Path) -> None:
    limit: dict[str, Any] = dict.fromkeys(
        ("weights", "limit", "anonymous", "clock", "processor", "layers", "texts", "tokens"), 1
    )
    record("limit", {**limit, "checked": "passed", "whole": "first"}, tmp_path)
    record("limit", {**limit, "checked": "passed", "whole": "second"}, tmp_path)
    parts = json.loads((tmp_path / "layerwise.json").read_text())
    written = (tmp_path / "layerwise.md").read_text()
    assert written == "\n".join(page(parts))
    assert "second" in written
    assert "first" not in written
