"""A function called in a process of its own, forked from a server that never ran a model."""

from __future__ import annotations

import contextlib
import multiprocessing
import pickle
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any


class ProcessFailedError(RuntimeError):
    """A fresh process ended without a result."""


def in_fresh_process(function: Callable[..., Any], *args: Any) -> Any:
    """What ``function``, of a module's top level, returns there.

    Raises:
        ProcessFailedError: it raised, or the system ended it.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([function.__module__, "transformers.models.llama"])
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(theirs, function, args), daemon=True)
    process.start()
    theirs.close()
    try:
        ended_well, value = pickle.loads(ours.recv_bytes())
    except EOFError:
        process.join()
        raise ProcessFailedError(f"ended with exit status {process.exitcode}") from None
    process.join()
    if not ended_well:
        raise ProcessFailedError(value)
    return value


def _child(connection: Connection, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    with contextlib.suppress(
        OSError
    ):  # if memory runs out after all, this process is the one to go
        Path("/proc/self/oom_score_adj").write_text("1000")
    try:
        outcome = (True, function(*args))
    except Exception:
        outcome = (False, traceback.format_exc())
    # as bytes: torch would hand tensors over by shared memory, which ends with the process
    connection.send_bytes(pickle.dumps(outcome))
