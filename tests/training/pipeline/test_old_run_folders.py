"""Folders of earlier versions: each kind is written here as it lay then, and continued or read.

Settings are spelled out by hand, because a run whose settings are called otherwise is another run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("sklearn", reason="needs the package scikit-learn (extra 'pipeline')")
pytest.importorskip("openai", reason="needs the package openai (extra 'pipeline')")
pytest.importorskip("peft", reason="needs the package peft (extra 'train')")

import sra_fast
from fake_endpoint import FakeEndpoint, completion
from sra_fast.chat.conversations import as_conversations, read_conversations
from sra_fast.chat.strategies import DEFAULT_STRATEGIES
from sra_fast.chat.templates import TEMPLATES
from sra_fast.files.models import ModelSource, find_model
from sra_fast.files.run_folder import RunFolder, RunFolderError
from sra_fast.files.score_file import FileScorer
from sra_fast.files.scoring_options import ScoringOptions
from sra_fast.training.lora.settings import TrainingConfig
from sra_fast.training.lora.train_data import read_data, settings_of_run
from sra_fast.training.pipeline.classifiers import load_classifier
from sra_fast.training.pipeline.endpoint import Endpoint
from sra_fast.training.pipeline.evaluation.evaluate import Evaluation, collect, opened
from sra_fast.training.pipeline.evaluation.reply_scores import score_replies
from sra_fast.training.pipeline.extension.cuts import Cutting
from sra_fast.training.pipeline.extension.extend import Extension, cut_and_split, extend
from sra_fast.training.pipeline.generation.replies import Reply
from sra_fast.training.pipeline.generation.sampling import Sampling
from sra_fast.training.pipeline.items import read_items
from sra_fast.training.pipeline.judging.judge import JudgingRun, judge
from sra_fast.training.pipeline.judging.judge_prompt import DEFAULT_PROMPT, question
from sra_fast.training.pipeline.reproduction.stages import Reproduction
from tiny_chat_model import save_tiny_model, talk, write_jsonl

VERSIONS = {
    "sra_fast": sra_fast.__version__,
    "torch": torch.__version__,
    "transformers": version("transformers"),
}
SAMPLING = {"temperature": 0.7, "top_p": 0.9, "max_new_tokens": 8, "seed": 42}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    return find_model(str(save_tiny_model(tmp_path_factory.mktemp("model"))))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def old_run(folder: Path, settings: dict[str, Any], *, finished: bool) -> None:
    """``run.json`` as it has always been."""
    folder.mkdir(parents=True, exist_ok=True)
    record = {"format": "sra_fast.run/1", "finished": finished, "settings": settings}
    text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
    (folder / "run.json").write_text(text, encoding="utf-8")


def refuse(*args: Any, **kwargs: Any) -> Any:
    raise AssertionError("computed again")


# --- Scores ---


def scoring(tmp_path: Path, source: ModelSource) -> tuple[FileScorer, dict[str, Any], Path]:
    file = write_jsonl(tmp_path / "chats.jsonl", [talk("c1"), talk("c2", 3)])
    shared = {
        "input_sha256": sha256(file),
        "model": source.fingerprint(),
        "definition": "paper",
        "strategies": dict(DEFAULT_STRATEGIES),
        "batch_tokens": 1,
        "dtype": "float32",
        "device": "cpu",
        "backend": "auto",
        "versions": VERSIONS,
    }
    options = ScoringOptions(batch_tokens=1, dtype="float32", device="cpu")
    return FileScorer(source, file, options), shared, file


@pytest.mark.parametrize("kind", ["score", "compare template", "demo"])
@pytest.mark.parametrize("finished", [False, True])
def test_scores(
    tmp_path: Path,
    source: ModelSource,
    kind: str,
    finished: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scorer, shared, file = scoring(tmp_path, source)
    out, conversations = tmp_path / "old", read_conversations(file)
    new = scorer.prepare(kind, tmp_path / "new", conversations, TEMPLATES["standard"], "all")
    digest = hashlib.sha256()
    for prompt in new.prompts:
        for tensor in (prompt.input_ids, prompt.strategy_mask, prompt.response_mask):
            digest.update(tensor.numpy().tobytes())
    settings = {
        "kind": kind,
        "template": asdict(TEMPLATES["standard"]),
        "turns": "all",
        **shared,
        "prompts_sha256": digest.hexdigest(),
    }
    (whole,) = scorer.run([new])
    old_run(out, settings, finished=finished)
    if finished:
        whole.result.save(out / "masses.safetensors")
    else:
        (out / "shards").mkdir()
        batch = sra_fast.encode(scorer.tokenizer, conversations[:1], "standard")
        sra_fast.score(scorer.load(), batch).save(out / "shards" / "00000.safetensors")
        (out / ".masses.safetensors.77.tmp").write_bytes(b"half")
    scored: list[int] = []

    def counted(model: Any, batch: Any, **more: Any) -> Any:
        scored.append(len(batch["input_ids"]))
        return sra_fast.score(model, batch, **more)

    monkeypatch.setattr("sra_fast.files.batch_scorer.score", counted)
    job = scorer.prepare(kind, out, conversations, TEMPLATES["standard"], "all")
    (again,) = scorer.run([job])
    assert scored == ([] if finished else [1])
    assert again.rows == whole.rows
    for path in (tmp_path / "new").iterdir():
        assert (out / path.name).exists()
    assert (out / "run.json").read_text() == (tmp_path / "new" / "run.json").read_text()
    assert not (out / "shards").exists()


@pytest.mark.parametrize(("kind", "more"), [("compare", {"turns": "all"}), ("demo", {})])
def test_folders_around_scores(
    tmp_path: Path, source: ModelSource, kind: str, more: dict[str, Any]
) -> None:
    scorer, shared, _ = scoring(tmp_path, source)
    old_run(tmp_path / "out", {"kind": kind, **more, **shared}, finished=False)
    with RunFolder(tmp_path / "out", scorer.settings(kind, **more)).opened():
        pass
    with pytest.raises(RunFolderError, match="its setting 'turns'"):
        RunFolder(tmp_path / "out", scorer.settings(kind, turns="last")).check()


# --- Replies ---


class Naming:
    """Replies with the item's name, in batches of two."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def plan(self, prompts: Sequence[Any]) -> list[list[int]]:
        return [list(range(len(prompts)))[at : at + 2] for at in range(0, len(prompts), 2)]

    def reply(self, prompts: Sequence[Any]) -> list[Reply]:
        self.asked += [prompt.item for prompt in prompts]
        return [Reply(p.item, f"To {p.item}.", "raw", 3, True) for p in prompts]


def reply_line(item: str, text: str) -> str:
    line = {"item": item, "text": text, "raw": f" {text}", "tokens": 4, "finished": True}
    return json.dumps(line, ensure_ascii=False) + "\n"


def extension(folder: Path, replier: dict[str, Any]) -> Extension:
    dialogues = [
        {
            "situation": f"It is day {number}.",
            "dialog": [
                {"speaker": ("seeker", "supporter")[n % 2], "content": f"{number} at {n}"}
                for n in range(10)
            ],
        }
        for number in range(6)
    ]
    folder.mkdir(exist_ok=True)
    file = folder / "dialogues.json"
    file.write_text(json.dumps(dialogues), encoding="utf-8")
    return Extension(
        file=file,
        out=folder / "out",
        template=TEMPLATES["c1_hf"],
        strategies={"Offer Hope": "Hope."},
        cutting=Cutting(probability=1.0, cuts=1),
        sampling=Sampling(max_new_tokens=8),
        replier=replier,
        test=0.2,
        validation=0.1,
    )


def extension_settings(one: Extension) -> dict[str, Any]:
    return {
        "kind": "extend",
        "model": one.replier,
        "template": asdict(TEMPLATES["c1_hf"]),
        "strategies": {"Offer Hope": "Hope."},
        "cutting": asdict(one.cutting),
        "sampling": SAMPLING,
        "test": 0.2,
        "validation": 0.1,
        "version": sra_fast.__version__,
        "file": "dialogues",
        "file_sha256": sha256(one.file),
    }


def test_extended_dialogues(tmp_path: Path) -> None:
    one = extension(tmp_path / "run", {"name": "tiny"})
    old_run(one.out, extension_settings(one), finished=False)
    items = [c.id for c in cut_and_split(one).opened]
    (one.out / "replies").mkdir()
    replies = one.out / "replies"
    known = reply_line(items[0], "Kept.") + reply_line(items[1], "Also kept.")
    (replies / "00000.jsonl").write_text(known)
    (replies / ".00001.jsonl.77.tmp").write_text("{")
    naming = Naming()
    extend(one, lambda: naming)
    assert naming.asked == items[2:]
    assert sorted(p.name for p in replies.glob("*.jsonl"))[-1] == "00002.jsonl"
    parts = ("train", "test", "validation")
    texts = [c.response for p in parts for c in read_conversations(one.out / f"{p}.jsonl")]
    assert {"Kept.", "Also kept.", f"To {items[2]}."} <= set(texts)
    before = {path: path.read_bytes() for path in one.out.rglob("*.json*")}
    old_run(one.out, extension_settings(one), finished=True)
    extend(one, lambda: naming)
    assert naming.asked == items[2:]
    assert {path: path.read_bytes() for path in one.out.rglob("*.json*")} == before


# --- Judging ---


def test_a_transcript(tmp_path: Path) -> None:
    for system in "ab":
        records = [
            {**talk(f"i{n}", 1), "response": f"{system} {n}"}
            | {"messages": [{"role": "user", "content": f"Low, {n}."}]}
            for n in range(3)
        ]
        write_jsonl(tmp_path / f"{system}.jsonl", records)
    files = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    out = tmp_path / "out"
    with FakeEndpoint(lambda request, number: completion("TIE")) as server:
        endpoint = Endpoint(server.url, "big", retries=0, concurrency=1)
        settings = {
            "kind": "judge",
            "a_sha256": sha256(files[0]),
            "b_sha256": sha256(files[1]),
            "endpoint": server.url,
            "judge": "big",
            "temperature": 0.0,
            "max_tokens": 2048,
            "prompt": DEFAULT_PROMPT,
            "strategies": {"Offer Hope": DEFAULT_STRATEGIES["Offer Hope"]},
            "items": None,
            "seed": 0,
        }
        old_run(out, settings, finished=False)
        item = read_items(*files, DEFAULT_STRATEGIES)[0]
        lines = [
            json.dumps(
                {
                    "item": "i0",
                    "order": order,
                    "attempt": 1,
                    "prompt_sha256": hashlib.sha256(DEFAULT_PROMPT.encode()).hexdigest(),
                    "messages": question(DEFAULT_PROMPT, item, order),  # type: ignore[arg-type]
                    "answer": answer,
                    "finish_reason": "stop",
                    "verdict": answer.lower(),
                    "usage": {"total_tokens": 10},
                }
            )
            for order, answer in (("ab", "FIRST"), ("ba", "SECOND"))
        ]
        transcript = out / "transcript.jsonl"
        transcript.write_text("\n".join([*lines, '{"item": "i1", "ord']))
        result = judge(JudgingRun(*files, endpoint, out))
        assert (result.overall.wins.count, result.overall.ties.count) == (1, 2)
        assert len(server.requests) == 4
        assert [json.loads(line)["item"] for line in transcript.read_text().splitlines()] == [
            *("i0", "i0", "i1", "i1", "i2", "i2")
        ]
        old_run(out, settings, finished=False)  # as complete runs were marked, too
        assert judge(JudgingRun(*files, endpoint, out)).overall == result.overall
        assert len(server.requests) == 4


# --- Evaluations ---


def test_rows_of_an_evaluation(
    tmp_path: Path, source: ModelSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, out = write_jsonl(tmp_path / "test.jsonl", [talk(f"c{n}") for n in range(3)]), "out"
    whole = Evaluation(
        file=file,
        out=tmp_path / out,
        base=source,
        tuned=None,
        templates=[TEMPLATES["standard"]],
        strategies=DEFAULT_STRATEGIES,
        classifier=load_classifier("plain"),
        classifier_name="plain",
        sampling=Sampling(max_new_tokens=8),
        dtype="float32",
        device="cpu",
    )
    settings = {
        "kind": "evaluate",
        "model": source.fingerprint(),
        "tuned": None,
        "templates": [asdict(TEMPLATES["standard"])],
        "strategies": dict(DEFAULT_STRATEGIES),
        "sampling": SAMPLING,
        "items": None,
        "dtype": "float32",
        "device": "cpu",
        "versions": VERSIONS,
        "file_sha256": sha256(file),
    }
    old_run(whole.out, settings, finished=False)
    row = whole.out / "rows" / "standard"
    (row / "replies").mkdir(parents=True)
    texts = {f"c{n}": f"Hope it is, {n}." for n in range(3)}
    lines = [reply_line(item, text) for item, text in texts.items()]
    (row / "replies" / "00000.jsonl").write_text("".join(lines))
    answered = [
        one.with_last_reply(texts[one.id]) for one in as_conversations([talk(i) for i in texts])
    ]
    model, tokenizer = source.load("float32", "cpu"), source.tokenizer()
    result = score_replies(
        *(model, tokenizer, answered, TEMPLATES["standard"], DEFAULT_STRATEGIES),
        tmp_path / "scored",
        {},
    )
    replied = json.dumps([text for item in texts for text in (item, texts[item])])
    name = hashlib.sha256(replied.encode()).hexdigest()[:16]
    scores = row / f"scores-{name}"
    old_run(
        scores,
        {
            "kind": "evaluate",
            "row": "standard",
            "model": source.fingerprint(),
            "sampling": SAMPLING,
        },
        finished=True,
    )
    result.save(scores / "masses.safetensors")
    kept = {"replies": name, "perplexities": [2.5, 3.5, 4.5]}
    (row / "perplexities.json").write_text(json.dumps(kept))
    for place in ("reply_scores.score", "perplexity.perplexities"):
        monkeypatch.setattr(f"sra_fast.training.pipeline.evaluation.{place}", refuse)
    monkeypatch.setattr("sra_fast.training.pipeline.generation.replies.LocalReplier.reply", refuse)
    with opened(whole):
        found = collect(whole)
    assert [record.text for record in found.records] == list(texts.values())
    assert [record.perplexity for record in found.records] == [2.5, 3.5, 4.5]
    torch.testing.assert_close(found.conditions[0].result.sra, result.sra, rtol=0, atol=0)


# --- Training and reproductions ---


TRAINING = {
    "max_length": 4096,
    "too_long": "error",
    "eval_fraction": 0.1,
    "rank": 128,
    "alpha": None,
    "dropout": 0.05,
    "targets": "all-linear",
    "batch_size": 2,
    "accumulation": 32,
    "epochs": 5.0,
    "max_steps": None,
    "learning_rate": 1e-4,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "scheduler": "cosine_with_restarts",
    "cycles": 5,
    "warmup_ratio": 0.1,
    "eval_steps": 20,
    "patience": 10,
    "logging_steps": 1,
    "save_total_limit": 2,
    "sra_weight": 0.0,
    "sra_target": None,
    "sra_log": True,
    "sra_layers": None,
    "sra_heads": None,
    "sra_definition": "paper",
    "dtype": "auto",
    "load_4bit": False,
    "gradient_checkpointing": False,
    "reentrant_checkpointing": False,
    "mlp_slices": 1,
    "seed": 42,
}


def test_a_training_run(tmp_path: Path, source: ModelSource) -> None:
    chats = write_jsonl(tmp_path / "chats.jsonl", [talk(f"c{n}") for n in range(10)])
    data = read_data(chats, source.tokenizer(), TrainingConfig())
    settings = {
        "kind": "train",
        "model": source.fingerprint(),
        "template": asdict(TEMPLATES["standard"]),
        "strategies": dict(DEFAULT_STRATEGIES),
        **TRAINING,
        "device": "cpu",
        "processes": 1,
        "versions": {**VERSIONS, "peft": version("peft")},
        "examples_sha256": data.digest(),
    }
    old_run(tmp_path / "out", settings, finished=False)
    now = settings_of_run(source, data, TrainingConfig(), "cpu")
    RunFolder(tmp_path / "out", now).check()
    with pytest.raises(RunFolderError, match="its setting 'rank' is 128, and now it is 4"):
        RunFolder(tmp_path / "out", {**now, "rank": 4}).check()


def test_a_reproduction(tmp_path: Path, source: ModelSource) -> None:
    replier = {
        **source.fingerprint(),
        "dtype": "float32",
        "device": "cpu",
        "versions": {name: VERSIONS[name] for name in ("torch", "transformers")},
    }
    one = extension(tmp_path, replier)
    reproduction = Reproduction(
        file=one.file,
        out=tmp_path / "run",
        base=source,
        strategies=one.strategies,
        cutting=one.cutting,
        sampling=one.sampling,
        test=0.2,
        validation=0.1,
        training=TrainingConfig(),
        dtype="float32",
        device="cpu",
    )
    settings = {
        "kind": "reproduce",
        "model": source.fingerprint(),
        "strategies": {"Offer Hope": "Hope."},
        "extension": extension_settings(one),
        "training": TRAINING,
        "classifier": {"kind": "lexical"},
        "items": None,
        "ablate": 0,
        "version": sra_fast.__version__,
    }
    old_run(reproduction.out, settings, finished=True)
    assert RunFolder(reproduction.out, reproduction.settings()).is_finished()
