"""Show progress bars for the pipeline: over replies, requests, conditions and training steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sra_fast.cli.progress import progress_bar
from sra_fast.cli.session import Session

if TYPE_CHECKING:
    from ..lora.train import OnLog
    from ..pipeline.evaluation.evaluate import OnProgress

_LOGGED = {
    "lm_loss": "loss",
    "eval_loss": "held-out loss",
    "sra": "SRA",
    "eval_sra": "held-out SRA",
}


@contextmanager
def reply_progress(session: Session) -> Iterator[Callable[[int, int], None]]:
    """Show progress over replies; it takes how many came, and how many there will be."""
    bar = progress_bar(session)
    with bar:
        task = bar.add_task("replies", total=None)
        yield lambda done, total: bar.update(task, advance=done, total=total)


@contextmanager
def request_progress(session: Session) -> Iterator[Callable[[int, int], None]]:
    """Show progress over requests; it takes how many are done, and how many there are."""
    bar = progress_bar(session)
    with bar:
        task = bar.add_task("requests", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def condition_progress(session: Session) -> Iterator[OnProgress]:
    """Show progress over the replies of each condition of an evaluation."""
    bar = progress_bar(session)
    tasks: dict[str, Any] = {}

    def on_progress(condition: str, done: int, total: int) -> None:
        if condition not in tasks:
            tasks[condition] = bar.add_task(condition, total=total)
        bar.update(tasks[condition], advance=done)

    with bar:
        yield on_progress


@contextmanager
def step_progress(session: Session) -> Iterator[OnLog]:
    """Show progress over the steps of a training run, and a line for each evaluation."""
    bar = progress_bar(session)
    with bar:
        task = bar.add_task("training", total=None, visible=False)

        def on_log(step: int, last: int, logs: Mapping[str, Any]) -> None:
            named = {"lm_loss": logs["loss"], **logs} if "loss" in logs else logs
            shown = ", ".join(
                f"{text} {named[name]:.5g}" for name, text in _LOGGED.items() if name in named
            )
            if not shown:
                return
            bar.update(task, completed=step, total=last, description=shown, visible=True)
            if "eval_loss" in logs:
                session.say(f"step {step} of {last}: {shown}")

        yield on_log
