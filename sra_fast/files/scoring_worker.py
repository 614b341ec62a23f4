"""Score batches in a process of its own: the worker that an engine starts and hands them to."""

from __future__ import annotations

import platform
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sra_fast.files.batch_scorer import BatchScorer, ModelLimits, WorkerRowError
from sra_fast.files.collected_warnings import collected_warnings
from sra_fast.files.models import find_model
from sra_fast.files.numbered_batches import Batch
from sra_fast.files.provenance import code_sha256
from sra_fast.files.run_record import setting_apart
from sra_fast.files.scoring_options import ScoringOptions
from sra_fast.measure.spans import BatchRowError
from sra_fast.result import SRAResult
from sra_fast.tools.argument_error import ArgumentError

WAYS_OUT = (
    "take fewer workers and continue, for what is done is kept; or take fewer tokens at once, in "
    "another folder"
)
"""Advice for a worker that ended or has not enough memory, which ends a message."""


class WorkerError(ArgumentError):
    """Raised when a worker ended, ran out of memory, or would score otherwise than the others."""


@dataclass(frozen=True)
class ScoredBatch:
    """The result of a batch, and what its worker has to tell.

    Attributes:
        number: the number of the batch.
        result: the scores of its replies.
        process: a text that no other process has.
        messages: what the library warned of.
    """

    number: int
    result: SRAResult
    process: str
    messages: tuple[str, ...]


class RayWorker:
    """The worker that scores batches in a process of its own, as an actor of ray.

    Args:
        model: name or folder of the model, as :func:`~sra_fast.files.models.find_model` takes it.
        allow_missing: the argument of that name of ``find_model``.
        options: how to score.
        threads: how many threads it computes with.
        expected: what model and code are where the batches come from.
    """

    def __init__(
        self,
        model: str,
        allow_missing: bool,
        options: ScoringOptions,
        threads: int,
        expected: Mapping[str, Any],
    ) -> None:
        self._model, self._allow_missing = model, allow_missing
        self._options, self._threads, self._expected = options, threads, expected
        self._process = uuid.uuid4().hex
        self._scorer: BatchScorer | None = None

    def limits(self) -> ModelLimits:
        """Load the model and return what bounds its prompts and profiles.

        Raises:
            WorkerError: model or code differ from those where the batches come from.
            ValueError: there is no such model here, or it cannot be scored.
        """
        return self._ready().limits()

    def score(self, number: int, batch: Batch) -> ScoredBatch:
        """Return the scores of the replies of a batch, and what the library warned of meanwhile.

        Raises:
            WorkerError: as :meth:`limits`, or there is not enough memory.
            WorkerRowError: a prompt cannot be scored; it says which.
        """
        with collected_warnings() as messages:
            try:
                result = self._ready().score(batch)
            except BatchRowError as error:
                raise WorkerRowError(number, error.row, error.problem) from None
            except Exception as error:
                if not _is_out_of_memory(error):
                    raise
                raise WorkerError(
                    f"a worker has not enough memory for batch {number}; {WAYS_OUT}",
                    "batch_tokens",
                    "workers",
                ) from None
        return ScoredBatch(number, result, self._process, tuple(messages))

    def _ready(self) -> BatchScorer:
        if self._scorer is None:
            import torch

            torch.set_num_threads(self._threads)
            source = find_model(self._model, allow_missing=self._allow_missing)
            scorer = BatchScorer(source, self._options)
            _check_same(self._expected, {**scorer.settings(), "code": code_sha256()})
            self._scorer = scorer
        return self._scorer


def _check_same(expected: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    difference = setting_apart(expected, here)
    if difference is not None:
        name, there, found = difference
        raise WorkerError(
            f"the worker on {platform.node()} would score otherwise: {name!r} is {found} there, "
            f"and {there} where the conversations are read; give all machines the same model, "
            "packages and versions"
        )


def _is_out_of_memory(error: Exception) -> bool:
    import torch

    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
