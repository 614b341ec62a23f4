"""Run coroutines from ordinary functions, each for a limited time.

Only a coroutine can be stopped at any moment of a connection: while a name is looked up, while a
server sends one byte of a header now and then, or nothing at all.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_loops: dict[int, asyncio.AbstractEventLoop] = {}
_making = threading.Lock()


class DeadlineError(Exception):
    """Raised when a coroutine took longer than it was given."""


def run_for(seconds: float, coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in the background and return its result.

    All coroutines of a process run on one loop, so they may share connections.

    Args:
        seconds: how long it may take; then it is cancelled.
        coroutine: the coroutine.

    Raises:
        DeadlineError: it took longer. What it raises itself is raised here, too.
    """
    return asyncio.run_coroutine_threadsafe(_within(seconds, coroutine), _loop()).result()


async def _within(seconds: float, coroutine: Coroutine[Any, Any, T]) -> T:
    task = asyncio.ensure_future(coroutine)
    done, _ = await asyncio.wait({task}, timeout=seconds)
    if not done:
        # Nobody waits for what the cancelled task does at its end, such as closing a connection.
        task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        task.cancel()
        raise DeadlineError
    return task.result()


def _loop() -> asyncio.AbstractEventLoop:
    """Return the one loop of this process; a forked process has no such thread and gets its own."""
    process = os.getpid()
    with _making:
        if process not in _loops:
            _loops[process] = asyncio.new_event_loop()
            run = _loops[process].run_forever
            threading.Thread(target=run, daemon=True, name="sra_fast requests").start()
        return _loops[process]
