"""Test the workers of ray: the plain run's bytes, whatever becomes of a worker on the way."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from typer.testing import CliRunner

import sra_fast
from sra_fast.chat.conversations import read_conversations
from sra_fast.chat.templates import get_template
from sra_fast.cli.app import app
from sra_fast.files import ray_workers
from sra_fast.files.models import find_model
from sra_fast.files.numbered_batches import Batch
from sra_fast.files.ray_cluster import ClusterError, check_gpus, connect
from sra_fast.files.ray_workers import RayWorkers
from sra_fast.files.score_file import FileScorer
from sra_fast.files.score_folder import MASSES, SHARDS
from sra_fast.files.score_jobs import ScoredJob
from sra_fast.files.scoring_options import ScoringError, ScoringOptions
from sra_fast.files.scoring_worker import RayWorker, ScoredBatch, WorkerError
from sra_fast.result import SRAResult
from tiny_chat_model import save_tiny_model, talk, write_jsonl

ray = pytest.importorskip("ray", reason="needs the package ray")

OPTIONS = ScoringOptions(batch_tokens=1500, device="cpu")


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """A cluster of this machine, on which each worker computes with one thread as the suite."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        logging_level="ERROR",
        log_to_driver=False,
        object_store_memory=100_000_000,
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def count(request: pytest.FixtureRequest) -> int:
    """Return how many conversations are scored."""
    return 2000 if request.config.getoption("every_family") else 100


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory, count: int) -> Path:
    records = [
        talk(f"c{number:04}", 1 + number % 3, meta={"part": number % 2}) for number in range(count)
    ]
    return write_jsonl(tmp_path_factory.mktemp("chats") / "chats.jsonl", records)


def scored(
    model: Path,
    chats: Path,
    out: Path,
    workers: RayWorkers | None = None,
    on_progress: Any = lambda job, tokens: None,
    options: ScoringOptions = OPTIONS,
) -> ScoredJob:
    scorer = FileScorer(find_model(str(model)), chats, options, workers)
    conversations = read_conversations(chats)
    job = scorer.prepare("score", out, conversations, get_template("standard"), "all")
    (done,) = scorer.run([job], on_progress)
    return done


@pytest.fixture(scope="module")
def plain(model: Path, chats: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run in this process."""
    out = tmp_path_factory.mktemp("plain") / "out"
    scored(model, chats, out)
    return out


def same(one: Path, other: Path) -> bool:
    """Tell whether two run folders hold the same files with the same bytes."""
    names = [sorted(file.name for file in folder.iterdir()) for folder in (one, other)]
    return names[0] == names[1] and all(
        (one / name).read_bytes() == (other / name).read_bytes() for name in names[0]
    )


def worker_processes() -> list[int]:
    processes = psutil.Process().children(recursive=True)
    return [one.pid for one in processes if any("ray::RayWorker" in word for word in one.cmdline())]


def test_a_run_whose_workers_are_killed_twice_ends_as_a_plain_one(
    model: Path,
    chats: Path,
    count: int,
    plain: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    kills = [0.2, 0.4]  # after this share of the tokens
    killed: list[int] = []
    done = 0

    def kill(job: Any, tokens: int) -> None:
        nonlocal done
        done += tokens
        if kills and done > kills[0] * job.tokens:
            kills.pop(0)
            pid = next(pid for pid in worker_processes() if pid not in killed)
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

    with RayWorkers(str(model), OPTIONS, 2) as workers:
        whole = scored(model, chats, tmp_path / "ray", workers, kill)
    assert len(set(killed)) == 2
    assert caplog.text.count("a worker ended before its batch was done") == 2
    expected = [(f"c{n:04}", turn) for n in range(count) for turn in range(1, 2 + n % 3)]
    assert [(row["conversation_id"], row["turn"]) for row in whole.rows] == expected
    assert same(tmp_path / "ray", plain)


def test_the_command_gives_the_run_of_a_plain_one_and_prints_one_object(
    model: Path, chats: Path, plain: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = ["score", chats, "--model", model, "--out", out, "--json", "--device", "cpu"]
    engine = ["--engine", "ray", "--workers", 1, "--batch-tokens", OPTIONS.batch_tokens]
    done = CliRunner().invoke(app, [str(word) for word in (*words, *engine)])
    assert done.exit_code == 0, done.output
    assert len(json.loads(done.stdout)["scores"]) == len(SRAResult.load(out / MASSES))
    assert same(out, plain)


def test_a_batch_that_ends_every_worker_is_told_and_the_rest_is_kept(
    model: Path, chats: Path, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ended(RayWorker):
        def score(self, number: int, batch: Batch) -> ScoredBatch:
            if number == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().score(number, batch)

    monkeypatch.setattr(ray_workers, "RayWorker", Ended)
    monkeypatch.setattr(ray_workers, "_RETRIES", 1)
    out = tmp_path / "out"
    with (
        RayWorkers(str(model), OPTIONS, 1) as workers,
        pytest.raises(
            WorkerError, match=r"a worker ended, .*what is done is kept; or take fewer tokens"
        ) as raised,
    ):
        scored(model, chats, out, workers)
    assert raised.value.arguments == ("batch_tokens", "workers")
    assert [file.stem for file in sorted((out / SHARDS).iterdir())] == ["00000", "00001"]
    scored(model, chats, out)  # the same run continues without workers
    assert same(out, plain)


def test_what_a_worker_warns_of_and_refuses_is_told_as_in_a_plain_run(
    model: Path,
    chats: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Refuses(RayWorker):
        def score(self, number: int, batch: Batch) -> ScoredBatch:
            import logging

            from sra_fast.files.batch_scorer import BatchScorer
            from sra_fast.measure.spans import BatchRowError

            def refused(self: Any, prompts: Batch) -> Any:
                logging.getLogger("sra_fast").warning("mind the gap")
                if number == 1:
                    raise BatchRowError(1, "has no strategy")
                return scored_by(self, prompts)

            scored_by, BatchScorer.score = BatchScorer.score, refused  # type: ignore[method-assign]
            return super().score(number, batch)

    monkeypatch.setattr(ray_workers, "RayWorker", Refuses)
    conversations = read_conversations(chats)
    with (
        RayWorkers(str(model), OPTIONS, 1) as workers,
        pytest.raises(ScoringError, match=r"conversation 'c\d{4}' .*: has no strategy") as raised,
    ):
        scored(model, chats, tmp_path / "out", workers)
    assert any(str(raised.value).startswith(one.label) for one in conversations)
    assert caplog.text.count("mind the gap") == 1


def test_a_cluster_that_has_too_few_gpus_is_told() -> None:
    assert connect(None) is False  # it is connected already
    with pytest.raises(ClusterError, match="the cluster has 0 GPUs, and 3 workers take one each"):
        check_gpus(3)


def test_ray_data_takes_the_scorer(model: Path, plain: Path, chats: Path) -> None:
    import pandas
    import pyarrow

    ray.data.DataContext.get_current().enable_progress_bars = False
    read = ray.data.read_json(str(chats))
    scored_rows = read.map_batches(
        sra_fast.Scorer,
        fn_constructor_kwargs={"model": str(model), "device": "cpu"},
        compute=ray.data.ActorPoolStrategy(size=1),
        num_cpus=0.5,
        batch_size=32,
    ).materialize()
    types = dict(zip(scored_rows.schema().names, scored_rows.schema().types, strict=True))
    found = scored_rows.to_pandas().sort_values(["conversation_id", "turn"]).reset_index(drop=True)
    expected = pandas.read_json(plain / "scores.jsonl", lines=True)
    for name in ("conversation_id", "dialogue", "turn", "layout", "strategy", "prompt_tokens"):
        assert found[name].tolist() == expected[name].tolist(), name
    for name in ("paper", "mass", "reference", "table1", "sra", "log_sra"):
        assert types[name] == pyarrow.float32()
        # Other batches, other sums: as far apart as two batchings of the same prompts.
        torch.testing.assert_close(
            torch.tensor(found[name].to_numpy("float32")),
            torch.tensor(expected[name].to_numpy(), dtype=torch.float32),
            rtol=1e-5,
            atol=0,
        )
