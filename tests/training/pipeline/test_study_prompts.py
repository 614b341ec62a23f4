"""Test the prompts of the steering study, and the log probabilities of their replies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

import sra_fast
from sra_fast.chat.conversion import read_dialogues
from sra_fast.chat.strategies import DEFAULT_STRATEGIES, StrategyError
from sra_fast.files.models import find_model
from sra_fast.training.pipeline.steering.reply_log_probabilities import (
    float32_head,
    reply_log_probabilities,
)
from sra_fast.training.pipeline.steering.study_dialogues import (
    StudyError,
    studied_strategies,
    study_dialogues,
)
from study_material import SITUATION, dialogue, prepared_rows, three_dialogues
from tiny_chat_model import save_tiny_model


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return three_dialogues(tmp_path_factory.mktemp("dialogues"))


@pytest.fixture(scope="module")
def prepared(tiny: Path, file: Path) -> tuple[Any, Any, list[Any]]:
    return prepared_rows(tiny, file)


def test_replies_with_one_strategy_that_answer_the_seeker_are_studied(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dialogues, _ = read_dialogues(file)
    caplog.set_level("INFO")
    strategies = studied_strategies(dialogues, DEFAULT_STRATEGIES)
    assert list(strategies) == ["Question", "Providing Suggestions", "Others"]
    chosen = study_dialogues(dialogues, list(strategies), seed=0)
    assert sorted(one.id for one in chosen) == ["three-0", "three-1", "three-2"]
    assert all(dict(one.own) == {2: 0, 3: 1} for one in chosen)
    assert all(one.conversation.messages[-1].content.startswith("You could") for one in chosen)
    assert "6 replies of 3 dialogues are studied" in caplog.text
    assert "3 replies annotated with several strategies" in caplog.text
    assert "3 replies that open a dialogue" in caplog.text


def test_the_order_is_drawn_by_the_seed(file: Path) -> None:
    dialogues, _ = read_dialogues(file)
    orders = {
        tuple(
            one.id
            for one in study_dialogues(
                dialogues, ["Question", "Providing Suggestions", "Others"], seed
            )
        )
        for seed in range(8)
    }
    assert len(orders) > 1


def test_the_control_is_as_many_tokens_of_the_situation(prepared: tuple[Any, Any, Any]) -> None:
    _, tokenizer, rows = prepared
    for row, name in zip(rows, ["Question", "Providing Suggestions", "Others"], strict=True):
        spans = {
            at: tokenizer.decode(row["input_ids"][mask]) for at, mask in row["span_masks"].items()
        }
        assert spans["strategy"].strip() == f'"{name}"'
        assert f"{SITUATION} Day 1.".endswith(spans["situation"].rstrip())  # ".\n" is one token
        assert row["span_masks"]["situation"].sum() == row["span_masks"]["strategy"].sum()
        replies = [
            tokenizer.decode(row["input_ids"][row["response_mask"] == k]).strip() for k in (1, 2, 3)
        ]
        assert replies == ["What happened to you?", "You could ask a friend for help.", ""]


@pytest.mark.parametrize("arguments", [None, {"span": "strategy", "bias": 3.0}])
@pytest.mark.parametrize("batch_tokens", [1, 10_000])
def test_log_probabilities_are_those_of_each_prompt_alone(
    prepared: tuple[Any, Any, Any], arguments: dict[str, Any] | None, batch_tokens: int
) -> None:
    """The reference is a row without padding, all logits and torch's own cross entropy."""
    model, _, rows = prepared
    found = reply_log_probabilities(model, rows, arguments, batch_tokens)
    for row, sums in zip(rows, found, strict=True):
        ids = row["input_ids"][None]
        marked = {
            "input_ids": ids,
            "span_masks": {name: mask[None] for name, mask in row["span_masks"].items()},
        }
        with torch.no_grad():
            if arguments is None:
                logits = model(ids).logits[0]
            else:
                with sra_fast.steer(model, marked, **arguments):
                    logits = model(ids).logits[0]
        losses = torch.nn.functional.cross_entropy(logits[:-1], ids[0, 1:], reduction="none")
        wanted = [-float(losses[row["response_mask"][1:] == k].sum()) for k in (1, 2)]
        assert sums == pytest.approx(wanted, abs=2e-4)


def test_steering_the_strategy_and_the_control_differ(prepared: tuple[Any, Any, Any]) -> None:
    model, _, rows = prepared
    found = [
        reply_log_probabilities(model, rows, arguments, 10_000)
        for arguments in (None, *({"span": s, "bias": 4.0} for s in ("strategy", "situation")))
    ]
    assert numpy.ptp(numpy.array(found), axis=0).min() > 1e-4


def test_the_head_runs_in_float32_inside_the_block_alone(tiny: Path) -> None:
    model = find_model(str(tiny)).load("bfloat16", "cpu")
    ids, head = torch.tensor([[1, 2, 3]]), model.get_output_embeddings()
    with torch.no_grad():
        before = model(ids).logits
        with float32_head(model):
            inside = model(ids).logits
    assert inside.dtype == torch.float32
    assert model.get_output_embeddings() is head
    assert not torch.equal(inside, before.float())
    torch.testing.assert_close(inside, before.float(), atol=0.05, rtol=0.02)


def test_a_file_that_cannot_be_studied_is_refused(tmp_path: Path) -> None:
    one = dialogue(1)
    alone = {**one, "dialog": one["dialog"][1:4]}
    path = tmp_path / "alone.json"
    path.write_text(json.dumps([alone]), encoding="utf-8")
    with pytest.raises(StudyError, match="name 1 strategies"):
        studied_strategies(read_dialogues(path)[0], DEFAULT_STRATEGIES)
    with pytest.raises(StrategyError, match="'Question'"):
        studied_strategies(read_dialogues(path)[0], {"Others": "…"})
    openings = {**one, "dialog": one["dialog"][:2]}
    path.write_text(json.dumps([openings]), encoding="utf-8")
    with pytest.raises(StudyError, match="no dialogue has a reply"):
        study_dialogues(read_dialogues(path)[0], ["Others"], 0)


def test_numbers_that_are_not_finite_are_refused(prepared: tuple[Any, Any, Any]) -> None:
    model, _, rows = prepared
    weight = model.get_output_embeddings().weight
    with torch.no_grad():
        kept = weight[5, 0].clone()
        weight[5, 0] = torch.nan
        try:
            with pytest.raises(StudyError, match="not finite"):
                reply_log_probabilities(model, rows, None, 10_000)
        finally:
            weight[5, 0] = kept
