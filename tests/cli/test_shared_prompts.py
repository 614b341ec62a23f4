"""Test one conversation under several strategies: on the command line, and against each alone."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

import sra_fast
from sra_fast.chat.strategies import DEFAULT_STRATEGIES
from sra_fast.cli.app import app
from sra_fast.files.run_folder import RUN
from sra_fast.files.score_folder import MASSES
from sra_fast.files.score_tables import SCORES_JSONL
from tiny_chat_model import save_tiny_model, talk, write_jsonl

STRATEGIES = list(DEFAULT_STRATEGIES)[:15]
TEMPLATES = ("standard", "c1_hf", "c3_hf", "c5_hf", "c1_hl", "c3_hl", "c5_hl")


def call(*arguments: object, status: int = 0) -> str:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(one) for one in arguments])
    assert result.exit_code == status, result.output
    return re.sub(r"\x1b\[[0-9;]*m", "", result.output)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shared")
    save_tiny_model(folder / "model")
    write_jsonl(folder / "talks.jsonl", [*records(), talk("c2")])
    return folder


def records() -> list[dict[str, Any]]:
    """Return one conversation under 15 strategies, all under one id."""
    return [talk("c1", turns=4, strategy=name) for name in STRATEGIES]


def scored(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / SCORES_JSONL).read_text().splitlines()]


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_conversation_under_strategies_scores_as_under_each_alone(
    place: Path, template: str
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(place / "model")
    model = AutoModelForCausalLM.from_pretrained(place / "model")
    together = sra_fast.score(model, sra_fast.encode(tokenizer, records(), template=template))
    alone = [
        sra_fast.score(
            model,
            sra_fast.encode(tokenizer, [one], template=template),
            check=False,
            share_prefixes=False,
        ).sra
        for one in records()
    ]
    torch.testing.assert_close(together.sra, torch.cat(alone), rtol=1e-5, atol=0)
    assert re.fullmatch(r"\d+ of \d+ tokens computed", together.prefixes)
    computed, of = (int(number) for number in re.findall(r"\d+", together.prefixes))
    assert of > 1.5 * computed or not template.endswith("_hf")


def test_a_file_may_hold_one_conversation_under_several_strategies(place: Path) -> None:
    words = ("score", place / "talks.jsonl", "--model", place / "model", "--template", "c1_hf")
    call(*words, "--out", place / "once")
    rows = scored(place / "once")
    assert len(rows) == 15 * 4 + 2
    first = [
        (row["conversation_id"], row["turn"]) for row in rows if row["strategy"] != "Offer Hope"
    ]
    assert set(first) == {("c1", turn) for turn in range(1, 5)}
    assert "share_prefixes" not in json.loads((place / "once" / RUN).read_text())["settings"]
    call(*words, "--out", place / "whole", "--no-share-prefixes")
    settings = json.loads((place / "whole" / RUN).read_text())["settings"]
    assert settings["share_prefixes"] is False
    one, other = (sra_fast.SRAResult.load(place / name / MASSES) for name in ("once", "whole"))
    torch.testing.assert_close(one.sra, other.sra, rtol=1e-5, atol=0)
    assert not torch.equal(one.mass, other.mass)
    # The same command finds it finished; other settings are refused.
    assert "share_prefixes" in call(*words, "--out", place / "whole", status=1)


def test_compare_and_view_take_such_a_file(place: Path) -> None:
    words = ("compare", place / "talks.jsonl", "--model", place / "model", "--turns", "last")
    call(*words, "--templates", "c1_hf,c1_hl", "--out", place / "compared")
    for name in ("c1_hf", "c1_hl"):
        assert len(scored(place / "compared" / "templates" / name)) == 16
    words = ("score", place / "talks.jsonl", "--model", place / "model", "--turns", "last")
    call(*words, "--template", "c1_hf", "--profile", "mean", "--out", place / "seen")
    call("view", place / "seen")
    page = (place / "seen" / "view.html").read_text(encoding="utf-8")
    assert all(name in page for name in STRATEGIES)


def test_other_conversations_of_one_id_are_refused(place: Path) -> None:
    file = place / "wrong.jsonl"
    words = ("score", file, "--model", place / "model", "--out", place / "wrong")
    for last in (talk("c1", turns=4, strategy=STRATEGIES[0]), talk("c1", turns=3, strategy="x")):
        write_jsonl(file, [*records(), last])
        said = " ".join(call(*words, status=1).split())
        assert "'c1' (wrong.jsonl line 16): field 'id' is also that of conversation 'c1'" in said
        assert "unless the same messages come again under another strategy" in said
