"""Choose the processes that score for a command: its own, or the workers of an engine."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING

import typer

from sra_fast.names import Engine

if TYPE_CHECKING:
    from sra_fast.files.batch_scorer import ScoringWorkers
    from sra_fast.files.scoring_options import ScoringOptions


def check_engine(
    engine: Engine, workers: int | None, address: str | None, *, launched: bool
) -> None:
    """Check that the options of engines go together.

    Args:
        engine: the engine.
        workers: how many workers were asked for, if any were.
        address: the cluster that was asked for, if one was.
        launched: whether a launcher started several processes of the command.

    Raises:
        BadParameter: they do not.
    """
    if engine == "process":
        for option, value in (("--workers", workers), ("--address", address)):
            if value is not None:
                raise typer.BadParameter("goes with --engine ray", param_hint=f"'{option}'")
    elif workers is None:
        raise typer.BadParameter(
            "goes with the number of workers; add --workers 2", param_hint="'--engine'"
        )
    elif launched:
        raise typer.BadParameter(
            "has workers of its own; start one process of this command", param_hint="'--engine'"
        )


@contextmanager
def workers_of(
    engine: Engine,
    workers: int | None,
    address: str | None,
    model: str,
    wanted: ScoringOptions,
    *,
    allow_missing: bool,
    debug: bool,
) -> Iterator[ScoringWorkers | None]:
    """Give the workers of an engine, which end with the block; None to score in this process.

    Args:
        engine, workers, address: what :func:`check_engine` checked.
        model: name or folder of the model.
        wanted: how to score.
        allow_missing: whether weights that the model's files lack are only told.
        debug: whether what ray prints is shown, on standard error.
    """
    if engine == "process" or workers is None:
        yield None
        return
    from sra_fast.files.ray_workers import RayWorkers

    # Ray prints on standard output when a worker ends; there stand results and nothing else.
    with (
        open(os.devnull, "w") as nowhere,
        redirect_stdout(sys.stderr if debug else nowhere),
        RayWorkers(model, wanted, workers, address=address, allow_missing=allow_missing) as started,
    ):
        yield started
