"""Score batches in workers of the engine ray, on this machine or on a cluster.

Ray starts the workers, hands them the batches, starts a worker again that ended, and gives it its
batch once more. What is said here is what the workers may take of the cluster, and what went wrong
in the words of this library. What a worker does: :mod:`~sra_fast.files.scoring_worker`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from sra_fast.files.batch_scorer import BatchScorer, ModelLimits
from sra_fast.files.models import choose_device, find_model
from sra_fast.files.numbered_batches import Batch
from sra_fast.files.provenance import code_sha256
from sra_fast.files.ray_cluster import check_gpus, connect, cpus_of_worker, node_cpus
from sra_fast.files.scoring_options import ScoringOptions
from sra_fast.files.scoring_worker import WAYS_OUT, RayWorker, ScoredBatch, WorkerError
from sra_fast.result import SRAResult
from sra_fast.tools.missing_extra import needed

_RETRIES = 3  # of a batch whose worker ended; one that ends four workers will end a fifth
_TELL_AFTER = 60.0  # seconds of waiting for workers, after which it is said what is waited for

_SHOWN = 300  # the most characters of ray's own error that are shown

_logger = logging.getLogger(__name__)


class RayWorkers:
    """The workers of a run, which start when they are first needed and end with the block.

    Use it as a context manager.

    Args:
        model: name or folder of the model, as :func:`~sra_fast.files.models.find_model` takes it.
            Every machine of a cluster finds it under this name.
        options: how to score.
        workers: how many workers.
        address: the cluster, as ``ray.init`` takes it; None for that which the environment variable
            RAY_ADDRESS names, or else for this machine alone.
        allow_missing: the argument of that name of ``find_model``.

    Raises:
        WorkerError: there is to be less than one worker.
        MissingExtraError: ray is not installed.
    """

    def __init__(
        self,
        model: str,
        options: ScoringOptions,
        workers: int,
        *,
        address: str | None = None,
        allow_missing: bool = False,
    ) -> None:
        needed("ray", "ray")
        if workers < 1:
            raise WorkerError(f"there must be at least one worker, not {workers}", "workers")
        folder = Path(model).expanduser()
        self._model = str(folder.resolve()) if folder.is_dir() else model
        self._allow_missing = allow_missing
        # A cluster may have GPUs where the machine that the command runs on has none.
        device = options.device
        if device == "auto":
            device = "cuda" if choose_device(device) == "cuda" else "cpu"
        self.device: str = device
        # A read-only view, as the library's own strategies are, cannot be sent.
        self._options = replace(options, device=device, strategies=dict(options.strategies))
        self._count, self._address = workers, address
        self._actors: list[Any] = []
        self._started = False

    def __enter__(self) -> RayWorkers:
        return self

    def __exit__(self, *error: object) -> None:
        with needed("ray", "ray"):
            import ray

        for actor in self._actors:
            ray.kill(actor)
        self._actors = []
        if self._started:
            ray.shutdown()
            self._started = False

    def limits(self) -> ModelLimits:
        """Start the workers, wait for all, and return what bounds the model's prompts and profiles.

        Raises:
            ClusterError: the cluster cannot be reached, or has too few GPUs.
            WorkerError: a worker ended, or has another model or other code.
            ValueError: the model cannot be loaded or scored.
        """
        with needed("ray", "ray"):
            import ray

        if not self._actors:
            self._start()
        waiting = [actor.limits.remote() for actor in self._actors]
        found: list[ModelLimits] = []
        while waiting:
            done, waiting = ray.wait(waiting, timeout=_TELL_AFTER)
            with _named_errors():
                found += ray.get(done)
            if not done:
                _logger.info(
                    "%d of %d workers are ready; the others load the model, or wait until the "
                    "cluster has room for them",
                    len(found),
                    self._count,
                )
        return found[0]

    def score(self, missing: Mapping[int, Batch]) -> Iterable[tuple[int, SRAResult]]:
        """Have batches scored, and give each result with its number as it is done.

        Raises:
            WorkerError, WorkerRowError: as :meth:`RayWorker.score`; or a batch ended its worker
                again and again.
        """
        with needed("ray", "ray"):
            from ray.util import ActorPool

        if not self._actors:
            self.limits()
        scored = ActorPool(self._actors).map_unordered(
            lambda actor, one: actor.score.remote(*one), list(missing.items())
        )
        processes: set[str] = set()
        told: set[str] = set()
        known = self._count
        while True:
            with _named_errors():
                done: ScoredBatch | None = next(scored, None)
            if done is None:
                return
            processes.add(done.process)
            if len(processes) > known:
                known += 1
                _logger.warning(
                    "a worker ended before its batch was done; it was started again, and the batch "
                    "is scored anew"
                )
            for message in done.messages:
                if message not in told:
                    told.add(message)
                    _logger.warning("%s", message)
            yield done.number, done.result

    def _start(self) -> None:
        with needed("ray", "ray"):
            import ray

        source = find_model(self._model, allow_missing=self._allow_missing)
        known = BatchScorer(source, self._options).settings(self.device)
        self._started = connect(self._address)
        gpus = 1 if self.device == "cuda" else 0
        if gpus:
            check_gpus(self._count)
        share = cpus_of_worker(node_cpus(with_gpu=gpus > 0), self._count)
        threads = _own_threads() or max(1, int(share))
        actor = ray.remote(RayWorker).options(
            num_cpus=min(share, threads), num_gpus=gpus, max_restarts=-1, max_task_retries=_RETRIES
        )
        expected = {**known, "code": code_sha256()}
        self._actors = [
            actor.remote(self._model, self._allow_missing, self._options, threads, expected)
            for _ in range(self._count)
        ]


@contextmanager
def _named_errors() -> Iterator[None]:
    """Raise what a worker raised as itself, and the end of a worker as a named error."""
    with needed("ray", "ray"):
        from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError

    try:
        yield
    except RayTaskError as error:
        raise error.cause from None
    except (RayActorError, OutOfMemoryError) as error:
        why = "it ran out of memory"
        if not isinstance(error, OutOfMemoryError):
            why = f"perhaps {why}"  # the system tells ray no more than that the process ended
        raise WorkerError(
            f"a worker ended, and those started in its place too ({why}): {_first_line(error)}; "
            f"{WAYS_OUT}",
            "batch_tokens",
            "workers",
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:_SHOWN].rstrip(".")


def _own_threads() -> int | None:
    """Return the number of threads that the user chose by OMP_NUM_THREADS, as for a plain run."""
    chosen = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(chosen) if chosen.isdecimal() and int(chosen) > 0 else None
