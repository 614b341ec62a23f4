"""Test models whose weights stay in files: what is held when, what is kept, what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import sra_fast
from marked_batches import marked_batch
from model_families import VOCABULARY
from sra_fast.files.weights import MissingWeightsError
from sra_fast.measure.layerwise.layer_doors import decoder_layers
from sra_fast.measure.unserved import UnservedModelError
from sra_fast.tools.argument_error import ArgumentError

LAYERS = 4
BATCH = marked_batch((40, 31, 26))


class KilledError(BaseException):
    """Raised in a test where a process would have been killed."""


def tiny(**changes: Any) -> LlamaForCausalLM:
    sizes: dict[str, Any] = dict(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(LlamaConfig(**{**sizes, **changes})).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny"
    tiny().save_pretrained(path)
    return path


def same(one: sra_fast.SRAResult, other: sra_fast.SRAResult) -> bool:
    """Return whether all numbers of two results are the same, bit for bit."""
    return (
        torch.equal(one.mass, other.mass)
        and torch.equal(one.sra, other.sra)
        and (one.profiles is None) == (other.profiles is None)
        and (one.profiles is None or torch.equal(one.profiles, other.profiles))
    )


# --- what is held when ---


def test_one_layer_is_held_at_a_time_and_nothing_behind_the_last_mass(folder: Path) -> None:
    model = sra_fast.layerwise_model(folder)
    layers = decoder_layers(model)
    held: list[list[int]] = []
    for layer in layers:
        layer.self_attn.register_forward_pre_hook(
            lambda module, args: held.append(
                [n for n, one in enumerate(layers) if not next(one.parameters()).is_meta]
            )
        )
    sra_fast.score(model, BATCH, check=False, layerwise=sra_fast.Layerwise(call_tokens=40))
    groups = 3  # no two of the texts fit into 40 tokens
    assert held[-groups * LAYERS :] == [[n] for n in range(LAYERS) for _ in range(groups)]
    assert model.lm_head.weight.is_meta
    assert all(parameter.is_meta for parameter in model.parameters())


def test_each_layer_is_read_once_for_all_sequences_of_a_pass(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sra_fast.files.mapped_tensors import MappedTensors

    model = sra_fast.layerwise_model(folder)
    options = sra_fast.Layerwise(call_tokens=40)
    sra_fast.score(model, BATCH, layerwise=options)  # with the trial and the check
    read: list[str] = []
    tensor = MappedTensors.tensor
    monkeypatch.setattr(
        MappedTensors, "tensor", lambda self, name: (read.append(name), tensor(self, name))[1]
    )
    sra_fast.score(model, BATCH, layerwise=options)
    assert len(read) == len(set(read))
    assert sum("q_proj" in name for name in read) == LAYERS
    assert "lm_head.weight" not in read
    read.clear()
    sra_fast.score(model, BATCH, layerwise=options, forward_tokens=40)
    assert sum("q_proj" in name for name in read) == 3 * LAYERS  # three passes


@pytest.mark.parametrize("profile", [None, "mean", "layers", "heads"])
def test_masses_rows_and_profiles_are_those_of_the_whole_model(folder: Path, profile: Any) -> None:
    wanted: dict[str, Any] = {"keep_rows": True, "profile": profile, "definition": "table1"}
    one = sra_fast.score(tiny(), BATCH, forward_tokens=40, **wanted)
    other = sra_fast.score(
        sra_fast.layerwise_model(folder),
        BATCH,
        layerwise=sra_fast.Layerwise(call_tokens=40),
        **wanted,
    )
    assert torch.equal(one.mass, other.mass)
    assert one.scores.keys() == other.scores.keys()
    assert all(torch.equal(one.scores[name], other.scores[name]) for name in one.scores)
    for response in range(len(one.sra)):
        assert torch.equal(one.rows(response), other.rows(response))
        if profile is not None:
            assert torch.equal(one.profile(response), other.profile(response))


def test_shards_and_another_number_format_are_read(tmp_path: Path) -> None:
    tiny().save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 3
    half = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    one = sra_fast.score(half.eval(), BATCH)
    other = sra_fast.score(
        sra_fast.layerwise_model(tmp_path, dtype="bfloat16"), BATCH, layerwise=True
    )
    assert torch.equal(one.mass, other.mass)


def test_layers_are_told_as_they_are_done(folder: Path) -> None:
    told: list[tuple[int, int]] = []
    options = sra_fast.Layerwise(on_layer=lambda done, layers: told.append((done, layers)))
    sra_fast.score(sra_fast.layerwise_model(folder), BATCH, layerwise=options)
    assert told == [(done, LAYERS) for done in range(1, LAYERS + 1)]


# --- what is kept ---


def interrupted(
    folder: Path, keep: Path, after: int, **wanted: Any
) -> Callable[[], tuple[sra_fast.SRAResult, int]]:
    """Score until so many layers are done; return what continues it, and counts its layers."""

    def stop(done: int, layers: int) -> None:
        if done > after:
            raise KilledError

    options = {"call_tokens": 40, "keep": keep, "keep_seconds": 0.0}
    with pytest.raises(KilledError):
        sra_fast.score(
            sra_fast.layerwise_model(folder),
            BATCH,
            layerwise=sra_fast.Layerwise(on_layer=stop, **options),
            **wanted,
        )

    def again() -> tuple[sra_fast.SRAResult, int]:
        model = sra_fast.layerwise_model(folder)
        run: list[nn.Module] = []
        for layer in decoder_layers(model):
            layer.self_attn.register_forward_pre_hook(lambda module, args: run.append(module))
        result = sra_fast.score(
            model, BATCH, check=False, layerwise=sra_fast.Layerwise(**options), **wanted
        )
        trial = 2 * LAYERS
        return result, (len(run) - trial) // 3  # of three groups

    return again


@pytest.mark.parametrize(("after", "profile"), [(1, "heads"), (2, "mean"), (LAYERS - 1, None)])
def test_what_was_killed_continues_after_its_last_layer_bit_for_bit(
    folder: Path, tmp_path: Path, after: int, profile: Any
) -> None:
    wanted: dict[str, Any] = {"profile": profile}
    whole = sra_fast.score(
        sra_fast.layerwise_model(folder),
        BATCH,
        layerwise=sra_fast.Layerwise(call_tokens=40),
        **wanted,
    )
    again = interrupted(folder, tmp_path / "kept", after, **wanted)
    assert [one.name for one in (tmp_path / "kept").iterdir()] == ["pass00000.safetensors"]
    result, layers = again()
    assert layers == LAYERS - after
    assert same(result, whole)
    assert list((tmp_path / "kept").iterdir()) == []


@pytest.mark.parametrize("change", ["rows", "profile", "weights", "config", "format", "damage"])
def test_what_was_kept_of_another_call_is_not_taken(
    folder: Path, tmp_path: Path, change: str, caplog: pytest.LogCaptureFixture
) -> None:
    wanted: dict[str, Any] = {}
    dtype: Any = "auto"
    again = interrupted(folder, tmp_path / "kept", 2, **wanted)
    (kept,) = (tmp_path / "kept").iterdir()
    if change == "rows":
        wanted["rows"] = "predicting"
    elif change == "profile":
        wanted["profile"] = "mean"
    elif change == "weights":
        folder = tmp_path / "other"
        tiny(intermediate_size=64).save_pretrained(folder)
    elif change == "config":
        folder = Path(shutil.copytree(folder, tmp_path / "other"))  # with its times of change
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.5}))
    elif change == "format":
        dtype = "bfloat16"
    else:
        kept.write_bytes(kept.read_bytes()[:-4])
    whole = sra_fast.score(
        sra_fast.layerwise_model(folder, dtype=dtype),
        BATCH,
        layerwise=sra_fast.Layerwise(call_tokens=40),
        **wanted,
    )
    if change == "damage":
        result, layers = again()
        assert layers == LAYERS
        assert "pass00000.safetensors cannot be read" in caplog.text
    else:
        result = sra_fast.score(
            sra_fast.layerwise_model(folder, dtype=dtype),
            BATCH,
            layerwise=sra_fast.Layerwise(call_tokens=40, keep=str(tmp_path / "kept")),
            **wanted,
        )
    assert torch.equal(result.mass, whole.mass)


# --- what is refused ---


def test_a_model_says_how_it_wants_to_be_scored(folder: Path) -> None:
    with pytest.raises(ArgumentError, match="score it with layerwise=True"):
        sra_fast.score(sra_fast.layerwise_model(folder), BATCH)
    with pytest.raises(ArgumentError, match=r"open its folder with sra_fast\.layerwise_model"):
        sra_fast.score(tiny(), BATCH, layerwise=True)
    options: Any = "yes"
    with pytest.raises(TypeError, match="expected True, False or a Layerwise, got str"):
        sra_fast.score(sra_fast.layerwise_model(folder), BATCH, layerwise=options)


@pytest.mark.parametrize("door", ["monitor", "steer", "generate"])
def test_only_score_reads_weights_from_files(folder: Path, door: str) -> None:
    model = sra_fast.layerwise_model(folder)
    blocks: dict[str, Callable[[], Any]] = {
        "monitor": lambda: sra_fast.monitor(model),
        "steer": lambda: sra_fast.steer(model, BATCH, bias=1.0),
        "generate": lambda: nullcontext(sra_fast.generate(model, BATCH, max_new_tokens=1)),
    }
    with pytest.raises(UnservedModelError, match="layerwise=True alone"), blocks[door]():
        pass


def test_a_batch_that_has_to_run_through_the_whole_model_is_refused(folder: Path) -> None:
    positions = 2 * torch.arange(40).expand(3, -1)
    with pytest.raises(UnservedModelError, match=r"positions of its own.*from_pretrained"):
        sra_fast.score(
            sra_fast.layerwise_model(folder), {**BATCH, "position_ids": positions}, layerwise=True
        )


@pytest.mark.parametrize(("name", "value"), [("call_tokens", 0), ("keep_seconds", -1.0)])
def test_options_out_of_range_are_named(name: str, value: float) -> None:
    with pytest.raises(ArgumentError, match=f"{name} must be at least"):
        sra_fast.Layerwise(**{name: value})  # type: ignore[arg-type]


def test_an_adapter_is_refused_by_name(folder: Path, tmp_path: Path) -> None:
    base = LlamaForCausalLM.from_pretrained(folder)
    get_peft_model(base, LoraConfig(target_modules=["q_proj"])).save_pretrained(tmp_path)
    _refused(tmp_path, "is an adapter on another model")


def test_a_gguf_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF")
    _refused(tmp_path, r"is the GGUF file tiny\.gguf.*save_pretrained")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quantization_config": {"quant_method": "fp8"}}, "is quantised"),
        ({"model_type": "t5"}, r"no causal language model.*model type t5"),
        ({"model_type": "llava"}, r"no causal language model.*model type llava"),
    ],
)
def test_other_kinds_of_models_are_refused_by_name(
    folder: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    config = json.loads((folder / "config.json").read_text())
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))
    _refused(tmp_path, message)


def test_weights_in_another_format_are_refused_by_name(folder: Path, tmp_path: Path) -> None:
    tiny().config.save_pretrained(tmp_path)
    torch.save(tiny().state_dict(), tmp_path / "pytorch_model.bin")
    _refused(tmp_path, r"s weights are not in model\.safetensors")


def test_missing_weights_are_named(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    weights = load_file(folder / "model.safetensors")
    weights.pop("model.layers.2.mlp.up_proj.weight")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MissingWeightsError, match=r"layers\.2\.mlp\.up_proj"):
        sra_fast.layerwise_model(tmp_path)


def _refused(folder: Path, message: str) -> None:
    with pytest.raises(UnservedModelError, match=f"cannot run layer by layer: it.*{message}"):
        sra_fast.layerwise_model(folder)
