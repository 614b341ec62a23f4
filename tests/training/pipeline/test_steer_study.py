"""Test the steering study: its prompts, its log probabilities, its statistics and its folder."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from typer.testing import CliRunner

import sra_fast
from sra_fast.chat.conversion import read_dialogues
from sra_fast.chat.strategies import DEFAULT_STRATEGIES, StrategyError
from sra_fast.cli.app import app
from sra_fast.files.models import find_model
from sra_fast.files.run_folder import RunFolderError
from sra_fast.training.pipeline.steering.contrasts import (
    StudyRecord,
    difference,
    figures_of,
    joined,
)
from sra_fast.training.pipeline.steering.reply_log_probabilities import (
    float32_head,
    reply_log_probabilities,
)
from sra_fast.training.pipeline.steering.steer_study import (
    STEERED_LINES,
    SteerStudy,
    read_records,
    run_study,
)
from sra_fast.training.pipeline.steering.study_dialogues import (
    StudyError,
    studied_strategies,
    study_dialogues,
    study_rows,
)
from sra_fast.training.pipeline.steering.study_settings import UNSTEERED, cut, study_settings
from tiny_chat_model import save_tiny_model

SITUATION = "I lost my job in spring, and since then I sleep badly and see nobody at all."


def said(speaker: str, text: str, strategy: str | None = None) -> dict[str, Any]:
    annotation = {} if strategy is None else {"strategy": strategy}
    return {"speaker": speaker, "annotation": annotation, "content": text}


def dialogue(number: int, situation: str = SITUATION) -> dict[str, Any]:
    return {
        "situation": f"{situation} Day {number}." if situation else "",
        "dialog": [
            said("supporter", "Hello there.", "Others"),
            said("seeker", f"I feel low today, number {number}."),
            said("supporter", "What happened to you?", "Question"),
            said("seeker", "My work is gone."),
            said("supporter", "You could ask a friend for help.", "Providing Suggestions"),
            said("seeker", "Maybe."),
            said("supporter", "Yes.", "Question"),
            said("supporter", "Try it.", "Providing Suggestions"),
            said("seeker", "Thank you."),
        ],
    }


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dialogues") / "three.json"
    path.write_text(json.dumps([dialogue(1), dialogue(2), dialogue(3, "Sad")]), encoding="utf-8")
    return path


def study(tiny: Path, file: Path, out: Path, **changes: Any) -> SteerStudy:
    given = SteerStudy(
        file, out, find_model(str(tiny)), DEFAULT_STRATEGIES, biases=(2.0,), shares=(), parts=()
    )
    return (
        replace(given, parts=("strategy",), **changes)
        if "parts" not in changes
        else replace(given, **changes)
    )


@pytest.fixture(scope="module")
def prepared(tiny: Path, file: Path) -> tuple[Any, Any, list[Any]]:
    source = find_model(str(tiny))
    tokenizer = source.tokenizer()
    dialogues, _ = read_dialogues(file)
    strategies = studied_strategies(dialogues, DEFAULT_STRATEGIES)
    chosen = study_dialogues(dialogues, list(strategies), seed=0)
    first = next(one for one in chosen if one.id == "three-0")
    return source.load("float32", "cpu"), tokenizer, study_rows(tokenizer, first, strategies)


def test_replies_with_one_strategy_that_answer_the_seeker_are_studied(file: Path) -> None:
    dialogues, _ = read_dialogues(file)
    strategies = studied_strategies(dialogues, DEFAULT_STRATEGIES)
    assert list(strategies) == ["Question", "Providing Suggestions", "Others"]
    chosen = study_dialogues(dialogues, list(strategies), seed=0)
    assert sorted(one.id for one in chosen) == ["three-0", "three-1", "three-2"]
    assert all(dict(one.own) == {2: 0, 3: 1} for one in chosen)
    assert all(one.conversation.messages[-1].content.startswith("You could") for one in chosen)


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


def record(log_p: list[list[float]], own: list[int], name: str = "a", **more: Any) -> StudyRecord:
    given = {"setting": UNSTEERED, "part": None, "span": "strategy", "bias": None, "share": None}
    return StudyRecord(
        **{
            **given,
            "dialogue": name,
            "group": name,
            "knock_out": False,
            "turns": list(range(1, len(own) + 1)),
            "own": own,
            "tokens": [2] * len(own),
            "log_p": log_p,
            **more,
        }
    )


def test_figures_are_those_computed_by_hand() -> None:
    """Three strategies; the replies are (-1, -2, -6) and (-4, -2, -3), of the first and the last.

    Around their own means they are (2, 1, -3) and (-1, 1, 0); strategies' means are .5, 1, -1.5, so
    what remains is (1.5, 0, -1.5) and (-1.5, 0, 1.5).
    """
    found = figures_of(joined([record([[-1, -4], [-2, -2], [-6, -3]], [0, 2])]))
    assert found.raw.tolist() == [-1 + 4, -3 + 3]
    assert found.raw_per_token.tolist() == [1.5, 0]
    assert found.advantage.tolist() == [2.25, 2.25]
    assert found.per_token.tolist() == [1.125, 1.125]
    assert found.shuffled.tolist() == [0, 0]  # half the time each label: (2.25 - 2.25) / 2
    assert found.first.tolist() == [1, 1]
    assert found.raw_first.tolist() == [1, 0]
    assert found.shuffled_first.tolist() == [0.5, 0.5]
    assert found.own_log_p.tolist() == [-0.5, -1.5]


def synthetic(effect: float, seed: int = 0) -> list[StudyRecord]:
    """Return 40 dialogues whose replies gain ``effect`` under their own strategy."""
    draw = numpy.random.default_rng(seed)
    found = []
    for number in range(40):
        own = draw.integers(0, 4, 6)
        log_p = draw.normal(-50, 5, 6)[None] + draw.normal(0, 1, (4, 6))
        log_p += numpy.array([0.0, 3.0, -3.0, 1.0])[:, None]  # prompts that raise every reply
        log_p[own, numpy.arange(6)] += effect
        found.append(record(log_p.tolist(), own.tolist(), str(number)))
    return found


def test_an_effect_is_found_and_shuffled_labels_have_none() -> None:
    found = figures_of(joined(synthetic(2.0)))
    assert found.advantage.mean() == pytest.approx(2.0 * 3 / 4 * 4 / 3, abs=0.25)
    none = figures_of(joined(synthetic(0.0)))
    assert abs(none.advantage.mean()) < 0.2
    shuffled = [
        replace(one, own=numpy.random.default_rng(int(one.dialogue)).permutation(one.own).tolist())
        for one in synthetic(2.0)
    ]
    drawn, expected = figures_of(joined(shuffled)).advantage, found.shuffled
    assert drawn.mean() == pytest.approx(expected.mean(), abs=0.3)
    assert found.first.mean() > 0.5 > none.first.mean()


def test_settings_are_compared_over_the_replies_that_both_have() -> None:
    strong, weak = synthetic(2.0), synthetic(0.0)
    whole = difference(joined(strong[:10]), joined(weak), "advantage")
    alone = difference(joined(strong[:10]), joined(weak[:10]), "advantage")
    assert whole == alone
    assert whole.n == 60
    assert difference(joined(strong), joined(strong[::-1]), "advantage").value == 0


def test_groups_hold_every_layer_and_head_once() -> None:
    assert cut(range(7), 3) == [(0, 1), (2, 3, 4), (5, 6)]
    assert cut([4], 5) == [(4,)]
    names = [one.name for one in study_settings(range(30), 9)]
    assert len(set(names)) == len(names) == 1 + 13 + 13 + 2 * (5 + 3)
    layers = [one.layers for one in study_settings(range(30), 9) if one.layers and one.bias == 2]
    assert [layer for group in layers for layer in group] == list(range(30))


def test_a_study_that_was_killed_ends_as_an_unbroken_one(
    tiny: Path, file: Path, tmp_path: Path
) -> None:
    parts = ("strategy", "control")
    whole = run_study(study(tiny, file, tmp_path / "whole", parts=parts))
    lines = (tmp_path / "whole" / STEERED_LINES).read_bytes()
    assert len(lines.splitlines()) == 3 * 3 + 2 * 2  # one situation is too short for a control
    broken = tmp_path / "broken"
    seen = []

    def killed(what: str, done: int, total: int) -> None:
        seen.append(done)
        if sum(seen) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_study(study(tiny, file, broken, parts=parts), killed)
    with (broken / STEERED_LINES).open("ab") as cut_line:
        cut_line.write(b'{"dialogue": "three')
    run_study(study(tiny, file, broken, dialogues=2))
    again = run_study(study(tiny, file, broken, parts=parts))
    assert read_records(broken / STEERED_LINES, 3) == read_records(
        tmp_path / "whole" / STEERED_LINES, 3
    )
    assert sorted(again["files"]) == sorted(whole["files"])
    by_name = [{one["setting"]: one for one in found["settings"]} for found in (whole, again)]
    for name, one in by_name[0].items():
        assert by_name[1][name]["figures"]["per_token"]["value"] == pytest.approx(
            one["figures"]["per_token"]["value"], abs=1e-12
        )


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / STEERED_LINES
    whole = vars(record([[-1.0], [-2.0]], [0]))
    line = json.dumps(whole)
    apart: tuple[dict[str, Any], ...] = (
        {"log_p": [[-1.0], [-2.0], [-3.0]]},
        {"log_p": [[-1.0], []]},
        {"log_p": [[-1.0], [math.nan]]},
        {"log_p": [["a"], [-2.0]]},
        {"own": [2]},
        {"own": ["Question"]},
        {"tokens": [0]},
        {"turns": []},
    )
    changed = [json.dumps({**whole, **change}) for change in apart]
    for damaged in (line[:-9], '{"dialogue": "a"}', "3", *changed):
        path.write_text(f"{line}\n{damaged}\n", encoding="utf-8")
        with pytest.raises(StudyError, match="line 2 is damaged"):
            read_records(path, 2)


def test_a_dialogue_beyond_the_context_is_named(file: Path, tmp_path: Path) -> None:
    short = save_tiny_model(tmp_path / "short", context=100)
    with pytest.raises(StudyError, match=r"dialogue 'three-\d': \d+ tokens, .* reaches to 100"):
        run_study(study(short, file, tmp_path / "out", dialogues=1))


def test_other_settings_are_refused(tiny: Path, file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_study(study(tiny, file, out, dialogues=1, biases=()))
    with pytest.raises(RunFolderError, match="seed"):
        run_study(study(tiny, file, out, seed=7))


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


def test_the_command_writes_the_report(
    tiny: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    module = "sra_fast.training.pipeline.steering.study_settings"
    monkeypatch.setattr(f"{module}.BIASES", (2.0,))
    command = ["steer-study", str(file), "--model", str(tiny), "--out", str(out), "--json"]
    done = CliRunner().invoke(app, [*command, "--dialogues", "1", "--parts", "groups"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert {one["part"] for one in found["settings"]} == {None, "groups"}
    report = (out / "report.md").read_text(encoding="utf-8")
    assert "layers 0, bias 2" in report
    assert "groups.png" in report
    assert (out / "groups.png").stat().st_size > 1000
    wrong = CliRunner().invoke(app, [*command, "--parts", "layers"])
    assert wrong.exit_code == 2
    assert "layers" in wrong.output
