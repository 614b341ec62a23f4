"""Call a function in a process of its own, forked from a server that never ran a model."""

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
    """Raised when a fresh process ended without a result."""


def in_fresh_process(function: Callable[..., Any], *args: Any) -> Any:
    """Return what ``function``, which stands at a module's top level, returns in a fresh process.

    Raises:
        ProcessFailedError: the function raised an error, or the system ended the process.
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
    with contextlib.suppress(OSError):
        # If memory runs out after all, the system ends this process and no other.
        Path("/proc/self/oom_score_adj").write_text("1000")
    try:
        outcome = (True, function(*args))
    except Exception:
        outcome = (False, traceback.format_exc())
    # Sent as bytes: torch would hand tensors over by shared memory, which ends with the process.
    connection.send_bytes(pickle.dumps(outcome))
