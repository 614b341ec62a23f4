"""Test `sra_fast.score` against the models' own eager maps, and what it leaves behind."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

import sra_fast
from marked_batches import SPAN, eager_maps, marked_batch, response_positions
from model_families import (
    DENSE,
    FAMILIES,
    MULTIMODAL,
    NOT_SERVED,
    VARIANTS,
    VOCABULARY,
    Family,
    random_tokens,
)
from sra_fast.measure import packing
from sra_fast.measure.packing import forwards
from sra_fast.measure.served import UnservedModelError, serve
from sra_fast.measure.trial import tried
from sra_fast.names import FORWARD_TOKENS

LLAMA = DENSE[0]
LENGTHS = (40, 29, 33)
BOTH_SIDES_OF_THE_LIMITS = (90, 25, 40, 31, 33, 28)

each_family = pytest.mark.parametrize("family", FAMILIES + VARIANTS, ids=str)


def after_its_trial(model: PreTrainedModel) -> PreTrainedModel:
    """Return a model that has been tried on a few tokens, so that what runs next is its score."""
    tried(serve(model))
    return model


def tolerance(family: Family) -> float:
    return 1e-5 if family.hybrid else 1e-6


# --- the masses ---


@pytest.mark.parametrize("backend", ["lse", "reference"])
@pytest.mark.parametrize("side", ["left", "right"])
@each_family
def test_masses_are_those_of_the_models_own_maps(family: Family, side: str, backend: Any) -> None:
    batch = marked_batch(LENGTHS, side)
    result = sra_fast.score(family.build(), batch, keep_rows=True, backend=backend)
    assert result.layers == family.attention_layers
    assert result.names == ("strategy", "strategy_head", "null")
    index = 0
    for length in LENGTHS:
        maps = eager_maps(family, length)
        for positions in response_positions(length):
            rows = maps[:, :, [positions[0] - 1, *positions]].transpose(1, 2)  # [L, R, H, T]
            sets = (SPAN, SPAN[:-1], [0])
            wanted = torch.stack([rows[..., list(keys)].sum(-1) for keys in sets], dim=-1)
            torch.testing.assert_close(result.rows(index).double(), wanted, rtol=0, atol=1e-5)
            index += 1
    assert len(result) == index


@each_family
def test_a_score_is_the_same_alone_and_in_any_batch(family: Family) -> None:
    model = family.build()
    together = sra_fast.score(model, marked_batch(BOTH_SIDES_OF_THE_LIMITS))
    few = sra_fast.score(model, marked_batch(BOTH_SIDES_OF_THE_LIMITS, "left"), forward_tokens=70)
    for row, length in enumerate(BOTH_SIDES_OF_THE_LIMITS):
        alone = sra_fast.score(model, marked_batch((length,)))
        for many in (together, few):
            for name, score in alone.scores.items():
                ours = many.scores[name][2 * row : 2 * row + 2]
                torch.testing.assert_close(ours, score, rtol=1e-5, atol=tolerance(family))


@each_family
def test_an_earlier_long_prompt_changes_no_later_score(family: Family) -> None:
    model, fresh = family.build(), family.build()
    sra_fast.score(model, marked_batch((90,)))
    later, first = (sra_fast.score(m, marked_batch((40,))) for m in (model, fresh))
    assert torch.equal(later.sra, first.sra)


def test_a_long_prompt_of_the_users_own_changes_no_later_score() -> None:
    family = next(family for family in VARIANTS if family.name == "llama_dynamic")
    model, fresh = family.build(), family.build()
    with torch.no_grad():
        model(random_tokens(1, 90))
        before = model(random_tokens(1, 40)).logits
    scored, wanted = (sra_fast.score(m, marked_batch((40,))) for m in (model, fresh))
    assert torch.equal(scored.sra, wanted.sra)
    with torch.no_grad():
        assert torch.equal(model(random_tokens(1, 40)).logits, before)


# --- the definitions, from whole maps and by their formulas in the paper's words ---


def by_hand(maps: Tensor, positions: list[int]) -> dict[str, Tensor]:
    """Return the paper's four definitions of a ``[L, H, T, T]`` map, ``[L]`` each."""
    responses = maps[:, :, positions].mean(dim=1)[..., list(SPAN)]  # [L, R, span]
    without = maps[:, :, [at - 1 for at in positions]].mean(dim=1).clone()  # [L, R, T]
    without[..., 0] = 0.0
    without = without / without.sum(dim=-1, keepdim=True)
    head = without[..., list(SPAN[:-1])].mean(dim=-1)
    return {
        "paper": responses.mean(dim=(1, 2)),
        "mass": responses.sum(dim=2).mean(dim=1),
        "reference": head.mean(dim=1),
        "table1": head[:, 0],
    }


@each_family
def test_definitions_are_those_of_the_whole_map(family: Family) -> None:
    result = sra_fast.score(family.build(), marked_batch((40,)))
    maps = eager_maps(family, 40)
    for index, positions in enumerate(response_positions(40)):
        for name, wanted in by_hand(maps, positions).items():
            found = result.by_layer[name][index, 0]  # type: ignore[index]
            torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-6)
            mean = result.scores[name][index]  # type: ignore[index]
            torch.testing.assert_close(mean.double(), wanted.mean(), rtol=1e-4, atol=1e-6)


def test_a_span_that_holds_the_null_key_counts_it_as_zero() -> None:
    batch = marked_batch((40,))
    batch["strategy_mask"][0, :3] = True
    result = sra_fast.score(LLAMA.build(), batch)
    maps = eager_maps(LLAMA, 40)
    without = maps[:, :, [at - 1 for at in response_positions(40)[0]]].mean(dim=1).clone()
    without[..., 0] = 0.0
    without = without / without.sum(dim=-1, keepdim=True)
    wanted = without[..., :6].mean()
    torch.testing.assert_close(result.scores["reference"][0].double(), wanted, rtol=1e-5, atol=0)


def test_several_spans_are_scored_in_one_pass() -> None:
    batch = marked_batch((40, 29))
    one = sra_fast.score(LLAMA.build(), batch)
    other = torch.zeros_like(batch["strategy_mask"])
    other[:, 8:11] = True
    none = torch.zeros_like(other)
    batch["span_masks"] = {"strategy": batch.pop("strategy_mask"), "document": other, "tool": none}
    three = sra_fast.score(LLAMA.build(), batch)
    torch.testing.assert_close(three.sra, one.sra, rtol=1e-6, atol=1e-8)
    maps = eager_maps(LLAMA, 40)[:, :, response_positions(40)[0]]
    wanted = maps[..., 8:11].mean()
    torch.testing.assert_close(
        three.score("paper", "document")[0].double(), wanted, rtol=1e-5, atol=0
    )
    assert three.score("mass", "tool").isnan().all()
    assert (three.mass[..., three.names.index("tool")] == 0).all()


def test_the_mean_masses_are_of_the_responses_own_rows() -> None:
    result = sra_fast.score(LLAMA.build(), marked_batch((40,)), keep_rows=True)
    torch.testing.assert_close(result.mass[0], result.rows(0)[:, 1:].mean(dim=1))


def test_a_boolean_response_mask_is_one_response() -> None:
    batch = marked_batch((40,))
    batch["response_mask"] = batch["response_mask"] == 2
    found = sra_fast.score(LLAMA.build(), batch)
    assert len(found) == 1
    torch.testing.assert_close(
        found.sra[0], sra_fast.score(LLAMA.build(), marked_batch((40,))).sra[1]
    )


def test_conversation_and_turn_columns_come_from_the_batch_or_its_order() -> None:
    batch = marked_batch((40, 29))
    plain = sra_fast.score(LLAMA.build(), batch)
    assert plain.conversation.tolist() == [0, 0, 1, 1]
    assert plain.turn.tolist() == [1, 2, 1, 2]
    batch["conversation"] = torch.tensor([7, 5])
    batch["turns"] = torch.tensor([[3, 4], [9, 11]])
    named = sra_fast.score(LLAMA.build(), batch)
    assert named.conversation.tolist() == [7, 7, 5, 5]
    assert named.turn.tolist() == [3, 4, 9, 11]


def test_the_result_says_how_each_turn_is_laid_out_if_the_batch_does(tmp_path: Path) -> None:
    batch = marked_batch((40, 29))
    assert sra_fast.score(LLAMA.build(), batch).as_written is None
    batch["as_written"] = torch.tensor([[True, False], [False, True]])
    told = sra_fast.score(LLAMA.build(), batch)
    assert told.as_written is not None
    assert told.as_written.tolist() == [True, False, False, True]
    assert told.take([3, 1]).to_pandas()["layout"].tolist() == ["as_written", "as_generated"]
    told.save(tmp_path / "told.safetensors")
    assert torch.equal(
        told.as_written, sra_fast.SRAResult.load(tmp_path / "told.safetensors").as_written
    )
    with pytest.raises(ValueError, match="a known layout"):
        sra_fast.SRAResult.concatenate([told, sra_fast.score(LLAMA.build(), marked_batch((40,)))])


# --- what it costs and what it leaves behind ---


def test_no_logits_no_cache_and_nothing_after_the_last_mass() -> None:
    model = after_its_trial(LLAMA.build())
    ran: list[str] = []
    for name, module in model.named_modules():
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
    sra_fast.score(model, marked_batch((40,)))
    last = model.config.num_hidden_layers - 1
    assert "model.layers.0.mlp" in ran
    assert "lm_head" not in ran
    assert f"model.layers.{last}.self_attn.q_proj" in ran
    assert f"model.layers.{last}.self_attn.o_proj" not in ran
    assert f"model.layers.{last}.mlp" not in ran


def test_padding_is_not_computed() -> None:
    model, seen = after_its_trial(LLAMA.build()), []
    model.model.layers[0].register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[:2]))
    sra_fast.score(model, marked_batch(LENGTHS, "left"))
    assert seen == [(1, sum(LENGTHS))]


def test_forwards_hold_no_more_tokens_than_allowed() -> None:
    model, seen = after_its_trial(LLAMA.build()), []
    model.model.layers[0].register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    sra_fast.score(model, marked_batch((30, 30, 90, 30, 30)), forward_tokens=60)
    assert seen == [60, 90, 60]
    assert FORWARD_TOKENS >= 8192


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_as_it_was_whatever_happens(fails: bool) -> None:
    model = after_its_trial(MULTIMODAL.build())
    model.train()
    model.model.vision_tower.eval()
    modes = {name: module.training for name, module in model.named_modules()}
    configs = [model.config, model.config.text_config, model.config.vision_config]
    before = [config._attn_implementation for config in configs]
    if fails:
        decoder = model.get_decoder()
        decoder.layers[1].mlp.register_forward_pre_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            sra_fast.score(model, marked_batch((40,)))
    else:
        sra_fast.score(model, marked_batch((40,)))
    assert [config._attn_implementation for config in configs] == before
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert all(parameter.grad is None for parameter in model.parameters())


def test_threads_that_score_with_one_model_take_turns() -> None:
    model, batch = LLAMA.build(), marked_batch(LENGTHS, "left")
    model.set_attn_implementation("sdpa")
    wanted = sra_fast.score(LLAMA.build(), batch).mass
    # A layer that lets other threads run in the middle of a forward pass.
    model.model.layers[0].mlp.register_forward_hook(lambda *_: time.sleep(0.005))
    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(lambda _: sra_fast.score(model, batch).mass, range(6)))
    assert all(torch.equal(mass, wanted) for mass in found)
    assert model.config._attn_implementation == "sdpa"


def test_the_text_part_of_a_multimodal_model_is_scored() -> None:
    result = sra_fast.score(MULTIMODAL.build(), marked_batch((40,)), keep_rows=True)
    maps = eager_maps(MULTIMODAL, 40)
    positions = response_positions(40)[0]
    wanted = maps[:, :, [positions[0] - 1, *positions]].transpose(1, 2)[..., list(SPAN)].sum(-1)
    torch.testing.assert_close(result.rows(0)[..., 0].double(), wanted, rtol=0, atol=1e-5)


def test_a_model_with_lora_adapters_is_scored_with_them() -> None:
    peft = pytest.importorskip("peft")
    batch = marked_batch((40,))
    plain = sra_fast.score(LLAMA.build(), batch)
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "k_proj"], init_lora_weights=False)
    wrapped = peft.get_peft_model(LLAMA.build(), config)
    adapted = sra_fast.score(wrapped, batch)
    merged = sra_fast.score(wrapped.merge_and_unload(), batch)
    torch.testing.assert_close(adapted.sra, merged.sra, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(adapted.sra, plain.sra, rtol=1e-2)


def test_a_compiled_model_is_scored() -> None:
    batch = marked_batch((40,))
    model = LLAMA.build()
    wanted = sra_fast.score(model, batch)
    assert torch.equal(sra_fast.score(torch.compile(model), batch).sra, wanted.sra)
    model.get_decoder().compile(backend="eager")
    torch.testing.assert_close(sra_fast.score(model, batch).sra, wanted.sra)


def test_an_offloaded_model_is_scored_and_keeps_its_hooks() -> None:
    accelerate = pytest.importorskip("accelerate")
    batch = marked_batch((40,))
    wanted = sra_fast.score(LLAMA.build(), batch)
    model = accelerate.cpu_offload(LLAMA.build(), execution_device="cpu")
    torch.testing.assert_close(sra_fast.score(model, batch).sra, wanted.sra)
    assert all(parameter.device.type == "meta" for parameter in model.parameters())


def test_bfloat16_scores_lie_near_those_of_float32() -> None:
    batch = marked_batch((40, 29))
    wanted = sra_fast.score(LLAMA.build(), batch).sra
    found = sra_fast.score(LLAMA.build().bfloat16(), batch).sra
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, rtol=0.1, atol=1e-3)


# --- refusals ---


def test_a_model_outside_the_interface_is_refused_by_name() -> None:
    with pytest.raises(UnservedModelError, match=r"FalconForCausalLM does not follow"):
        sra_fast.score(NOT_SERVED.build(), marked_batch((40,)))


def test_a_model_that_does_not_pass_the_request_on_is_refused() -> None:
    model = LLAMA.build()
    layer = model.model.layers[1].self_attn
    layer.register_forward_pre_hook(
        lambda _, args, kwargs: (args, {k: v for k, v in kwargs.items() if k != "sra_request"}),
        with_kwargs=True,
    )
    with pytest.raises(UnservedModelError, match=r"LlamaModel \(llama\).* layers \[1\]"):
        sra_fast.score(model, marked_batch((40,)))


def test_attention_modules_that_share_an_index_are_refused() -> None:
    model = LLAMA.build()
    model.model.layers[2].self_attn.layer_idx = 1
    with pytest.raises(UnservedModelError, match="several attention modules under layer_idx 1"):
        sra_fast.score(model, marked_batch((40,)))


def test_a_decoder_that_takes_no_positions_gets_one_sequence_at_a_time() -> None:
    served = tried(serve(LLAMA.build()))
    assert [forward.members for forward in forwards(served, [30, 20], 99)] == [(0, 1)]
    without = replace(served, takes_positions=False)
    assert [forward.members for forward in forwards(without, [30, 20], 99)] == [(0,), (1,)]


def test_where_masks_count_chunks_from_the_rows_start_nothing_is_packed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chunked = next(family for family in FAMILIES if family.name == "llama4")
    monkeypatch.setattr(packing, "_CHUNKS_COUNT_FROM_THE_SEQUENCE", False)
    for family, groups in ((chunked, [(0,), (1,)]), (LLAMA, [(0, 1)])):
        found = forwards(tried(serve(family.build())), [30, 20], 99)
        assert [forward.members for forward in found] == groups


def test_prompt_learning_is_refused() -> None:
    peft = pytest.importorskip("peft")
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    with pytest.raises(UnservedModelError, match="virtual prompt tokens"):
        sra_fast.score(peft.get_peft_model(LLAMA.build(), config), marked_batch((40,)))


def test_something_that_is_no_model_is_refused() -> None:
    with pytest.raises(UnservedModelError, match="expected a transformers model, got Linear"):
        sra_fast.score(nn.Linear(2, 2), marked_batch((40,)))


@pytest.mark.parametrize(
    ("batch", "says"),
    [
        ("hello", "as sra_fast.mark makes it of a prompt .*, got str"),
        ([marked_batch((40,))] * 2, "sra_fast.join makes one batch of several"),
        ([{"role": "user", "content": "Hi"}], "sra_fast.mark"),
        ([{"messages": []}], "sra_fast.encode"),
    ],
)
def test_what_is_no_batch_is_refused_with_the_way_to_one(batch: Any, says: str) -> None:
    with pytest.raises(TypeError, match=says):
        sra_fast.score(LLAMA.build(), batch)


@pytest.mark.parametrize("unknown", [-100, VOCABULARY])
def test_a_token_without_an_embedding_is_refused_by_its_place_unless_it_is_padding(
    unknown: int,
) -> None:
    batch = marked_batch((40, 30))
    batch["input_ids"][1, 35] = unknown
    sra_fast.score(LLAMA.build(), batch)
    batch["input_ids"][1, 20] = unknown
    says = rf"row 1: token id {unknown} at position 20, .* embeddings for 0 to {VOCABULARY - 1}"
    with pytest.raises(ValueError, match=says):
        sra_fast.score(LLAMA.build(), batch)


def test_nan_in_the_hidden_states_is_an_error_that_names_row_and_layer() -> None:
    model = LLAMA.build()
    batch = marked_batch((40, 29))
    with torch.no_grad():
        model.model.embed_tokens.weight[batch["input_ids"][1, 2]] = torch.nan
        batch["input_ids"][0][batch["input_ids"][0] == batch["input_ids"][1, 2]] = 3
    with pytest.raises(ValueError, match=r"row 1: the attention mass of layer 0 is not finite"):
        sra_fast.score(model, batch)


def test_a_prompt_beyond_the_context_is_refused() -> None:
    with pytest.raises(ValueError, match=r"row 1: 600 tokens, and LlamaModel \(llama\) reaches"):
        sra_fast.score(LLAMA.build(), marked_batch((40, 600)))


def _without(key: str) -> Any:
    return lambda batch: batch.pop(key)


def _set(key: str, value: Any) -> Any:
    return lambda batch: batch.__setitem__(key, value(batch))


def _fill(key: str, where: Any, value: Any) -> Any:
    return lambda batch: batch[key].__setitem__(where, value)


@pytest.mark.parametrize(
    ("message", "spoil"),
    [
        ("needs `input_ids`", _without("input_ids")),
        ("the batch is empty", lambda b: b.update({k: v[:0] for k, v in b.items()})),
        ("needs `strategy_mask`", _without("strategy_mask")),
        ("needs `response_mask`", _without("response_mask")),
        ("has both `strategy_mask` and", _set("span_masks", lambda b: {"a": b["strategy_mask"]})),
        ("strategy_mask: expected dtype", _set("strategy_mask", lambda b: b["response_mask"])),
        ("response_mask: expected dtype", _set("response_mask", lambda b: b["input_ids"] / 2)),
        ("strategy_mask: expected shape", _set("strategy_mask", lambda b: b["strategy_mask"].T)),
        ("input_ids: expected a tensor", _set("input_ids", lambda b: b["input_ids"].tolist())),
        ("input_ids: expected a tensor", _set("input_ids", lambda b: b["input_ids"][0])),
        ("turns: expected a tensor", _set("turns", lambda b: [[1]])),
        ("turns: expected a tensor", _set("turns", lambda b: torch.ones(2))),
        ("as_written: expected a tensor", _set("as_written", lambda b: [[True, False]] * 2)),
        ("response_mask: expected a tensor", _set("response_mask", lambda b: [[1]])),
        ("attention_mask: expected shape", _set("attention_mask", lambda b: b["input_ids"][:1])),
        ("input_ids: expected int64", _set("input_ids", lambda b: b["input_ids"].float())),
        ("row 1: no token is marked as 'strategy'", _fill("strategy_mask", 1, False)),
        ("row 1: response_mask marks no token at positions 0 to 28", _fill("response_mask", 1, 0)),
        ("start at 1", _fill("response_mask", (1, 3), -1)),
        ("row 1: a mask marks position 39, which is padding", _fill("response_mask", (1, 39), 1)),
        ("row 1: a mask marks position 30", _fill("strategy_mask", (1, 30), True)),
        ("attention_mask: row 1 has a hole", _fill("attention_mask", (1, 7), 0)),
        ("attention_mask: row 1 is empty", _fill("attention_mask", 1, 0)),
        ("row 0: a response starts at the sequence's first", _fill("response_mask", (0, 0), 3)),
        (r"conversation: expected a tensor \[B\]", _set("conversation", lambda b: ["a", "b"])),
        ("turns: row 0 has no turn number", _set("turns", lambda b: torch.ones(2, 1))),
    ],
)
def test_masks_that_do_not_fit_are_refused(message: str, spoil: Any) -> None:
    batch = marked_batch((40, 29))
    spoil(batch)
    with pytest.raises((ValueError, KeyError), match=message):
        sra_fast.score(LLAMA.build(), batch)


def test_more_spans_than_fit_and_reserved_names_are_refused() -> None:
    batch = marked_batch((40,))
    mask = batch.pop("strategy_mask")
    for spans, message in (
        ({str(i): mask for i in range(16)}, "at most 15 spans"),
        ({"null": mask}, "derives itself"),
        ({"a": mask, "a_head": mask}, "derives itself"),
        ({}, "at least one span"),
    ):
        with pytest.raises(ValueError, match=message):
            sra_fast.score(LLAMA.build(), {**batch, "span_masks": spans})


@pytest.mark.parametrize("definition", ["reference", "table1"])
def test_a_span_of_one_token_has_no_head(definition: Any) -> None:
    batch = marked_batch((40,))
    batch["strategy_mask"][0, 4:] = False
    with pytest.raises(ValueError, match="has only one"):
        sra_fast.score(LLAMA.build(), batch, definition=definition)
    assert sra_fast.score(LLAMA.build(), batch).scores[definition].isnan().all()


def test_an_unknown_definition_is_refused() -> None:
    with pytest.raises(KeyError, match="no definition 'sra'; there are paper, mass"):
        sra_fast.score(LLAMA.build(), marked_batch((40,)), definition="sra")  # type: ignore[arg-type]


@pytest.mark.parametrize("tokens", [0, -5])
def test_a_forward_pass_of_no_tokens_is_refused(tokens: int) -> None:
    with pytest.raises(ValueError, match=f"forward_tokens must be at least 1, got {tokens}"):
        sra_fast.score(DENSE[0].build(), marked_batch((30,)), forward_tokens=tokens)
