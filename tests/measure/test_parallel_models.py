"""Test that a model shared among two processes is measured as in one, or refused by name."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import sra_fast
from marked_batches import marked_batch
from model_families import FAMILIES
from parallel_table import parallel_table

SUPPORT = Path(__file__).resolve().parents[1] / "support"
SAMPLE = ("llama", "phi3", "gpt_oss", "gpt_neox", "qwen3_next", "gpt2", "lfm2")
CLOSE = 2e-5  # of the largest number: sums in float32, added up in another order
DOORS = ("score", "monitor", "steer", "generate", "train")

NOT_LOADED = {"gpt2": "ValueError: .*`GPT2LMHeadModel` has no `tp_plan`"}
"""Families that transformers itself does not make tensor-parallel."""
NOTHING_SPLIT = {"lfm2"}
"""Families whose plan names the language-model head alone, where that is tied and stays whole."""
NOT_TRAINED = {"llama4": "RuntimeError: Output 0 of _ToTorchTensor is a view"}
"""Families that transformers' own tensor parallelism cannot train."""

Said = list[dict[str, dict[str, Any]]]


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Said:
    """Return what two processes say, by the kind of parallelism (or the family) and the door."""
    folder = tmp_path_factory.mktemp("parallel_models")
    every = request.config.getoption("every_family")
    names = [family.name for family in FAMILIES] if every else list(SAMPLE)
    paths = [str(SUPPORT), *filter(None, [os.environ.get("PYTHONPATH"), str(SUPPORT.parents[1])])]
    subprocess.run(
        [sys.executable, str(SUPPORT / "parallel_models.py"), str(folder), *names],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        check=True,
        capture_output=True,
        timeout=300,
    )
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "family" in metafunc.fixturenames:
        every = metafunc.config.getoption("every_family")
        metafunc.parametrize("family", [f.name for f in FAMILIES] if every else SAMPLE)


def is_equal(value: Any) -> bool:
    return isinstance(value, float) and value <= CLOSE


# --- tensor parallelism, by family ---


def test_a_tensor_parallel_family_is_measured_as_in_one_process(said: Said, family: str) -> None:
    for process in said:
        found = process[family]
        if family in NOT_LOADED:
            assert re.match(NOT_LOADED[family], found["loaded"])
            continue
        if family in NOTHING_SPLIT:
            assert all("(none is a DTensor)" in found[door] for door in ("score", "monitor"))
            continue
        for door in DOORS:
            if door == "train" and family in NOT_TRAINED:
                assert found[door].startswith(NOT_TRAINED[family])
            else:
                assert is_equal(found[door]), f"{door}: {found[door]}"
        assert found["checked"] == "passed"
    assert said[0][family].get("fingerprint") == said[1][family].get("fingerprint")


# --- the table of the documentation: kind of parallelism, door ---


KINDS = {
    "DistributedDataParallel": ("ddp",),
    "fully_shard (FSDP2)": ("sharded_on_top", "sharded_layers_and_top"),
    "FullyShardedDataParallel (FSDP1)": ("fsdp1",),
    "tensor parallel": ("llama",),
    "tensor and expert parallel": ("tensor_and_expert_parallel",),
    "tensor parallel and fully_shard": ("tensor_parallel_and_sharded",),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_table_says_what_is_seen(said: Said, kind: str) -> None:
    for process in said:
        for way in KINDS[kind]:
            for door, outcome in parallel_table()[kind].items():
                answer = process[way][door]
                assert outcome in ("equal", "refused")
                if outcome == "equal":
                    assert is_equal(answer), f"{way}, {door}: {answer}"
                else:
                    assert isinstance(answer, str), f"{way}, {door} gave a number: {answer}"
                    assert answer.startswith("UnservedModelError: ")


@pytest.mark.parametrize(
    ("way", "doors"),
    [
        ("tensor_and_expert_parallel", ("steer", "generate")),
        ("tensor_parallel_and_sharded", ("steer", "generate")),
        ("sharded_layers", ("score", "monitor")),
    ],
)
def test_what_else_is_served_is_equal(said: Said, way: str, doors: tuple[str, ...]) -> None:
    for process in said:
        for door in doors:
            assert is_equal(process[way][door]), f"{door}: {process[way][door]}"


def test_a_sharded_family_is_checked_in_all_processes(said: Said) -> None:
    for process in said:
        assert process["sharded_on_top"]["checked"] == "passed"
        assert process["tensor_and_expert_parallel"]["checked"] == "passed"
        assert process["one_had_it_before"] == "passed"


def test_a_score_under_the_first_fsdp_is_refused_by_name(said: Said) -> None:
    for process in said:
        assert re.match(
            r"UnservedModelError: .*FullyShardedDataParallel \(FSDP1\).* by torch's fully_shard",
            process["fsdp1"]["score"],
        )


# --- what cannot be measured, and what does not belong together ---


@pytest.mark.parametrize(
    ("way", "reason"),
    [
        ("queries_alone", "2 query heads on 2 key heads in LlamaAttention, where 2 share one"),
        ("one_key_head", "4 query heads and 1 heads of keys and values: take a number of proc"),
        ("local_number_of_heads", "leave num_attention_heads of the configuration"),
        ("odd_number_of_heads", "2 heads of a layer in this process, which is neither all 6"),
    ],
)
def test_a_wrongly_split_model_is_refused_by_name(said: Said, way: str, reason: str) -> None:
    for process in said:
        answer = process["wrongly_split"][way]
        assert isinstance(answer, str), f"it gave a number: {answer}"
        assert answer.startswith("UnservedModelError: ")
        assert reason in answer


@pytest.mark.parametrize(
    ("way", "reason"),
    [
        ("other_batches", "given different batches; give the same batch to every process"),
        ("other_lengths", "given different batches; give the same batch to every process"),
        ("other_settings", "given different settings; ask the same of every process"),
        ("other_tokens_drawn", r"different tokens in step \d.*seed them alike"),
    ],
)
def test_parts_of_one_model_that_are_asked_different_things_end_all(
    said: Said, way: str, reason: str
) -> None:
    for process in said:
        answer = process["wrongly_split"][way]
        assert answer.startswith("PeerError: ")
        assert re.search(reason, answer)


@pytest.mark.parametrize("kind", ["wrongly_split", "in_step"])
def test_a_bad_batch_in_one_process_ends_all(said: Said, kind: str) -> None:
    own = "row 0: response_mask marks no token"
    assert re.match(f"PeerError: process 1 failed.*BatchRowError: {own}", said[0][kind][BAD])
    assert own in said[1][kind][BAD]
    assert "PeerError" not in said[1][kind][BAD]


BAD = "bad_batch_in_one"


def test_a_tensor_parallel_model_scores_after_errors(said: Said) -> None:
    alone = sra_fast.score(FAMILIES[0].build(), marked_batch((24,))).sra.tolist()
    for process in said:
        assert process["wrongly_split"]["afterwards"] == pytest.approx(alone, rel=CLOSE)


# --- processes that share parameters, with batches of their own ---


def test_unequal_numbers_of_passes_change_nothing(said: Said) -> None:
    for process in said:
        assert process["in_step"]["unequal_passes"] == 0.0
        assert process["in_step"]["checked"] == "passed"


def test_a_check_that_one_process_asks_for_is_made_by_all(said: Said) -> None:
    assert [process["in_step"]["check_in_one"] for process in said] == [0.0, 0.0]


def test_an_empty_batch_gives_no_response_and_lets_others_run(said: Said) -> None:
    assert said[0]["in_step"]["one_idle"] == 0.0
    assert said[1]["in_step"]["one_idle"] == "0 responses"
    assert [process["in_step"]["all_idle"] for process in said] == ["0 responses"] * 2


def test_parameters_are_sharded_again_after_the_last_mass(said: Said) -> None:
    for process in said:
        assert process["in_step"]["resharded"] is True
        assert process["in_step"]["called_afterwards"] == 0.0
        assert process["in_step"]["broken_off"] == "RuntimeError: half-way"
        assert process["in_step"]["resharded_after_an_error"] is True


def test_a_definition_that_fails_in_one_process_ends_all(said: Said) -> None:
    name = "own_definition_fails_in_one"
    assert "definition 'fails_in_one' failed" in said[1]["in_step"][name]
    assert re.match("PeerError: process 1 failed.*no score today", said[0]["in_step"][name])
    assert [process["in_step"]["afterwards"] for process in said] == [0.0, 0.0]


@pytest.mark.parametrize(
    ("way", "reason"),
    [
        ("other_ways", "PeerError: .*give all of them batches with the same keys"),
        ("idle_beside_given", "PeerError: .*process 1 has an empty batch"),
        ("generate", "UnservedModelError: .*is not recorded under fully_shard"),
    ],
)
def test_what_cannot_go_in_step_is_refused_by_name(said: Said, way: str, reason: str) -> None:
    for process in said:
        assert re.match(reason, process["in_step"][way])
