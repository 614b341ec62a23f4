"""Test layer-by-layer scores over transformers' families: equal to the plain ones, or refused.

`make test` takes a sample, `make test-all` (`--every-family`) takes all causal language models.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import sra_fast
from family_outcomes import text_batch
from shrunken_families import enliven, families, shrunken_config
from sra_fast.measure.unserved import UnservedModelError

EQUAL = 1e-6
"""The largest difference of a head's mass between the two ways."""

REFUSED = {
    "ctrl": r"no layers of transformers' kind",
    "emu3": r"no causal language model of transformers \(model type emu3_text_model\)",
    "mllama": r"no causal language model of transformers \(model type mllama_text_model\)",
}
"""The families that are refused layer by layer only, and what the message says."""

CAUSAL = [name for kind, name in families() if kind == "causal"]
SAMPLE = {  # each has something that a loop over plain layers would get wrong
    "ctrl": "layers of a kind of its own",
    "falcon_h1": "state and attention in one layer",
    "gemma3n_text": "inputs of each layer's own, and streams side by side",
    "gemma4_text": "rotary embeddings and masks of two kinds",
    "gpt2": "learned positions, and matrices the other way round",
    "gpt_oss": "sinks and experts",
    "llama4_text": "chunks, and experts that the files name otherwise",
    "minimax": "a state instead of attention in some layers",
    "mixtral": "experts that the files keep apart",
    "nemotron_h": "layers of one kind of block each",
    "phi3": "one matrix for queries, keys and values",
    "roberta": "positions that do not count from 0",
    "zamba2": "blocks that several layers share",
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "family" in metafunc.fixturenames:
        every = metafunc.config.getoption("every_family")
        metafunc.parametrize("family", CAUSAL if every else sorted(SAMPLE))


def saved(family: str, folder: Path) -> Any:
    """Build a family's tiny model by the configuration that its folder holds, and save it there."""
    shrunken_config(family).save_pretrained(folder)
    config = AutoConfig.from_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        enliven(model)
    model.save_pretrained(folder)
    return model


def test_a_family_scores_layer_by_layer_as_it_scores_whole(family: str, tmp_path: Path) -> None:
    try:
        model = saved(family, tmp_path)
    except Exception as error:
        pytest.skip(f"its tiny model is not built: {type(error).__name__}: {str(error)[:80]}")
    wanted: dict[str, Any] = {"definition": "mass", "keep_rows": True}
    try:
        plain = sra_fast.score(model, text_batch(), **wanted)
    except UnservedModelError:
        with pytest.raises(UnservedModelError):
            sra_fast.score(
                sra_fast.layerwise_model(tmp_path), text_batch(), layerwise=True, **wanted
            )
        return
    options = sra_fast.Layerwise(call_tokens=20)  # each of the texts is a group of its own
    if family in REFUSED:
        with pytest.raises(UnservedModelError, match=REFUSED[family]):
            sra_fast.score(
                sra_fast.layerwise_model(tmp_path), text_batch(), layerwise=options, **wanted
            )
        return
    lazy = sra_fast.layerwise_model(tmp_path)
    found = sra_fast.score(lazy, text_batch(), layerwise=options, **wanted)
    assert found.layers == plain.layers
    torch.testing.assert_close(found.mass, plain.mass, rtol=0, atol=EQUAL)
    for row in range(len(plain.sra)):
        torch.testing.assert_close(found.rows(row), plain.rows(row), rtol=0, atol=EQUAL)
    assert found.checked == plain.checked
    assert all(parameter.is_meta for parameter in lazy.parameters())


@pytest.mark.parametrize("name", ["qwen3", "mixtral", "gemma2"])
def test_half_precision_scores_layer_by_layer_as_it_scores_whole(name: str, tmp_path: Path) -> None:
    saved(name, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    plain = sra_fast.score(model, text_batch(), definition="mass")
    found = sra_fast.score(
        sra_fast.layerwise_model(tmp_path, dtype="bfloat16"),
        text_batch(),
        definition="mass",
        layerwise=True,
    )
    assert torch.equal(found.mass, plain.mass)


def test_layers_that_share_keys_are_refused_by_name(tmp_path: Path) -> None:
    config = shrunken_config("gemma3n_text")
    kinds = ["sliding_attention", "full_attention"] * 2
    sharing = {"num_hidden_layers": 4, "layer_types": kinds, "num_kv_shared_layers": 2}
    config = type(config)(**{**config.to_dict(), **sharing})
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(tmp_path)
    with pytest.raises(UnservedModelError, match="later layers in its arguments") as caught:
        sra_fast.score(sra_fast.layerwise_model(tmp_path), text_batch(), layerwise=True)
    assert re.search(r"Gemma3nTextModel.*shared_kv_states.*score it whole", str(caught.value))
