"""Test that an adapter fits its base model key by key, or is refused with the keys' names."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from broken_checkpoints import ADAPTER, save_smallest_llama, tensors_of, without, write_tensors
from sra_fast.files.model_files import ADAPTER_CONFIG, DamagedModelError
from sra_fast.files.models import ModelSource, find_model
from sra_fast.files.weights import Mismatch, MissingWeightsError

peft = pytest.importorskip("peft", reason="needs the package peft (extra 'peft')")

TARGETS = ["q_proj", "v_proj"]
KINDS: dict[str, Callable[[], Any]] = {
    "lora": lambda: peft.LoraConfig(r=2, target_modules=TARGETS, task_type="CAUSAL_LM"),
    "dora": lambda: peft.LoraConfig(r=2, target_modules=TARGETS, use_dora=True),
    "with a head": lambda: peft.LoraConfig(
        r=2, target_modules=TARGETS, modules_to_save=["lm_head", "embed_tokens"]
    ),
    "of the head": lambda: peft.LoraConfig(r=2, target_modules=[*TARGETS, "lm_head"]),
    "tokens": lambda: peft.LoraConfig(
        r=2, target_modules=TARGETS, trainable_token_indices={"embed_tokens": [1, 2]}
    ),
    "ia3": lambda: peft.IA3Config(target_modules=TARGETS, feedforward_modules=[]),
    "lokr": lambda: peft.LoKrConfig(r=2, target_modules=TARGETS),
    "adalora": lambda: peft.AdaLoraConfig(
        init_r=2, target_r=1, total_step=9, target_modules=TARGETS
    ),
    "norms": lambda: peft.LNTuningConfig(),
}
MORE = {
    "pissa": lambda: peft.LoraConfig(r=2, target_modules=TARGETS, init_lora_weights="pissa"),
    "olora": lambda: peft.LoraConfig(r=2, target_modules=TARGETS, init_lora_weights="olora"),
    "loha": lambda: peft.LoHaConfig(r=2, target_modules=TARGETS),
    "oft": lambda: peft.OFTConfig(r=0, oft_block_size=4, target_modules=TARGETS),
    "vera": lambda: peft.VeraConfig(r=2, target_modules=["q_proj"]),
}
A = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


def save_adapter(folder: Path, base: Path, config: Any) -> Any:
    """Save an adapter whose weights all say something, and return the adapted model."""
    model = AutoModelForCausalLM.from_pretrained(base)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        adapted = peft.get_peft_model(model, config)
        with torch.no_grad():
            for parameter in adapted.parameters():
                if parameter.requires_grad:
                    parameter += torch.randn_like(parameter)
    adapted.save_pretrained(folder)
    return adapted.eval()


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return save_smallest_llama(tmp_path / "base")


@pytest.fixture
def lora(tmp_path: Path, base: Path) -> Path:
    save_adapter(tmp_path / "adapter", base, KINDS["lora"]())
    return tmp_path / "adapter"


def refusal(folder: Path) -> MissingWeightsError:
    """Return the error with which an adapter is not loaded, and not even checked."""
    with pytest.raises(MissingWeightsError) as checked:
        find_model(str(folder)).check()
    with pytest.raises(MissingWeightsError) as loaded:
        find_model(str(folder)).load("auto", "cpu")
    assert str(checked.value) == str(loaded.value)
    return loaded.value


def changed(folder: Path, **values: Any) -> None:
    file = folder / ADAPTER_CONFIG
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


@pytest.mark.parametrize("kind", [*KINDS, *MORE])
def test_an_adapter_does_what_it_did_when_it_was_saved(
    tmp_path: Path, base: Path, kind: str
) -> None:
    adapted = save_adapter(tmp_path / "adapter", base, (KINDS | MORE)[kind]())
    source = find_model(str(tmp_path / "adapter"))
    source.check()
    loaded = source.load("auto", "cpu")
    ids = torch.arange(3, 15)[None]
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, adapted(ids).logits)
    assert type(loaded).__name__ == "LlamaForCausalLM"


def test_an_adapter_that_acts_from_certain_tokens_on_is_refused_by_name(
    tmp_path: Path, base: Path
) -> None:
    config = peft.LoraConfig(
        r=2, target_modules=TARGETS, task_type="CAUSAL_LM", alora_invocation_tokens=[3, 4]
    )
    save_adapter(tmp_path / "adapter", base, config)
    with pytest.raises(DamagedModelError, match="adapter is an activated LoRA"):
        find_model(str(tmp_path / "adapter")).check()


@pytest.mark.parametrize("kind", KINDS)
def test_every_key_is_missed_by_its_name_and_no_other_is_taken(
    tmp_path: Path, base: Path, kind: str
) -> None:
    folder = tmp_path / "adapter"
    save_adapter(folder, base, KINDS[kind]())
    whole = tensors_of(folder, ADAPTER)
    source = find_model(str(folder))
    for name, tensor in whole.items():
        if ".base_layer." in name:  # a copy of the base model's own weight, which nobody needs
            continue
        others = {one: other for one, other in whole.items() if one != name}
        for given, unexpected in ((others, ()), ({**others, f"x.{name}": tensor}, (f"x.{name}",))):
            write_tensors(folder, given, ADAPTER)
            with pytest.raises(MissingWeightsError) as refused:
                source.load("auto", "cpu")
            assert refused.value.missing == (name,)
            assert refused.value.unexpected == unexpected
            assert name in str(refused.value)


def test_a_key_of_another_shape_is_named_with_both(lora: Path) -> None:
    write_tensors(lora, {**tensors_of(lora, ADAPTER), A: torch.zeros(5, 8)}, ADAPTER)
    found = refusal(lora)
    assert found.mismatched == (Mismatch(A, (5, 8), (2, 8)),)
    assert found.missing == ()
    assert f"{A} has [5, 8] where the base model has [2, 8]" in str(found)
    assert str(lora / ADAPTER) in str(found)


def test_whoever_allows_it_gets_the_rest_of_an_adapter(
    lora: Path, caplog: pytest.LogCaptureFixture
) -> None:
    without(lora, A, name=ADAPTER)
    first, second = (
        find_model(str(lora), allow_missing=True).load("auto", "cpu").state_dict() for _ in range(2)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert f"{ADAPTER} lacks 1 weight: {A}; it is used all the same" in caplog.text


def test_the_base_model_must_be_whole_too(base: Path, lora: Path) -> None:
    without(base, "model.norm.weight")
    found = refusal(lora)
    assert found.missing == ("model.norm.weight",)
    assert str(base) in str(found)


def test_an_adapter_beside_its_base_model_is_put_on_it(tmp_path: Path, base: Path) -> None:
    plain = ModelSource("base", str(base)).load("auto", "cpu")
    adapted = save_adapter(base, base, KINDS["lora"]())
    source = find_model(str(base))
    ids = torch.arange(3, 15)[None]
    with torch.no_grad():
        logits = source.load("auto", "cpu")(ids).logits
        assert torch.equal(logits, adapted(ids).logits)
        assert not torch.equal(logits, plain(ids).logits)


def test_an_adapter_of_another_model_is_refused_with_its_keys(tmp_path: Path, lora: Path) -> None:
    gpt2 = tmp_path / "gpt2"
    GPT2LMHeadModel(GPT2Config(vocab_size=24, n_embd=8, n_layer=1, n_head=2)).save_pretrained(gpt2)
    changed(lora, base_model_name_or_path=str(gpt2))
    found = refusal(lora)
    assert found.unexpected == tuple(sorted(tensors_of(lora, ADAPTER)))
    assert "GPT2LMHeadModel has none" in str(found)
    assert found.arguments == ()  # nothing would be left of it


def test_an_adapter_for_other_modules_than_it_holds_is_refused(lora: Path) -> None:
    changed(lora, target_modules=["o_proj"])
    found = refusal(lora)
    assert {name.split(".")[6] for name in found.missing} == {"o_proj"}
    assert found.unexpected == tuple(sorted(tensors_of(lora, ADAPTER)))


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("/no/such/model", "names the base model '/no/such/model', which is no folder"),
        ("someone/something", "names the base model 'someone/something', which is neither"),
        (None, "names no base model"),
        (7, "names no base model"),
    ],
)
def test_a_base_model_that_is_not_there_is_named(lora: Path, value: Any, says: str) -> None:
    changed(lora, base_model_name_or_path=value)
    source = find_model(str(lora))
    for attempt in (source.check, source.fingerprint, lambda: source.load("auto", "cpu")):
        with pytest.raises(DamagedModelError, match=says) as refused:
            attempt()
        assert str(lora / ADAPTER_CONFIG) in str(refused.value)


@pytest.mark.parametrize("name", [ADAPTER, ADAPTER_CONFIG])
def test_a_damaged_file_is_named(lora: Path, name: str) -> None:
    content = (lora / name).read_bytes()
    (lora / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(DamagedModelError, match=f"{re.escape(str(lora / name))} is damaged"):
        find_model(str(lora))


def test_an_adapter_without_its_weights_says_so(lora: Path) -> None:
    (lora / ADAPTER).unlink()
    with pytest.raises(DamagedModelError, match=f"{lora} holds no {ADAPTER}"):
        find_model(str(lora)).load("auto", "cpu")


@pytest.mark.parametrize(
    ("values", "says"),
    [({"peft_type": "NOBODY"}, "NOBODY"), ({"target_modules": ["nothing"]}, "nothing")],
)
def test_a_configuration_that_means_nothing_is_told(
    lora: Path, values: dict[str, Any], says: str
) -> None:
    changed(lora, **values)
    with pytest.raises(DamagedModelError, match=says):
        find_model(str(lora)).load("auto", "cpu")


def test_virtual_tokens_are_refused_by_name(tmp_path: Path, base: Path) -> None:
    config = peft.PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM")
    save_adapter(tmp_path / "adapter", base, config)
    with pytest.raises(DamagedModelError, match=r"PROMPT_TUNING.*virtual tokens"):
        find_model(str(tmp_path / "adapter")).check()
