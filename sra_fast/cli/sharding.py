"""Score one shard of a file: a chosen one, or that of a process that a launcher started."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING

import typer

from sra_fast.cli.progress import token_progress
from sra_fast.cli.scored_output import show_scores
from sra_fast.cli.session import Session
from sra_fast.files.shard import Shard
from sra_fast.tools import launched_processes
from sra_fast.tools.argument_error import ArgumentError

if TYPE_CHECKING:
    from sra_fast.files.score_file import FileScorer
    from sra_fast.files.score_jobs import ShardJob


def shard_of_process(chosen: Shard | None) -> tuple[int, Shard | None]:
    """Return the rank of this process and the shard that it takes by it: 0 and None if alone.

    Args:
        chosen: the shard that was asked for.

    Raises:
        BadParameter: a shard was asked for, and there are several processes; or the environment
            names none of them.
    """
    try:
        rank, count = launched_processes.rank(), launched_processes.count()
        launched = Shard(rank + 1, count) if count > 1 else None
    except ArgumentError as error:
        raise typer.BadParameter(str(error), param_hint="the environment") from error
    if launched is None:
        return 0, None
    if chosen is not None:
        raise typer.BadParameter(
            f"each of the {count} processes of this launch takes a shard by its rank; leave it out",
            param_hint="'--shard'",
        )
    return rank, launched


def take_own_gpu() -> None:
    """Make "cuda" the GPU of this process, by its rank on this machine, if it has one."""
    import torch

    if launched_processes.count() > 1 and torch.cuda.is_available():
        torch.cuda.set_device(launched_processes.rank_here() % torch.cuda.device_count())


def score_launched(
    session: Session, scorer: FileScorer, job: ShardJob, about: Mapping[str, str]
) -> None:
    """Score the shard of one of several processes; the last to finish merges and prints.

    Args:
        session: the output of the command.
        scorer: what scores.
        job: the shard.
        about: names of the model, the template and the definition.
    """
    from sra_fast.files.shard_merging import merge_if_last

    with token_progress(session, [job], shown=session.speaks) as on_progress:
        scorer.run_shard(job, on_progress)
    session.speaks = True  # for an error, too
    merged = merge_if_last(job.folder.path, job.shard)
    session.speaks = merged is not None
    if merged is not None:
        checked = merged.result.checked
        show_scores(session, "score", job.folder.path, merged.rows, **about, checked=checked)


def score_chosen(
    session: Session, scorer: FileScorer, job: ShardJob, about: Mapping[str, str]
) -> None:
    """Score a shard that was asked for, and say how to merge it with the others.

    Args:
        session: the output of the command.
        scorer: what scores.
        job: the shard.
        about: names of the model, the template and the definition.
    """
    from sra_fast.files.run_record import RUN
    from sra_fast.files.score_tables import SCORES_JSONL
    from sra_fast.files.shard_folder import BATCHES
    from sra_fast.tools.counted import counted

    with token_progress(session, [job]) as on_progress:
        rows = scorer.run_shard(job, on_progress)
    folder = job.folder.path
    session.say(
        f"shard {job.shard} is done: {counted(len(job.numbered), 'batch', 'batches')} with "
        f"{counted(len(rows), 'response')}; once all are: sra-fast merge {shlex.quote(str(folder))}"
    )
    session.result = {
        "command": "score",
        "out": str(folder),
        "shard": str(job.shard),
        "files": [f"{job.shard.folder}/{name}" for name in (BATCHES, SCORES_JSONL, RUN)],
        **about,
        "batches": len(job.numbered),
        "responses": len(rows),
    }
