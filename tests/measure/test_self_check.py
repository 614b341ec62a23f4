"""Test that a model whose measured attention is not its own is refused, and others left alone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaAttention

import sra_fast
from marked_batches import marked_batch
from model_families import FAMILIES, VARIANTS, Family
from sra_fast.measure import attention, self_check
from sra_fast.measure.self_check import SelfCheckError
from sra_fast.measure.served import UnservedModelError, serve

FAMILY = {family.name: family for family in (*FAMILIES, *VARIANTS)}
BATCH = marked_batch((24,))


@pytest.fixture(autouse=True)
def nothing_was_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_check, "_CHECKED", {})


def checked(model: Any, **options: Any) -> str:
    return sra_fast.score(model, BATCH, **options).checked


class Lying(LlamaAttention):
    """An attention whose scale is another one unless it is eager."""

    factor = 1.01

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        true = self.scaling
        try:
            if self.config._attn_implementation != "eager":
                self.scaling = true * self.factor
            return super().forward(*args, **kwargs)
        finally:
            self.scaling = true


class Secretive(LlamaAttention):
    """An attention that shows no map."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return super().forward(*args, **kwargs)[0], None


class Mixing(nn.Module):
    """Carries a state along the row, and nothing says so."""

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + hidden.cumsum(dim=1)


def llama(attention_class: type | None = None, layers: tuple[int, ...] = (1, 2)) -> Any:
    model: Any = FAMILY["llama"].build()
    for layer in layers if attention_class else ():
        model.model.layers[layer].self_attn.__class__ = attention_class
    return model


def family(name: str, **config: Any) -> Any:
    """Build a model of a family whose configuration differs in some fields."""
    build: Any = FAMILY[name].build
    return build.func(build.args[0], build.args[1] | config)


# --- what passes and what does not ---


@pytest.mark.parametrize("kind", FAMILY.values(), ids=str)
def test_every_family_passes(kind: Family) -> None:
    assert checked(kind.build()) == "passed"


def test_a_family_with_a_wrong_scale_is_refused_by_its_first_wrong_layer() -> None:
    with pytest.raises(SelfCheckError, match=r"in layer 1, a mass of head \d differs by") as found:
        checked(llama(Lying))
    assert found.value.layer == 1
    assert 1e-4 < found.value.difference < 1
    assert isinstance(found.value, UnservedModelError)


def test_in_half_precision_only_gross_faults_are_refused() -> None:
    assert checked(llama().to(torch.bfloat16)) == "passed"
    assert checked(llama(Lying).to(torch.bfloat16)) == "passed"

    class Gross(Lying):
        factor = 3.0

    with pytest.raises(SelfCheckError, match=r"in layer 1, \d+% of the attention lies elsewhere"):
        checked(llama(Gross).to(torch.bfloat16))


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("mistral", {"sliding_window": 40}),
        ("llama4", {"attention_chunk_size": 40}),
        ("gpt_oss", {"sliding_window": 40}),
    ],
)
def test_a_window_that_is_longer_than_the_tokens_is_looked_at(
    monkeypatch: pytest.MonkeyPatch, name: str, config: dict[str, int]
) -> None:
    assert checked(family(name, **config)) == "passed"
    monkeypatch.setattr(self_check, "_CHECKED", {})
    attend: Callable[..., Any] = attention.attention

    def blind(module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Any, **kwargs: Any) -> Any:
        kwargs["sliding_window"] = None
        module = copy.copy(module)
        module.config = copy.copy(module.config)
        module.config.layer_types = None
        return attend(module, q, k, v, None, **kwargs)

    monkeypatch.setattr(attention, "attention", blind)
    with pytest.raises(SelfCheckError, match=r"in layer 0, the token at position \d+ does not see"):
        checked(family(name, **config))


def test_a_model_that_cannot_be_packed_and_does_not_say_so_is_refused() -> None:
    model = llama()
    model.model.layers[0].mlp = nn.Sequential(Mixing(), model.model.layers[0].mlp)
    with pytest.raises(SelfCheckError, match="in layer 1"):
        checked(model)


# --- what is left as it was ---


def state(model: Any) -> list[Any]:
    """Return modes, hooks, implementations, rotary state and random numbers of a model."""
    rotary = model.model.rotary_emb
    return [
        [module.training for module in model.modules()],
        [len(module._forward_hooks) for module in model.modules()],
        [len(module._forward_pre_hooks) for module in model.modules()],
        [sorted(vars(module)) for module in model.modules()],
        model.config._attn_implementation,
        rotary.inv_freq.tolist(),
        getattr(rotary, "max_seq_len_cached", None),
        torch.get_rng_state().tolist(),
        torch.is_grad_enabled(),
        [parameter._version for parameter in model.parameters()],
    ]


class Random(Lying):
    """An attention that draws a random number, and has the scale of the class above."""

    factor = 1.0

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        torch.rand(1)
        return super().forward(*args, **kwargs)


class Wrong(Random):
    factor = 2.0


class Failing(LlamaAttention):
    """An attention that fails when it is eager."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.config._attn_implementation == "eager":
            raise RuntimeError("no eager today")
        return super().forward(*args, **kwargs)


@pytest.mark.parametrize("attention_class", [Random, Wrong, Failing])
@pytest.mark.parametrize("name", ["llama", "llama_dynamic"])
def test_a_check_leaves_everything_as_it_was(attention_class: type, name: str) -> None:
    model: Any = FAMILY[name].build()
    model.model.layers[1].self_attn.__class__ = attention_class
    model.train()
    model.model.layers[0].eval()
    with torch.no_grad():
        model(torch.arange(3, 63)[None])  # beyond the limit of the dynamic kind
    before = state(model)
    served = serve(model)
    try:
        outcome = self_check.self_check(served, "auto")
    except SelfCheckError:
        outcome = "refused"
    wanted = {Random: "passed", Wrong: "refused"}
    assert outcome == wanted.get(
        attention_class,
        "skipped: it does not run on 12 tokens (RuntimeError: no eager today)",
    )
    assert state(model) == before


# --- when it is done ---


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """The implementation of every forward pass of a Llama."""
    from transformers import LlamaModel

    seen: list[str | None] = []
    run = LlamaModel.forward

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(self.config._attn_implementation)
        return run(self, *args, **kwargs)

    monkeypatch.setattr(LlamaModel, "forward", counted)
    return seen


def test_a_class_and_configuration_is_checked_once(forwards: list[str | None]) -> None:
    assert [checked(llama()) for _ in range(3)] == ["passed"] * 3
    assert forwards.count("eager") == 1
    assert checked(family("llama", rms_norm_eps=1e-5)) == "passed"
    assert forwards.count("eager") == 2
    assert checked(llama(Random)) == "passed"  # a layer of another class
    assert forwards.count("eager") == 3


def test_the_check_goes_on_from_the_trials_first_run() -> None:
    model, widths = llama(), []
    model.get_input_embeddings().register_forward_hook(
        lambda _, args, out: widths.append(args[0].shape[1])
    )
    assert checked(model) == "passed"
    trial, check = [4, 4], [sum(self_check.LENGTHS), self_check.LENGTHS[-1]]
    assert widths == [*trial, *check, 24]
    self_check._CHECKED.clear()
    assert checked(model) == "passed"  # the trial is over, so the check makes that run itself
    assert widths[5:] == [4, *check, 24]


class Maskless(LlamaAttention):
    """An attention that takes no mask but the eager one."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if (mask := kwargs["attention_mask"]) is not None and mask.ndim == 2:
            raise RuntimeError("no mask today")
        return super().forward(*args, **kwargs)


def test_a_model_that_takes_no_mask_is_scored_without_a_check() -> None:
    model = llama(Maskless)
    assert checked(model) == "skipped: it does not run on 12 tokens (RuntimeError: no mask today)"
    found = sra_fast.score(model, BATCH)
    torch.testing.assert_close(found.sra, sra_fast.score(llama(), BATCH).sra, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt_oss"])
def test_the_first_score_has_the_numbers_of_a_later_one_and_of_the_reference(name: str) -> None:
    batch = marked_batch((40, 29))
    model = FAMILY[name].build()
    first, later = (sra_fast.score(model, batch) for _ in range(2))
    unchecked = sra_fast.score(FAMILY[name].build(), batch, check=False)
    reference = sra_fast.score(model, batch, backend="reference")
    for one in (first.mass, *first.by_layer.values()):
        assert bool(one.isfinite().all())
    for other in (later, unchecked):
        torch.testing.assert_close(other.mass, first.mass, rtol=0, atol=0)
        torch.testing.assert_close(other.by_layer, first.by_layer, rtol=0, atol=0)
    torch.testing.assert_close(first.mass, reference.mass, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(first.by_layer, reference.by_layer, rtol=1e-5, atol=1e-6)


def test_a_refusal_is_not_forgotten() -> None:
    for _ in range(2):
        with pytest.raises(SelfCheckError):
            checked(llama(Lying))


def test_it_can_be_switched_off(forwards: list[str | None]) -> None:
    assert checked(llama(Lying), check=False) == "skipped: switched off"
    assert "eager" not in forwards


def test_a_monitor_checks_nothing(forwards: list[str | None]) -> None:
    model = llama(Lying)
    with sra_fast.monitor(model) as watched:
        model(**BATCH)
    assert watched.results[0].checked == "skipped: measured without a self-check"
    assert len(forwards) == 1


def offloaded() -> Any:
    return accelerate.cpu_offload(llama(), execution_device=torch.device("cpu"))


def compiled_in_place() -> Any:
    model = llama()
    model.model.layers[0].compile(backend="eager")
    return model


def sharded_by_deepspeed() -> Any:
    model = llama()
    model.model.norm.weight.ds_id = 1
    return model


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: torch.compile(llama(), backend="eager"), "the model is compiled"),
        (compiled_in_place, "the model is compiled"),
        (offloaded, "the model is offloaded"),
        (sharded_by_deepspeed, "the model is sharded over processes"),
        (lambda: llama(Secretive), "its eager attention gives no map in layer 1"),
        (
            lambda: llama(Failing),
            "it does not run on 12 tokens (RuntimeError: no eager today)",
        ),
    ],
)
def test_what_cannot_be_checked_is_scored_and_says_so(make: Callable[[], Any], reason: str) -> None:
    result = sra_fast.score(make(), BATCH)
    assert result.checked == f"skipped: {reason}"
    torch.testing.assert_close(result.sra, sra_fast.score(llama(), BATCH).sra)


def test_weights_on_meta_are_not_run() -> None:
    served = serve(llama().to("meta"))
    assert self_check.self_check(served, "auto") == (
        "skipped: weights of the model are on the device meta"
    )


def test_a_broken_checkpoint_is_left_to_the_score_to_tell() -> None:
    model = llama()
    model.model.layers[1].mlp.down_proj.weight.data.fill_(torch.nan)
    with pytest.raises(ValueError, match="row 0: the attention mass of layer 2 is not finite"):
        checked(model)


# --- where it is written ---


def test_a_result_keeps_how_its_check_went(tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    passed, skipped = (sra_fast.score(llama(), BATCH, check=check) for check in (True, False))
    both = sra_fast.SRAResult.concatenate([passed, skipped, passed], renumber=True)
    assert both.checked == "passed; skipped: switched off"
    assert passed.take([1]).checked == "passed"
    both.save(tmp_path / "scores.safetensors")
    assert sra_fast.SRAResult.load(tmp_path / "scores.safetensors").checked == both.checked
    assert both.to_pandas().attrs["checked"] == both.checked


def test_a_file_from_before_there_was_a_check_is_loaded(tmp_path: Path) -> None:
    import json

    from safetensors.torch import load_file, safe_open, save_file

    path = tmp_path / "scores.safetensors"
    sra_fast.score(llama(), BATCH).save(path)
    with safe_open(path, "pt") as file:
        written = json.loads(file.metadata()["sra_fast"])
    del written["checked"]
    save_file(load_file(path), path, {"sra_fast": json.dumps(written)})
    assert sra_fast.SRAResult.load(path).checked == "skipped: measured without a self-check"
