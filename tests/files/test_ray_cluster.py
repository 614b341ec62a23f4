"""Test how workers share a cluster, and what is said of one that does not answer."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from sra_fast.chat.encoding import encode_prompts
from sra_fast.files import ray_cluster
from sra_fast.files.batch_scorer import BatchScorer, WorkerRowError
from sra_fast.files.models import find_model
from sra_fast.files.provenance import code_sha256
from sra_fast.files.ray_cluster import ClusterError, connect, cpus_of_worker
from sra_fast.files.ray_workers import RayWorkers
from sra_fast.files.scoring_options import ScoringOptions
from sra_fast.files.scoring_worker import RayWorker, WorkerError
from tiny_chat_model import save_tiny_model, talk

OPTIONS = ScoringOptions(device="cpu")


@pytest.mark.parametrize(
    ("nodes", "workers", "expected"),
    [
        ([2], 1, 1.0),
        ([2], 2, 0.5),
        ([1], 1, 0.5),
        ([1], 2, 0.25),
        ([8], 3, 2.0),
        ([64], 8, 7.0),
        ([8, 8], 2, 7.0),
        ([8, 8], 3, 4.0),
        ([8, 8], 1, 8.0),
        ([1, 1], 3, 0.3333),
        ([4], 9, 0.3333),
        ([], 2, 0.25),
    ],
)
def test_workers_leave_a_cpu_free_and_find_room(
    nodes: list[float], workers: int, expected: float
) -> None:
    share = cpus_of_worker(nodes, workers)
    assert share == expected
    if nodes:
        assert share * workers <= max(sum(nodes) - 1, 0.5)
        assert sum(int(node / share + 1e-9) for node in nodes) >= workers


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


def test_no_worker_at_all_is_refused(model: Path) -> None:
    pytest.importorskip("ray", reason="needs the package ray")
    with pytest.raises(WorkerError, match="at least one worker, not 0") as raised:
        RayWorkers(str(model), OPTIONS, 0)
    assert raised.value.arguments == ("workers",)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", "cluster '127.0.0.1:1': unreachable .*refused"),
        ("ray://127.0.0.1:1", "cluster 'ray://127.0.0.1:1': unreachable .*refused"),
        ("no-such-host.invalid:6379", "no-such-host.invalid:6379': unreachable"),
        ("127.0.0.1:99999", "unreachable"),
        ("my cluster", "'my cluster' is no address of a cluster; give HOST:PORT"),
        ("auto", "cluster 'auto': unreachable .*Could not find any running Ray instance"),
    ],
)
def test_a_cluster_that_does_not_answer_is_named(
    address: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="needs the package ray")
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    if address == "auto":  # a cluster of others may run on this machine

        def none_here(**_: Any) -> None:
            raise ConnectionError("Could not find any running Ray instance.")

        monkeypatch.setattr("ray.init", none_here)
    with pytest.raises(ClusterError, match=message) as raised:
        connect(address)
    assert raised.value.arguments == ("address",)


def test_ray_ending_the_process_is_an_error_like_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen with ray 2.60: after ten minutes without an answer it raises SystemExit."""
    pytest.importorskip("ray", reason="needs the package ray")

    def gives_up(**_: Any) -> None:
        raise SystemExit(15)

    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", gives_up)
    monkeypatch.setattr(ray_cluster, "_check_reachable", lambda place: None)
    with pytest.raises(ClusterError, match="unreachable"):
        connect("127.0.0.1:6379")


def worker(model: Path, **other: Any) -> RayWorker:
    """Return a worker in this process, and what it expects changed by ``other``."""
    known = BatchScorer(find_model(str(model)), OPTIONS).settings()
    expected = {**known, "code": code_sha256(), **other}
    return RayWorker(str(model), False, OPTIONS, torch.get_num_threads(), expected)


def test_a_worker_with_another_model_or_other_code_is_refused(model: Path, tmp_path: Path) -> None:
    assert worker(model).limits().attention_shape == (2, 4)
    with pytest.raises(WorkerError, match=r"would score otherwise: 'code' is .* there, and 'old'"):
        worker(model, code="old").limits()
    other = worker(save_tiny_model(tmp_path / "tiny", seed=1))
    other._expected = worker(model)._expected
    with pytest.raises(WorkerError, match=r"would score otherwise: 'model\.weights' is "):
        other.limits()


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_worker_without_enough_memory_says_what_to_lower(
    model: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: Any, prompts: Any) -> None:
        raise error

    monkeypatch.setattr(BatchScorer, "score", fails)
    batch = encode_prompts(find_model(str(model)).tokenizer(), [talk("a")])
    with pytest.raises(
        WorkerError, match="not enough memory for batch 7; take fewer workers and"
    ) as raised:
        worker(model).score(7, batch)
    assert raised.value.arguments == ("batch_tokens", "workers")


def test_a_scorer_pickles_without_its_model(model: Path) -> None:
    import pickle

    scorer = BatchScorer(find_model(str(model)), ScoringOptions(strategies={"a": "b"}))
    scorer.load()
    sent = pickle.dumps(scorer)
    assert len(sent) < 5_000
    assert pickle.loads(sent).limits() == scorer.limits()
    error = pickle.loads(pickle.dumps(WorkerRowError(3, 1, "has no strategy")))
    assert (error.number, error.row, error.problem) == (3, 1, "has no strategy")


def test_threads_are_those_that_the_user_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    from sra_fast.files.ray_workers import _own_threads

    for text, expected in (("3", 3), ("4,2", 4), ("", None), ("0", None), ("many", None)):
        monkeypatch.setitem(os.environ, "OMP_NUM_THREADS", text)
        assert _own_threads() == expected
