"""A progress bar over the tokens of several jobs, on standard error."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sra_fast.cli.session import Session
from sra_fast.printable import printable

if TYPE_CHECKING:
    from sra_fast.file_scoring import Job


@contextmanager
def token_progress(session: Session, jobs: Sequence[Job]) -> Iterator[Callable[[Job, int], None]]:
    """Gives the function that ``FileScorer.run`` reports to."""
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=session.progress_console(),
    )
    total = sum(job.tokens for job in jobs)
    with bar:
        task = bar.add_task(f"{total:,} tokens", total=total)

        def on_progress(job: Job, tokens: int) -> None:
            name = printable(job.template.name)
            bar.update(task, advance=tokens, description=f"{total:,} tokens, {name}")

        yield on_progress
