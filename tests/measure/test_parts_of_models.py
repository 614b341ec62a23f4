"""Test that a process that holds some layers of a model, or some tokens, is refused by name."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import sra_fast
from marked_batches import marked_batch
from model_families import FAMILIES
from parallel_table import parallel_table
from sra_fast.measure.served import UnservedModelError
from sra_fast.tools.sra_warning import SRAWarning

SUPPORT = Path(__file__).resolve().parents[1] / "support"
DOORS = ("score", "monitor", "callback", "trainer")
Said = list[dict[str, dict[str, Any]]]


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> Said:
    """Return what each of two processes says, by the way of splitting and the door."""
    folder = tmp_path_factory.mktemp("two_processes")
    paths = [str(SUPPORT), *filter(None, [os.environ.get("PYTHONPATH"), str(SUPPORT.parents[1])])]
    subprocess.run(
        [sys.executable, str(SUPPORT / "two_processes.py"), str(folder)],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "MASTER_ADDR": "localhost",
            "MASTER_PORT": "0",
        },
        check=True,
        capture_output=True,
    )
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize(
    ("way", "doors", "reason"),
    [
        ("loaded_pipeline_parallel", DOORS, "over a pipeline of 2 processes"),
        ("stage_of_identities", DOORS, "stage of a pipeline: . of its 3 layers are not here"),
        ("stage_without_its_ends", DOORS, "stage of a pipeline: (norm|embed_tokens) is None"),
        ("context_parallel", (*DOORS, "monitored_before"), "a part of every sequence"),
    ],
)
def test_a_process_with_a_part_is_refused_by_name(
    said: Said, way: str, doors: tuple[str, ...], reason: str
) -> None:
    for process in said:
        for door in doors:
            answer = process[way][door]
            assert isinstance(answer, str), f"{door} gave a number: {answer}"
            assert answer.startswith("UnservedModelError: ")
            assert re.search(reason, answer)
            assert "score a model of which each process holds all layers" in answer


@pytest.mark.parametrize("kind", ["pipeline parallel", "context or sequence parallel"])
def test_the_table_says_that_parts_are_refused(kind: str) -> None:
    assert set(parallel_table()[kind].values()) == {"refused"}


@pytest.mark.parametrize("way", ["whole", "afterwards"])
def test_who_holds_the_whole_gets_the_scores_of_one_process(said: Said, way: str) -> None:
    alone = sra_fast.score(FAMILIES[0].build(), marked_batch((24,))).sra
    for process in said:
        for door in {"score", "monitor", "monitor_ddp"} & process[way].keys():
            torch.testing.assert_close(torch.tensor(process[way][door]), alone, rtol=1e-6, atol=0)
        for door in {"callback", "trainer"} & process[way].keys():
            assert process[way][door] == "taken"


def test_a_pruned_model_is_a_whole_one_in_several_processes(said: Said) -> None:
    for process in said:
        assert process["pruned"]["score"] == said[0]["pruned"]["score"]
        assert all(isinstance(score, float) for score in process["pruned"]["score"])
        assert process["pruned"]["trainer"] == "taken"


def test_in_one_process_layers_may_be_missing() -> None:
    model: Any = FAMILIES[0].build()
    model.model.layers = model.model.layers[:1]
    assert sra_fast.score(model, marked_batch((24,))).layers == (0,)


def test_sequences_that_accelerate_splits_are_refused_in_a_watched_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, batch = FAMILIES[0].build(), marked_batch((24,))
    state = SimpleNamespace(
        is_initialized=lambda: True,
        AcceleratorState=lambda: SimpleNamespace(parallelism_config=SimpleNamespace(sp_size=2)),
    )
    monkeypatch.setitem(sys.modules, "accelerate.state", state)
    refusal = pytest.raises(UnservedModelError, match=r"accelerate's .* \(sp_size=2\)")
    with pytest.warns(SRAWarning), sra_fast.monitor(model), refusal:
        model(**batch)
