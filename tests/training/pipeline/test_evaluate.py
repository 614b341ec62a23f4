"""Test that ``evaluate`` writes what the models say, with the scores that `score` gives."""

from __future__ import annotations

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

pytest.importorskip("sklearn", reason="needs the package scikit-learn (extra 'pipeline')")

import sra_fast
from chat_tokenizers import byte_level_bpe
from model_families import FAMILIES, eager_attentions, random_tokens
from sra_fast.chat.conversations import as_conversations, read_conversations, write_conversations
from sra_fast.chat.strategies import STRATEGIES
from sra_fast.chat.templates import TEMPLATES
from sra_fast.cli.app import app
from sra_fast.files.models import find_model
from sra_fast.training.data.trained_on import beginning, write_trained_on
from sra_fast.training.pipeline.classifiers import load_classifier
from sra_fast.training.pipeline.evaluation.ablation import AblationError, ablated
from sra_fast.training.pipeline.evaluation.conclude import conclude
from sra_fast.training.pipeline.evaluation.evaluate import (
    TUNED,
    Evaluation,
    EvaluationError,
    collect,
    opened,
)
from sra_fast.training.pipeline.evaluation.perplexity import perplexities
from sra_fast.training.pipeline.evaluation.reply_scores import (
    REPLY,
    head_masses,
    lookback,
    score_replies,
)
from sra_fast.training.pipeline.generation.sampling import Sampling
from tiny_chat_model import save_tiny_model, talk, write_jsonl

LLAMA = FAMILIES[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


def conversations() -> list[dict[str, Any]]:
    names = ("Offer Hope", "Clarification", "Affirmation", "Share Information")
    return [
        {
            **talk(f"d{n // 2}", 1 + n % 3, strategy=names[n % 4], dialogue=f"d{n // 2}"),
            "id": str(n),
        }
        for n in range(8)
    ]


# --- Ablation --------------------------------------------------------------------------------


def test_an_ablated_head_leaves_nothing_in_the_layers_output() -> None:
    model, ids = LLAMA.build(), random_tokens(1, 12)
    attention = model.model.layers[1].self_attn
    outputs: list[torch.Tensor] = []
    hook = attention.register_forward_hook(lambda module, args, out: outputs.append(out[0]))
    with torch.no_grad():
        whole = model(ids).logits
        with ablated(model, [(1, 2)]):
            without = model(ids).logits
        again = model(ids).logits
        hook.remove()
        weight = attention.o_proj.weight
        width = weight.shape[1] // 4
        kept = weight.clone()
        kept[:, 2 * width : 3 * width] = 0.0
        attention.o_proj.weight.copy_(kept)
        truth = model(ids).logits
    assert torch.equal(whole, again)
    assert (whole - without).abs().max() > 1e-3
    torch.testing.assert_close(without, truth, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("heads", [[(7, 0)], [(0, 4)], [(0, -1)]])
def test_heads_that_there_are_not(heads: list[tuple[int, int]]) -> None:
    with pytest.raises(AblationError), ablated(LLAMA.build(), heads):
        pass


# --- Scores and perplexities -----------------------------------------------------------------


def test_scores_masses_and_lookback_are_those_of_the_maps(tmp_path: Path, folder: Path) -> None:
    source = find_model(str(folder))
    model, tokenizer = source.load("float32", "cpu"), source.tokenizer()
    whole = as_conversations(conversations())
    result = score_replies(
        model, tokenizer, whole, TEMPLATES["c1_hf"], STRATEGIES, tmp_path / "s", {"a": 1}
    )
    plain = sra_fast.score(
        model, sra_fast.encode(tokenizer, whole, "c1_hf", turns="last"), definition="table1"
    )
    for name, values in result.scores.items():
        torch.testing.assert_close(values, plain.scores[name], rtol=1e-5, atol=1e-8)
    batch = sra_fast.encode(tokenizer, whole[:1], "c1_hf", turns="last")
    maps = torch.stack(list(eager_attentions(model, batch["input_ids"]).values()))[
        :, 0
    ].double()  # [L, H, T, T]
    rows = batch["response_mask"][0] > 0
    on_strategy = maps[:, :, rows][..., batch["strategy_mask"][0]].sum(-1).mean(-1)
    on_reply = maps[:, :, rows][..., rows].sum(-1).mean(-1)
    torch.testing.assert_close(head_masses(result)[0].double(), on_strategy, rtol=1e-4, atol=1e-6)
    expected = (on_strategy / (on_strategy + on_reply)).mean()
    assert float(lookback(result)[0]) == pytest.approx(float(expected), rel=1e-4)
    assert REPLY in result.names


def test_perplexity_is_exp_of_the_mean_loss_of_the_reply(folder: Path) -> None:
    source = find_model(str(folder))
    model, tokenizer = source.load("float32", "cpu"), source.tokenizer()
    whole = as_conversations(conversations())[:3]
    found = perplexities(model, tokenizer, whole, TEMPLATES["standard"], STRATEGIES)
    batch = sra_fast.encode(tokenizer, whole, "standard", turns="last")
    for row, value in enumerate(found):
        ids = batch["input_ids"][row][batch["attention_mask"][row] > 0]
        reply = (batch["response_mask"][row] > 0)[batch["attention_mask"][row] > 0]
        with torch.no_grad():
            losses = -model(ids[None]).logits[0, :-1].log_softmax(-1).gather(1, ids[1:, None])[:, 0]
        assert math.log(value) == pytest.approx(float(losses[reply[1:]].mean()), rel=1e-5)


# --- Whole evaluations -----------------------------------------------------------------------


def evaluation(tmp_path: Path, folder: Path, **changes: Any) -> Evaluation:
    file = tmp_path / "test.jsonl"
    write_conversations(file, conversations())
    source = find_model(str(folder))
    settings: dict[str, Any] = dict(
        file=file,
        out=tmp_path / "out",
        base=source,
        tuned=find_model(str(folder)),
        templates=[TEMPLATES["standard"], TEMPLATES["c1_hf"]],
        strategies=STRATEGIES,
        classifier=load_classifier("plain"),
        classifier_name="plain",
        sampling=Sampling(max_new_tokens=8),
        dtype="float32",
        device="cpu",
    )
    return Evaluation(**settings | changes)


def test_conditions_are_the_models_under_their_templates(tmp_path: Path, folder: Path) -> None:
    whole = evaluation(tmp_path, folder)
    with opened(whole):
        found = collect(whole)
    assert [condition.plan.name for condition in found.conditions] == ["standard", "c1_hf", TUNED]
    by_condition = {
        condition.plan.name: [
            record for record in found.records if record.row == condition.plan.name
        ]
        for condition in found.conditions
    }
    for condition in found.conditions:
        assert len(by_condition[condition.plan.name]) == 8
        records = [record for record in by_condition[condition.plan.name] if record.text]
        assert [record.item for record in records] == [c.id for c in condition.conversations]
        assert condition.mass.shape == (len(records), 2, 4)
        batch = sra_fast.encode(
            byte_level_bpe(), condition.conversations, condition.plan.template, turns="last"
        )
        scores = sra_fast.score(condition.plan.source.load("float32", "cpu"), batch).sra
        assert [record.sra["paper"] for record in records] == pytest.approx(
            scores.tolist(), rel=1e-5
        )
        assert {record.turn for record in records} <= {1, 2, 3}
        kept = read_conversations(whole.out / "conversations" / f"{condition.plan.name}.jsonl")
        assert [(c.id, c.response) for c in kept] == [(r.item, r.text) for r in records]
    # the same model under the same template says the same
    same = [(r.item, r.text, r.perplexity) for r in by_condition["standard"]]
    assert [(r.item, r.text, r.perplexity) for r in by_condition[TUNED]] == same
    classifier = load_classifier("plain")
    first = found.records[0]
    probabilities = classifier.probabilities([first.text])[0]
    assert first.predicted == classifier.classes[int(probabilities.argmax())]
    assert first.probability == pytest.approx(
        probabilities[classifier.classes.index(first.strategy)]
    )


def test_a_second_call_computes_nothing(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = evaluation(tmp_path, folder, items=3)
    with opened(whole):
        first = collect(whole)

    def fail(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr("sra_fast.training.pipeline.evaluation.reply_scores.score", fail)
    monkeypatch.setattr("sra_fast.training.pipeline.evaluation.perplexity.perplexities", fail)
    monkeypatch.setattr("sra_fast.training.pipeline.generation.replies.LocalReplier.reply", fail)
    with opened(whole):
        second = collect(whole)
    assert second.records == first.records
    assert len({record.item for record in first.records}) == 3


def test_a_perplexity_that_is_no_number_is_refused_and_not_kept(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(model: Any, tokenizer: Any, conversations: Any, *_: Any, **more: Any) -> list[float]:
        return [math.nan] * len(conversations)

    place = "sra_fast.training.pipeline.evaluation.perplexity.perplexities"
    monkeypatch.setattr(place, broken)
    whole = evaluation(tmp_path, folder, items=2)
    with opened(whole), pytest.raises(ValueError, match="perplexity of the reply is nan; evaluate"):
        collect(whole)
    assert not list(whole.out.rglob("perplexities.json"))


def test_scores_and_perplexities_are_of_these_replies(tmp_path: Path, folder: Path) -> None:
    whole = evaluation(tmp_path, folder, items=3)
    with opened(whole):
        collect(whole)
        (file,) = (whole.out / "rows" / "c1_hf" / "replies").iterdir()
        first, *others = file.read_text("utf-8").splitlines()
        changed = {**json.loads(first), "text": "Quite another reply."}
        file.write_text("\n".join([json.dumps(changed), *others]) + "\n", "utf-8")
        again = collect(whole)
    (condition,) = (one for one in again.conditions if one.plan.name == "c1_hf")
    batch = sra_fast.encode(
        byte_level_bpe(), condition.conversations, condition.plan.template, turns="last"
    )
    truth = sra_fast.score(condition.plan.source.load("float32", "cpu"), batch).sra
    assert "Quite another reply." in [one.response for one in condition.conversations]
    torch.testing.assert_close(condition.result.sra, truth, rtol=1e-5, atol=1e-8)
    model = condition.plan.source.load("float32", "cpu")
    found = [r.perplexity for r in again.records if r.row == "c1_hf" and r.text]
    judged = perplexities(
        model, byte_level_bpe(), condition.conversations, TEMPLATES["standard"], STRATEGIES
    )
    assert found == pytest.approx(judged, rel=1e-5)


def test_an_empty_reply_follows_nothing(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = iter(["", "So it is.", "Go on.", ""] + ["I see."] * 100)
    monkeypatch.setattr(
        "sra_fast.training.pipeline.generation.replies.clean_reply", lambda text: next(texts)
    )
    whole = evaluation(tmp_path, folder, items=4, tuned=None)
    with opened(whole):
        found = collect(whole)
        results = conclude(whole, found, ablate=1)
    first = found.conditions[0].plan.name
    mine = [record for record in found.records if record.row == first]
    assert sorted(record.text == "" for record in mine) == [False, False, True, True]
    assert all(not r.adherent and math.isnan(r.sra["paper"]) for r in mine if not r.text)
    rows = {row["row"]: row for row in results["analysis"]["rows"]}
    assert rows[first]["n"] == 4
    assert rows[first]["accuracy"]["value"] == sum(r.adherent for r in mine) / 4
    assert rows[first]["scores"]["paper"]["n"] == 2
    assert f"{first}: 2 conversations got an empty reply" in results["gaps"]


def test_heads_are_taken_away_for_each_choice_anew(tmp_path: Path, folder: Path) -> None:
    whole = evaluation(tmp_path, folder, perplexity=False, tuned=None)
    write_conversations(whole.file, [{**one, "strategy": "Offer Hope"} for one in conversations()])
    with opened(whole):
        found = collect(whole)
        base = [condition.plan.name for condition in found.conditions]
        records = [
            replace(r, predicted=r.strategy if at % 3 else "Chit Chat")
            for at, r in enumerate(found.records)
        ]
        for count in (1, 2):
            results = conclude(whole, replace(found, records=records), ablate=count)
            rows = [row["row"] for row in results["ablation"]]
            assert rows == [
                "c1_hf, all heads",
                f"c1_hf, {count} best heads away",
                f"c1_hf, {count} other heads away",
            ]
            measured = results["heads"]["dialogues"][1]
            assert all(row["dialogues"] == measured for row in results["ablation"])
            assert results["ablation"][-1]["accuracy_difference"]["value"] is None
    folders = {one.name for one in (whole.out / "rows").iterdir()} - set(base)
    assert len(folders) == 4
    assert all(name.startswith("c1_hf-without-") for name in folders)


def test_a_failing_ablation_leaves_the_report(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise AblationError("no projection")

    monkeypatch.setattr("sra_fast.training.pipeline.evaluation.conclude.answer_without_heads", fail)
    whole = evaluation(tmp_path, folder, perplexity=False, tuned=None)
    write_conversations(whole.file, [{**one, "strategy": "Offer Hope"} for one in conversations()])
    with opened(whole):
        found = collect(whole)
        records = [
            replace(r, predicted=r.strategy if at % 3 else "Chit Chat")
            for at, r in enumerate(found.records)
        ]
        results = conclude(whole, replace(found, records=records), ablate=2)
    assert results["ablation"] is None
    assert "ablation: no projection" in results["gaps"]
    assert json.loads((whole.out / "results.json").read_text("utf-8"))["gaps"] == results["gaps"]


def test_strategies_that_the_classifier_lacks_are_named(tmp_path: Path, folder: Path) -> None:
    whole = evaluation(tmp_path, folder)
    records = [{**talk("a"), "strategy": "Question"}]
    write_conversations(whole.file, records)
    with pytest.raises(EvaluationError, match="does not know the strategies Question"):
        collect(whole)


# --- The command -----------------------------------------------------------------------------


def test_the_command_from_end_to_end(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, folder: Path
) -> None:
    file, out = tmp_path / "test.jsonl", tmp_path / "out"
    write_conversations(file, conversations())
    words = ["evaluate", str(file), "--model", str(folder), "--tuned", str(folder)]
    words += ["--templates", "standard,c1_hf", "--max-new-tokens", "8", "--ablate", "2"]
    words += ["--dtype", "float32", "--device", "cpu", "--out", str(out)]
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == 0, done.stderr
    printed = json.loads(done.stdout)
    recorded = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert printed == {"command": "evaluate", "out": str(out), **recorded}
    rows = printed["analysis"]["rows"]
    assert [row["row"] for row in rows] == ["standard", "c1_hf", TUNED]
    kept = [json.loads(line) for line in (out / "replies.jsonl").read_text().splitlines()]
    for row in rows:
        own = [one for one in kept if one["row"] == row["row"]]
        right = [one["predicted"] == one["strategy"] for one in own]
        assert row["accuracy"]["value"] == pytest.approx(sum(right) / len(own))
        sra = [one["sra"]["paper"] for one in own]
        assert row["scores"]["paper"]["value"] == pytest.approx(sum(sra) / len(own))
    report = (out / "report.md").read_text(encoding="utf-8")
    for one in kept:
        assert len(one["text"]) < 4 or one["text"] not in report + json.dumps(recorded)
    # the model and the data lie in other folders below it
    assert str(tmp_path_factory.getbasetemp()) not in report + json.dumps(recorded)
    for name in re.findall(r"\]\((\w+\.png)\)", report):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    assert CliRunner().invoke(app, words).exit_code == 0  # once more, from what is there
    other = CliRunner().invoke(app, [*words, "--seed", "5"])
    assert other.exit_code == 1
    assert "another run" in other.stderr


# --- Bad input -------------------------------------------------------------------------------


def run(file: Path, folder: Path, out: Path, *more: str) -> tuple[int, str]:
    """Return exit status and standard error of the command, run with ``--quick``."""
    words = ["evaluate", str(file), "--model", str(folder), "--out", str(out), "--no-perplexity"]
    words += ["--max-new-tokens", "6", "--dtype", "float32", "--device", "cpu", *more]
    done = CliRunner().invoke(app, words)
    assert "Traceback" not in done.output
    return done.exit_code, done.stderr


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (conversations()[0], "line 9): field 'id' is also that of conversation '0' (test.jsonl"),
        ({"dialog": [{"speaker": "usr", "text": "Hi"}]}, "line 9): unknown field 'dialog'"),
        ({"response": "Hi.", "strategy": "Offer Hope"}, "line 9): field 'messages' is missing"),
        ({**talk("z"), "strategy": "Hope"}, "does not know the strategies Hope"),
    ],
    ids=["twice", "ESConv", "a mere response", "unknown strategy"],
)
def test_bad_files_are_named(tmp_path: Path, folder: Path, line: dict[str, Any], says: str) -> None:
    file, out = write_jsonl(tmp_path / "test.jsonl", [*conversations(), line]), tmp_path / "out"
    status, said = run(file, folder, out)
    assert status == 1
    assert says in said
    assert not (out / "results.json").exists()
    assert not list(out.glob("rows/*"))


def undefined(found: Any, place: str = "") -> list[tuple[str, Any]]:
    """Return every figure without a value, and its reason."""
    if isinstance(found, list):
        return [one for at, value in enumerate(found) for one in undefined(value, f"{place}/{at}")]
    if not isinstance(found, dict):
        return []
    own = [
        (place, found["why"])
        for name in ("value", "r")
        if "why" in found and name in found and found[name] is None
    ]
    return own + [one for key, value in found.items() for one in undefined(value, f"{place}/{key}")]


def test_replies_that_are_all_alike_leave_gaps_with_reasons(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "sra_fast.training.pipeline.generation.replies.clean_reply",
        lambda raw: "It will get better, I promise.",
    )
    one = [{**talk("a", 2, strategy="Share Information"), "id": str(n)} for n in range(3)]
    file, out = write_jsonl(tmp_path / "test.jsonl", one), tmp_path / "out"
    status, said = run(file, folder, out, "--templates", "standard,c1_hf,c1_hl")
    assert status == 0, said

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    text = (out / "results.json").read_text(encoding="utf-8")
    results = json.loads(text, parse_constant=refuse)
    accuracies = [row["accuracy"] for row in results["analysis"]["rows"]]
    assert {one["value"] for one in accuracies} <= {0.0, 1.0}
    assert all(0.0 <= one["low"] < one["high"] <= 1.0 for one in accuracies)
    over_rows = results["analysis"]["over_rows"]["paper"]
    assert over_rows["pearson"]["r"] is None
    assert "constant" in over_rows["pearson"]["why"]
    gaps = undefined(results)
    assert gaps
    assert all(why for _, why in gaps)


def test_empty_replies_are_counted_and_a_row_of_them_is_named(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cleaned: list[str] = []

    def clean(raw: str) -> str:
        cleaned.append(raw)
        return "" if len(cleaned) in (2, 5) else "It will get better."

    monkeypatch.setattr("sra_fast.training.pipeline.generation.replies.clean_reply", clean)
    file, out = write_jsonl(tmp_path / "test.jsonl", conversations()), tmp_path / "out"
    status, said = run(file, folder, out, "--templates", "standard")
    assert status == 0, said
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    (row,) = results["analysis"]["rows"]
    assert (row["n"], row["scores"]["paper"]["n"]) == (8, 6)
    assert "standard: 2 conversations got an empty reply" in results["notes"]
    monkeypatch.setattr("sra_fast.training.pipeline.generation.replies.clean_reply", lambda raw: "")
    status, said = run(file, folder, tmp_path / "none", "--templates", "standard")
    assert status == 1
    assert "standard: all of the 8 replies are empty; is this a chat model?" in said


def test_what_the_tuned_model_was_trained_on_is_not_evaluated(tmp_path: Path, folder: Path) -> None:
    whole = [
        {**talk(f"d{n}", 3, strategy="Offer Hope"), "id": f"{n}", "dialogue": f"d{n}"}
        for n in range(4)
    ]
    file, tuned = write_jsonl(tmp_path / "test.jsonl", whole), tmp_path / "tuned"
    shutil.copytree(folder, tuned)
    cut = {**whole[2], "id": "another name", "messages": whole[2]["messages"][:4], "dialogue": "x"}
    write_trained_on(tuned, [beginning(one) for one in as_conversations([cut])])
    status, said = run(file, folder, tmp_path / "out", "--tuned", str(tuned))
    assert status == 1
    assert "1 of 4 conversations are of dialogues that tuned was trained on" in said
    assert "the first is '2'" in said
    assert not (tmp_path / "out").exists()
    write_trained_on(tuned, [])
    assert run(file, folder, tmp_path / "out", "--tuned", str(tuned))[0] == 0


def test_a_corrected_file_finds_its_folder_free(tmp_path: Path, folder: Path) -> None:
    file = write_jsonl(tmp_path / "test.jsonl", [{"messages": []}])
    assert run(file, folder, tmp_path / "out")[0] == 1
    assert not (tmp_path / "out").exists()
    write_jsonl(file, conversations())
    assert run(file, folder, tmp_path / "out", "--templates", "standard")[0] == 0


def test_more_conversations_than_there_are(tmp_path: Path, folder: Path) -> None:
    file = write_jsonl(tmp_path / "test.jsonl", conversations())
    status, said = run(file, folder, tmp_path / "out", "--items", "9")
    assert status == 1
    assert "holds 8 conversations, and 9 are asked for; ask for fewer (--items)" in said


@pytest.mark.parametrize("name", ["../../escaped", "a/b", "fine-tuned", ""])
def test_names_of_templates_that_are_no_names_of_rows(
    tmp_path: Path, folder: Path, name: str
) -> None:
    file = write_jsonl(tmp_path / "test.jsonl", conversations())
    own = tmp_path / "own.json"
    own.write_text(json.dumps({"name": name, "instruction": 'Be kind, by "{strategy}".'}))
    status, said = run(file, folder, tmp_path / "out", "--templates", str(own))
    assert status == 1
    assert "name" in said
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "escaped").exists()


def test_replies_without_a_word_are_a_gap(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_jsonl(tmp_path / "test.jsonl", conversations())
    monkeypatch.setattr(
        "sra_fast.training.pipeline.generation.replies.clean_reply", lambda text: "..."
    )
    status, _ = run(file, folder, tmp_path / "out", "--templates", "standard")
    assert status == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text("utf-8"))
    assert results["quality"] is None
    assert "language: no reply has a word" in results["gaps"]
