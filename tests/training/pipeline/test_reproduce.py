"""Test that ``reproduce`` writes one folder and one report, and that a killed run ends the same."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
from typer.testing import CliRunner

pytest.importorskip("sklearn", reason="needs the package scikit-learn (extra 'pipeline')")
pytest.importorskip("peft", reason="needs the package peft (extra 'train')")

from sra_fast.chat.strategies import STRATEGIES as PAPER_STRATEGIES
from sra_fast.cli.app import app
from sra_fast.files.models import find_model
from sra_fast.training.lora.settings import TrainingConfig
from sra_fast.training.pipeline.classifiers import ClassifierError, load_classifier
from sra_fast.training.pipeline.classifiers.labelled import read_labelled
from sra_fast.training.pipeline.extension.cuts import Cutting
from sra_fast.training.pipeline.generation.sampling import Sampling
from sra_fast.training.pipeline.reproduction.deviations import deviations
from sra_fast.training.pipeline.reproduction.noise import label_noise, plain_quality
from sra_fast.training.pipeline.reproduction.reproduce import Progress, _classify, _opinions
from sra_fast.training.pipeline.reproduction.reproduction_report import seeds
from sra_fast.training.pipeline.reproduction.stages import Reproduction
from tiny_chat_model import save_tiny_model, write_jsonl

STRATEGIES = {"Offer Hope": "Hope.", "Clarification": "Ask.", "Affirmation": "Praise."}
ROWS = ["standard", "c1_hf", "c3_hf", "c5_hf", "c1_hl", "c3_hl", "c5_hl", "fine-tuned"]


def dialogues(folder: Path, count: int = 24) -> Path:
    speakers = ("seeker", "supporter")
    entries = [
        {
            "situation": f"It is day {number}.",
            "dialog": [
                {"speaker": speakers[n % 2], "annotation": {}, "content": f"SECRET {number}, {n}"}
                for n in range(10)
            ],
        }
        for number in range(count)
    ]
    path = folder / "dialogues.json"
    path.write_text(json.dumps(entries), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the command's words, except --out."""
    folder = tmp_path_factory.mktemp("inputs")
    strategies = folder / "strategies.json"
    strategies.write_text(json.dumps(STRATEGIES), encoding="utf-8")
    config = folder / "training.yaml"
    config.write_text("rank: 4\naccumulation: 1\nmax_steps: 2\neval_steps: 1\n", encoding="utf-8")
    words: list[Any] = ["reproduce", dialogues(folder)]
    words += ["--model", save_tiny_model(folder / "model"), "--config", config]
    words += ["--strategies", strategies, "--test", "0.2", "--validation", "0.1", "--cuts", "2"]
    words += ["--max-new-tokens", "12", "--items", "6", "--ablate", "1"]
    return [str(word) for word in words]


def run(words: list[str], out: Path) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, [*words, "--out", str(out), "--json"])
    return done.exit_code, done.stdout, done.stderr


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, inputs: list[str]) -> Path:
    out = tmp_path_factory.mktemp("finished") / "run"
    status, stdout, stderr = run(inputs, out)
    assert status == 0, stderr
    printed = json.loads(stdout)
    assert printed["command"] == "reproduce"
    return out


def test_the_report_names_everything(finished: Path) -> None:
    results = json.loads((finished / "results.json").read_text(encoding="utf-8"))
    page = (finished / "report.md").read_text(encoding="utf-8")
    assert [row["row"] for row in results["evaluation"]["analysis"]["rows"]] == ROWS
    assert results["data"]["file"] == "dialogues.json"
    assert results["data"]["sha256"][:12] in page
    assert results["seeds"] == {"cutting": 42, "sampling": 42, "training": 42}
    assert {"sra_fast", "torch", "transformers", "peft"} <= set(results["versions"])
    assert results["commits"]
    assert results["commits"][0] in page
    assert results["deviations"]
    assert all(one.split(":")[0] in page for one in results["deviations"])
    assert results["classifier"]["label_noise"]["when_plain"] > 0.5
    assert results["training"]["steps"] == 2
    assert results["settings"]["strategies"] == list(STRATEGIES)
    assert "strategies: 3 of one's own; the paper's are 15" in results["deviations"]
    assert "- strategies: 3 of one's own; the paper's are 15" in page
    ablated = [row["row"] for row in results["evaluation"]["ablation"]]
    assert len(ablated) == 3 or not results["evaluation"]["heads"]["best"]


def test_figures_of_the_page_are_there(finished: Path) -> None:
    page = (finished / "report.md").read_text(encoding="utf-8")
    shown = re.findall(r"!\[[^]]*\]\(([^)]*)\)", page)
    assert {"confusion.png", "curves.png"} <= set(shown)
    assert len(shown) >= 5
    for name in shown:
        assert (finished / name).read_bytes().startswith(b"\x89PNG")


def test_no_text_of_dialogues_and_no_path_is_in_the_report(
    finished: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    for name in ("report.md", "results.json"):
        text = (finished / name).read_text(encoding="utf-8")
        assert "SECRET" not in text
        # model, data and settings lie in other folders below it
        assert str(tmp_path_factory.getbasetemp()) not in text


def test_a_second_call_changes_nothing(finished: Path, inputs: list[str]) -> None:
    before = {
        path: path.read_bytes()
        for path in finished.rglob("*")
        if path.suffix in (".md", ".json", ".jsonl", ".safetensors")
    }
    status, _, stderr = run(inputs, finished)
    assert status == 0, stderr
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize(
    "lost",
    [["evaluation/rows/c3_hf", "results.json"], ["tuned", "evaluation", "report.md", "run.json"]],
)
def test_what_was_lost_is_made_again_and_the_end_is_the_same(
    tmp_path: Path, finished: Path, inputs: list[str], lost: list[str]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    for name in lost:
        if name == "run.json":  # as a run is that was killed: not finished
            record = json.loads((out / name).read_text(encoding="utf-8"))
            (out / name).write_text(json.dumps({**record, "finished": False}), encoding="utf-8")
        elif (out / name).is_dir():
            shutil.rmtree(out / name)
        else:
            (out / name).unlink()
    status, _, stderr = run(inputs, out)
    assert status == 0, stderr
    for name in ("report.md", "results.json", "extended/test.jsonl"):
        assert (out / name).read_bytes() == (finished / name).read_bytes()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("template: c1_hf", "training.yaml: template: the reproduction trains under the standard"),
        ("eval_data: other.jsonl", "training.yaml: eval_data: the reproduction trains"),
        (
            "strategies: own.json",
            "leave the setting out, and give the strategies themselves (--strategies)",
        ),
    ],
)
def test_what_only_the_fine_tuning_would_read_is_refused(
    tmp_path: Path, inputs: list[str], line: str, says: str
) -> None:
    config = tmp_path / "training.yaml"
    config.write_text(f"{line}\n", encoding="utf-8")
    status, stdout, _ = run([*inputs, "--config", str(config)], tmp_path / "run")
    assert status == 1
    assert says in json.loads(stdout)["error"]
    assert not (tmp_path / "run").exists()


def asked(monkeypatch: pytest.MonkeyPatch, words: list[str], out: Path) -> Reproduction:
    """Return what the command asks for, without doing it."""
    seen: list[Reproduction] = []

    def remember(reproduction: Reproduction, progress: Progress) -> dict[str, Any]:
        seen.append(reproduction)
        return {}

    monkeypatch.setattr("sra_fast.training.pipeline.reproduction.reproduce.reproduce", remember)
    status, _, stderr = run(words, out)
    assert status == 0, stderr
    return seen[0]


@pytest.mark.parametrize(
    ("line", "given", "seed", "dtype"),
    [
        ("rank: 4", [], 42, "auto"),
        ("{seed: 7, dtype: float32}", [], 7, "float32"),
        ("{seed: 7, dtype: float32}", ["--seed", "42", "--dtype", "bfloat16"], 42, "bfloat16"),
    ],
)
def test_seed_and_dtype_are_those_given_or_of_the_file_or_the_defaults(
    tmp_path: Path,
    inputs: list[str],
    monkeypatch: pytest.MonkeyPatch,
    line: str,
    given: list[str],
    seed: int,
    dtype: str,
) -> None:
    config = tmp_path / "training.yaml"
    config.write_text(f"{line}\n", encoding="utf-8")
    words = [*inputs, "--config", str(config), "--classifier", "roberta", *given]
    found = asked(monkeypatch, words, tmp_path / "run")
    assert seeds(found) == dict.fromkeys(("cutting", "sampling", "training", "classifier"), seed)
    assert found.classifier_settings == {"seed": seed}
    assert found.training.dtype == found.dtype == dtype


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--test", "0"], "the test part is what is evaluated (--test)"),
        (["--dialogues", "9"], "give more dialogues, more cuts of each, or fewer strategies"),
    ],
)
def test_what_cannot_be_done_is_known_before_anything_is_generated(
    tmp_path: Path, inputs: list[str], more: list[str], says: str
) -> None:
    status, stdout, _ = run([*inputs, *more], tmp_path / "run")
    assert status == 1
    assert says in json.loads(stdout)["error"]
    assert not (tmp_path / "run").exists()


def test_an_adapter_is_refused_before_anything_is_generated(
    tmp_path: Path, inputs: list[str], finished: Path
) -> None:
    words = [*inputs, "--model", str(finished / "tuned" / "adapter")]
    status, stdout, _ = run(words, tmp_path / "run")
    assert status == 1
    assert "is itself an adapter" in json.loads(stdout)["error"]
    assert not (tmp_path / "run").exists()


def test_a_classifier_that_cannot_be_trained_names_its_own_option(
    tmp_path: Path, inputs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """``--model`` is the model that is reproduced on, and no encoder of a classifier."""

    def refused(*_: object, **__: object) -> None:
        raise ClassifierError("there is no such encoder", "model")

    asked_for = asked(monkeypatch, inputs, tmp_path / "run")
    place = "sra_fast.training.pipeline.reproduction.reproduce.train_with_report"
    monkeypatch.setattr(place, refused)
    with pytest.raises(ClassifierError, match="no such encoder") as error:
        _classify(asked_for, [])
    assert error.value.arguments == ("classifier",)


def test_another_run_is_refused(finished: Path, inputs: list[str]) -> None:
    status, stdout, _ = run([*inputs, "--seed", "7"], finished)
    assert status == 1
    assert "holds another run" in json.loads(stdout)["error"]


# --- Noise of the labels ----------------------------------------------------------------------


def test_noise_by_hand() -> None:
    labels = ["a", "a", "b", "b"]
    named = ["a", "b", "b", "b"]
    found = label_noise(labels, named, range(4), 0.9)
    assert found.agreement == 0.75
    assert found.by_chance == 0.5 * 0.25 + 0.5 * 0.75
    assert found.noise.value == pytest.approx((0.9 - 0.75) / (0.9 - 0.5))


@pytest.mark.parametrize("noise", [0.0, 0.3, 0.8, 1.0])
def test_noise_that_was_put_in_is_found(noise: float) -> None:
    generator = numpy.random.default_rng(3)
    true = generator.integers(15, size=20_000)
    label = numpy.where(generator.random(20_000) < noise, generator.integers(15, size=20_000), true)
    named = numpy.where(generator.random(20_000) < 0.9, true, generator.integers(15, size=20_000))
    texts = [[str(one) for one in column] for column in (label, named)]
    right_when_plain = 0.9 + 0.1 / 15
    found = label_noise(*texts, dialogues=range(20_000), when_plain=right_when_plain)
    assert found.noise.value == pytest.approx(noise, abs=0.02)
    assert found.noise.low <= found.noise.value <= found.noise.high


def test_one_dialogue_gives_no_interval_and_a_useless_classifier_no_noise() -> None:
    one = label_noise(["a", "b"], ["a", "b"], ["d", "d"], 0.9)
    assert one.noise.value == 0.0
    assert one.noise.low is None
    assert "a single dialogue" in str(one.noise.why)
    useless = label_noise(["a", "a"], ["a", "a"], range(2), 0.9)
    assert useless.noise.value is None
    assert "no better than chance" in str(useless.noise.why)


def test_plain_is_measured_on_replies_it_has_not_learnt() -> None:
    found = plain_quality(42)
    assert found.responses == 900
    assert set(found.classes) == set(load_classifier("plain").classes)
    assert 0.8 < found.accuracy < 1.0


# --- Deviations -------------------------------------------------------------------------------


def test_the_papers_own_settings_deviate_in_nothing_that_is_set(tmp_path: Path) -> None:
    (tmp_path / "d.json").write_text("[]", encoding="utf-8")

    def told(**changes: Any) -> str:
        settings: dict[str, Any] = {
            "file": tmp_path / "d.json",
            "out": tmp_path,
            "base": find_model(str(save_tiny_model(tmp_path / "model"))),
            "strategies": PAPER_STRATEGIES,
            "cutting": Cutting(),
            "sampling": Sampling(),
            "test": 100 / 1297,
            "validation": 50 / 1297,
            "training": TrainingConfig(),
            **changes,
        }
        return "\n".join(deviations(Reproduction(**settings), dialogues=1297, responses=1000))

    paper = told()
    for word in (
        "strategies:",
        "dialogues:",
        "cuts:",
        "temperature",
        "fine-tuning:",
        "responses of a condition",
    ):
        assert word not in paper
    changed = told(
        cutting=Cutting(cuts=1, probability=0.5),
        sampling=Sampling(max_new_tokens=99),
        training=TrainingConfig(rank=8, epochs=1.0),
        strategies={**PAPER_STRATEGIES, "Offer Hope": "Be cheerful."},
    )
    for words in (
        "strategies: the same names, other descriptions",
        "cuts: at most 1",
        "probability: 0.5",
        "max_new_tokens: 99",
        "rank 8",
        "alpha 16",
    ):
        assert words in changed


def test_a_test_part_of_one_strategy_is_measured_too(tmp_path: Path) -> None:
    folder = tmp_path / "extended"
    folder.mkdir()
    lines = {
        "train": [("I see hope.", "Offer Hope"), ("What do you mean?", "Clarification")],
        "test": [("There is hope.", "Offer Hope"), ("Hope again.", "Offer Hope")],
    }
    for part, replies in lines.items():
        records = [{"response": text, "strategy": strategy} for text, strategy in replies]
        write_jsonl(folder / f"{part}.jsonl", records)
    plain = load_classifier("plain")
    asked: Any = SimpleNamespace(out=tmp_path, strategies=STRATEGIES, sampling=Sampling())
    train = read_labelled(folder / "train.jsonl", STRATEGIES)
    found = _opinions(asked, train, plain, plain)
    assert found.plain is not None
    assert found.plain.responses == 2
    assert found.noise is not None
