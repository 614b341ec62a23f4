"""Test that `sra_fast.monitor` watches the user's own calls of a model."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import sra_fast
from marked_batches import marked_batch
from model_families import FAMILIES, HYBRIDS, Family
from sra_fast.measure.served import UnservedModelError

LLAMA = FAMILIES[0]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_a_watched_call_gives_the_scores_of_score(family: Family, side: str) -> None:
    batch = marked_batch((40, 29, 33), side)
    model = family.build()
    with sra_fast.monitor(model, keep_rows=True) as watch, torch.no_grad():
        positions = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
        model(**batch, position_ids=positions, use_cache=False)
    wanted = sra_fast.score(model, batch, keep_rows=True)
    (found,) = watch.results
    for index in range(len(wanted)):
        torch.testing.assert_close(found.rows(index), wanted.rows(index), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.sra, wanted.sra, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", [f for f in FAMILIES if not f.hybrid], ids=str)
def test_packed_rows_of_the_users_own_are_told_apart(family: Family) -> None:
    model, lengths = family.build(), (29, 40)
    rows = [marked_batch((length,)) for length in lengths]
    packed: dict[str, Any] = {
        key: torch.cat([row[key] for row in rows], dim=1)
        for key in ("input_ids", "strategy_mask", "response_mask")
    }
    packed["position_ids"] = torch.cat([torch.arange(length) for length in lengths])[None]
    with sra_fast.monitor(model) as watch, torch.no_grad():
        model(**packed, use_cache=False)
    alone = torch.cat([sra_fast.score(model, row).sra for row in rows])
    torch.testing.assert_close(watch.results[0].sra, alone, rtol=1e-4, atol=1e-6)


def test_outputs_and_gradients_are_the_models_own() -> None:
    batch = marked_batch((40, 29))
    plain = {key: batch[key] for key in ("input_ids", "attention_mask")}
    labels = batch["input_ids"].masked_fill(batch["response_mask"] == 0, -100)
    grads = []
    outputs = []
    for watched in (False, True):
        model = LLAMA.build()
        if watched:
            with sra_fast.monitor(model) as watch:
                out = model(**batch, labels=labels)
        else:
            out = model(**plain, labels=labels)
        out.loss.backward()
        outputs.append(out)
        grads.append(model.model.layers[0].self_attn.k_proj.weight.grad)
    assert outputs[0].keys() == outputs[1].keys()
    torch.testing.assert_close(outputs[1].loss, outputs[0].loss)
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-4, atol=1e-6)
    assert not watch.results[0].sra.requires_grad


def test_calls_without_masks_are_left_alone_and_generation_works() -> None:
    model, batch = LLAMA.build(), marked_batch((40,))

    def calls() -> list[Any]:
        with sra_fast.monitor(model) as watch:
            model(batch["input_ids"])
            model.generate(batch["input_ids"], max_new_tokens=3, do_sample=False)
        return watch.results

    with pytest.warns(UserWarning, match="nothing was recorded"):
        found = calls()
    assert found == []


def test_positional_token_ids_and_several_calls() -> None:
    model, batch = LLAMA.build(), marked_batch((40,))
    ids = batch.pop("input_ids")
    with sra_fast.monitor(model) as watch:
        model(ids, **batch)
        model(ids, **batch)
    assert len(watch.results) == 2
    assert torch.equal(watch.results[0].sra, watch.results[1].sra)


def test_a_positional_attention_mask_is_refused() -> None:
    model, batch = LLAMA.build(), marked_batch((40, 29), "left")
    ids, mask = batch.pop("input_ids"), batch.pop("attention_mask")
    with sra_fast.monitor(model), pytest.raises(ValueError, match="by keyword"):
        model(ids, mask, **batch)


def test_packed_embeddings_are_told_apart_too() -> None:
    model, rows = LLAMA.build(), [marked_batch((length,)) for length in (29, 40)]
    marks = {
        key: torch.cat([row[key] for row in rows], dim=1)
        for key in ("strategy_mask", "response_mask")
    }
    ids = torch.cat([row["input_ids"] for row in rows], dim=1)
    positions = torch.cat([torch.arange(29), torch.arange(40)])[None]
    with sra_fast.monitor(model) as watch, torch.no_grad():
        embeddings = model.get_input_embeddings()(ids)
        model(inputs_embeds=embeddings, position_ids=positions, use_cache=False, **marks)
    alone = torch.cat([sra_fast.score(model, row).sra for row in rows])
    torch.testing.assert_close(watch.results[0].sra, alone, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("reentrant", [False, True])
def test_with_checkpointing_gradients_are_the_models_own(reentrant: bool) -> None:
    batch = marked_batch((40, 29))
    plain = {key: batch[key] for key in ("input_ids", "attention_mask")}
    labels = batch["input_ids"].masked_fill(batch["response_mask"] == 0, -100)
    grads = []
    for watched in (False, True):
        model = LLAMA.build().train()
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        model.enable_input_require_grads()
        if watched:
            with sra_fast.monitor(model) as watch:
                model(**batch, labels=labels, use_cache=False).loss.backward()
        else:
            model(**plain, labels=labels, use_cache=False).loss.backward()
        grads.append(model.model.layers[0].self_attn.k_proj.weight.grad)
    assert len(watch.results) == 1
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-3, atol=1e-6)


def test_a_failed_call_leaves_nothing_for_the_next() -> None:
    model, batch = LLAMA.build(), marked_batch((40,))
    with sra_fast.monitor(model) as watch:
        handle = model.model.layers[1].register_forward_pre_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model(**batch)
        handle.remove()
        model(input_ids=batch["input_ids"])
        assert watch.results == []
        model(**batch)
    assert len(watch.results) == 1


def test_afterwards_the_model_is_as_it_was() -> None:
    model = LLAMA.build()
    with pytest.warns(UserWarning, match="nothing was recorded"), sra_fast.monitor(model):
        assert model.config._attn_implementation == "sra_fast"
    assert model.config._attn_implementation == "sdpa"
    assert not model._forward_hooks
    assert not model._forward_pre_hooks


def test_packed_rows_of_a_hybrid_are_refused() -> None:
    model, batch = HYBRIDS[0].build(), marked_batch((40,))
    del batch["attention_mask"]
    positions = torch.cat([torch.arange(20), torch.arange(20)])[None]
    with (
        sra_fast.monitor(model),
        pytest.raises(ValueError, match="carries a state along the row"),
    ):
        model(**batch, position_ids=positions)


def test_masks_of_another_shape_than_the_call_are_refused() -> None:
    model, batch = LLAMA.build(), marked_batch((40,))
    batch["strategy_mask"] = batch["strategy_mask"][:, 1:]
    with sra_fast.monitor(model), pytest.raises(ValueError, match="expected shape"):
        model(**batch)


def test_a_model_that_is_not_served_is_refused_at_once() -> None:
    from model_families import NOT_SERVED

    with pytest.raises(UnservedModelError), sra_fast.monitor(NOT_SERVED.build()):
        pass


def test_profiles_are_recorded_from_calls_of_ones_own() -> None:
    model = LLAMA.build()
    batch = marked_batch((40, 33))
    batch |= {"source_ids": torch.ones(2, 40, dtype=torch.int32), "source_names": ["all"]}
    wanted = sra_fast.score(model, batch, profile="layers")
    with (
        sra_fast.monitor(model, profile="layers") as watch,
        sra_fast.monitor(model, profile="layers") as other,
    ):
        model(**batch)
    for recorder in (watch, other):
        (found,) = recorder.results
        for i in range(len(wanted)):
            torch.testing.assert_close(found.profile(i), wanted.profile(i), atol=1e-6, rtol=0)
            assert torch.equal(found.token_ids(i), wanted.token_ids(i))
            torch.testing.assert_close(found.source_masses(i), wanted.source_masses(i))


def test_sources_without_a_profile_are_refused() -> None:
    model = LLAMA.build()
    batch = {**marked_batch((40,)), "source_ids": torch.ones(1, 40, dtype=torch.int32)}
    with sra_fast.monitor(model), pytest.raises(ValueError, match='give profile="mean"'):
        model(**batch)


def test_profiles_of_two_kinds_at_once_are_refused() -> None:
    model = LLAMA.build()
    with (
        sra_fast.monitor(model, profile="mean"),
        pytest.raises(ValueError, match="watched already"),
        sra_fast.monitor(model, profile="heads"),
    ):
        pass
    with sra_fast.monitor(model), sra_fast.monitor(model) as last:
        with sra_fast.monitor(model, profile="mean"):
            model(**marked_batch((40,)))
        with sra_fast.monitor(model, profile="heads") as other:  # the first has left
            model(**marked_batch((40,)))
    assert [found.profile(0).ndim for found in other.results] == [3]
    assert len(last.results) == 2
    unknown: Any = "all"
    with pytest.raises(ValueError, match="profile: expected"):
        sra_fast.monitor(model, profile=unknown).__enter__()
