"""Test that a packed or padded training batch has the loss and the SRA of its examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

import sra_fast
from chat_tokenizers import byte_level_bpe
from esconv_data import ESCONV, WHY_ABSENT
from marked_batches import marked_batch
from model_families import DENSE, FAMILIES, HYBRIDS, VARIANTS, Family
from sra_fast.chat.conversations import as_conversations
from sra_fast.chat.conversion import convert
from sra_fast.chat.templates import get_template
from sra_fast.measure.served import serve
from sra_fast.training import PackingCollator, PaddingCollator, why_not_packed
from sra_fast.training.data.examples import ExampleEncoder
from tiny_chat_model import save_tiny_model, talk

BATCH_KEYS = {"input_ids", "position_ids", "labels", "strategy_mask", "response_mask", "strategies"}


def chat_examples(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    encoder = ExampleEncoder(byte_level_bpe(), get_template("standard"), None, 10_000, "drop")
    found = [one.example for one in encoder.encoded(as_conversations(records))]
    return [example for example in found if example is not None]


def random_examples(lengths: Sequence[int]) -> list[dict[str, Any]]:
    """Make token sequences with a span and two responses each, the responses labelled."""
    found = []
    for length in lengths:
        batch = marked_batch((length,))
        row = {key: batch[key][0] for key in ("input_ids", "strategy_mask", "response_mask")}
        labels = row["input_ids"].masked_fill(row["response_mask"] == 0, -100)
        found.append({**row, "labels": labels, "strategy": f"s{length}"})
    return found


def watched(model: Any, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Return the loss and SRA of a call."""
    given = {key: value for key, value in batch.items() if key != "strategies"}
    with sra_fast.monitor(model) as watch, torch.no_grad():
        loss = model(**given, use_cache=False).loss
    return loss, watch.results[0].sra


def one_by_one(family: Family, examples: Sequence[Mapping[str, Any]]) -> tuple[Tensor, Tensor]:
    """Return the mean loss over all labelled tokens, and SRA, from one forward pass per example."""
    losses, scores, counts = [], [], []
    for example in examples:
        loss, sra = watched(family.build(), PaddingCollator()([example]))
        losses.append(loss)
        scores.append(sra)
        counts.append(int((example["labels"] != -100).sum()))
    weights = torch.tensor(counts) / sum(counts)
    return (torch.stack(losses) * weights).sum(), torch.cat(scores)


@pytest.mark.parametrize("family", DENSE, ids=str)
def test_a_packed_row_has_the_loss_and_the_sra_of_its_examples(family: Family) -> None:
    examples = random_examples((29, 40, 33))
    assert why_not_packed(family.build(), max_length=40, row_tokens=102) is None
    loss, sra = watched(family.build(), PackingCollator()(examples))
    wanted_loss, wanted_sra = one_by_one(family, examples)
    torch.testing.assert_close(loss, wanted_loss, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(sra, wanted_sra, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", [DENSE[0], *HYBRIDS], ids=str)
def test_a_padded_batch_has_the_loss_and_the_sra_of_its_examples(family: Family) -> None:
    examples = random_examples((29, 40, 33))
    loss, sra = watched(family.build(), PaddingCollator(pad_token_id=5)(examples))
    wanted_loss, wanted_sra = one_by_one(family, examples)
    torch.testing.assert_close(loss, wanted_loss, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(sra, wanted_sra, rtol=1e-4, atol=1e-6)


def test_packing_changes_nothing_without_this_librarys_attention() -> None:
    examples = random_examples((29, 40, 33))
    batch = PackingCollator()(examples)
    plain = {key: batch[key] for key in ("input_ids", "position_ids", "labels")}
    with torch.no_grad():
        loss = DENSE[0].build()(**plain, use_cache=False).loss
    torch.testing.assert_close(loss, one_by_one(DENSE[0], examples)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not ESCONV.is_dir(), reason=WHY_ABSENT)
def test_real_conversations_train_packed_as_one_by_one(tmp_path: Path) -> None:
    records = convert(ESCONV / "esconv_valid_130.json").records[:40]
    examples = [one for one in chat_examples(records) if one["length"] < 1500][:3]
    assert len(examples) == 3
    folder = save_tiny_model(tmp_path)
    family = Family("tiny", lambda: AutoModelForCausalLM.from_pretrained(folder).eval())
    loss, sra = watched(family.build(), PackingCollator()(examples))
    wanted_loss, wanted_sra = one_by_one(family, examples)
    torch.testing.assert_close(loss, wanted_loss, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(sra, wanted_sra, rtol=1e-4, atol=1e-6)


def test_a_packed_row_holds_what_it_says_and_nothing_else() -> None:
    examples = chat_examples([talk("a", 1), talk("b", 2, strategy="Clarification")])
    batch = PackingCollator()(examples)
    first, second = (example["length"] for example in examples)
    assert set(batch) == BATCH_KEYS
    assert batch["strategies"] == ["Offer Hope", "Clarification"]
    tokens = [token for example in examples for token in example["input_ids"].tolist()]
    assert batch["input_ids"].tolist() == [tokens]
    assert batch["position_ids"].tolist() == [[*range(first), *range(second)]]
    assert batch["response_mask"].unique().tolist() == [0, 1, 2]
    assert (batch["response_mask"][0, first:] == 2).tolist() == [*examples[1]["response_mask"]]
    dtypes = {key: value.dtype for key, value in batch.items() if isinstance(value, Tensor)}
    assert dtypes.pop("strategy_mask") == torch.bool
    assert dtypes.pop("response_mask") == torch.int32
    assert set(dtypes.values()) == {torch.int64}


def test_responses_are_numbered_over_a_packed_row_and_within_padded_ones() -> None:
    examples = random_examples((29, 40))
    examples[1]["response_mask"] *= 3  # numbers need not follow each other
    packed, padded = PackingCollator()(examples), PaddingCollator()(examples)
    assert packed["response_mask"].unique().tolist() == [0, 1, 2, 3, 4]
    assert [row.unique().tolist() for row in padded["response_mask"]] == [[0, 1, 2]] * 2
    assert packed["strategies"] == padded["strategies"] == ["s29", "s29", "s40", "s40"]


def test_no_loss_crosses_from_one_example_to_the_next() -> None:
    (example,) = random_examples((29,))
    example["labels"] = example["input_ids"].clone()
    labels = PackingCollator()([example, example])["labels"][0]
    assert (labels == -100).nonzero().flatten().tolist() == [0, 29]
    assert example["labels"][0] != -100  # the example stays as it was


def test_padding_is_masked() -> None:
    examples = random_examples((29, 40))
    batch = PaddingCollator(pad_token_id=7)(examples)
    assert set(batch) == BATCH_KEYS - {"position_ids"} | {"attention_mask"}
    assert batch["attention_mask"].sum(1).tolist() == [29, 40]
    assert batch["input_ids"][0, 29:].unique().tolist() == [7]
    assert batch["labels"][0, 29:].unique().tolist() == [-100]
    assert not batch["strategy_mask"][0, 29:].any()
    assert not batch["response_mask"][0, 29:].any()


def test_examples_that_cannot_be_batched_are_refused() -> None:
    (example,) = random_examples((29,))
    with pytest.raises(ValueError, match="no example"):
        PackingCollator()([])
    without = {key: value for key, value in example.items() if key != "strategy_mask"}
    with pytest.raises(KeyError, match=r"example 1 has no strategy_mask.*remove_unused_columns"):
        PaddingCollator()([example, without])
    with pytest.raises(ValueError, match="example 0: the columns differ in length: input_ids 29"):
        PackingCollator()([{**example, "labels": example["labels"][1:]}])
    with pytest.raises(ValueError, match="example 0: response_mask marks no token"):
        PackingCollator()([{**example, "response_mask": example["response_mask"] * 0}])


@pytest.mark.parametrize("family", FAMILIES + VARIANTS, ids=str)
def test_which_models_can_be_packed_is_known(family: Family) -> None:
    reason = why_not_packed(family.build(), max_length=64)
    assert (reason is None) is family.packs
    if reason is not None:
        assert serve(family.build()).name in reason
        assert "PaddingCollator" in reason or "one sequence per batch" in reason


def test_models_that_pack_up_to_a_length_pack_up_to_it() -> None:
    longrope, temperature = VARIANTS[3].build(), VARIANTS[4].build()
    assert why_not_packed(longrope, max_length=32) is None
    assert "longrope" in str(why_not_packed(longrope, max_length=33))
    assert why_not_packed(temperature, max_length=2, row_tokens=3) is None
    assert "place in the row" in str(why_not_packed(temperature, max_length=2, row_tokens=4))
