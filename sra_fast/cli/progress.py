"""Show progress bars on standard error, and move them as a command's work goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sra_fast.cli.session import Session
from sra_fast.tools.printable import printable

if TYPE_CHECKING:
    from rich.progress import Progress

    from sra_fast.files.score_jobs import Job


@contextmanager
def token_progress(
    session: Session, jobs: Sequence[Job], *, shown: bool = True
) -> Iterator[Callable[[Job, int], None]]:
    """Show progress over the tokens of several jobs, as ``FileScorer`` reports it.

    Args:
        session: the output of the command.
        jobs: the jobs.
        shown: whether to show it; of several processes that work together, one does.
    """
    if not shown:
        yield lambda job, tokens: None
        return
    from rich.progress import TaskProgressColumn

    bar = progress_bar(session, TaskProgressColumn())
    total = sum(job.tokens for job in jobs)
    with bar:
        task = bar.add_task(f"{total:,} tokens", total=total)

        def on_progress(job: Job, tokens: int) -> None:
            name = printable(job.template.name)
            bar.update(task, advance=tokens, description=f"{total:,} tokens, {name}")

        yield on_progress


def progress_bar(session: Session, amount: Any = None) -> Progress:
    """Return a bar on standard error whose amount is shown as ``done/total``, or by ``amount``."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn() if amount is None else amount,
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=session.progress_console(),
    )
