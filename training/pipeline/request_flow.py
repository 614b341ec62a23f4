"""Send requests evenly spaced in time, and several at once."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Generator, Sequence
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
E = TypeVar("E", bound=Exception)


class Pace:
    """A pace that spaces the requests of all threads evenly in time.

    Args:
        per_minute: the most requests in a minute; None for no limit.
    """

    def __init__(self, per_minute: float | None) -> None:
        self._interval = 60 / per_minute if per_minute else 0.0
        self._next = 0.0
        self._lock = threading.Lock()

    def wait(self) -> None:
        """Block until the calling thread may send its request."""
        with self._lock:
            now = time.monotonic()
            turn = max(now, self._next)
            self._next = turn + self._interval
        time.sleep(turn - now)


def in_threads(
    tasks: Sequence[T],
    ask: Callable[[T], R],
    threads: int,
    expected: type[E],
    ends: Callable[[E], bool] = lambda _: False,
) -> Generator[tuple[T, R | E], None, None]:
    """Call ``ask`` for every task, several at a time.

    If the caller stops iterating, tasks that have not begun are left out.

    Args:
        tasks: what ``ask`` is called with, one after the other.
        ask: does one task and returns its outcome.
        threads: how many tasks may run at the same time.
        expected: an error of this class becomes the outcome of its task; any other error ends the
            iteration.
        ends: whether no further task is begun after such an error; by default one is. Those that
            have begun are brought to their end.

    Yields:
        Each task that has begun with its outcome, in the order in which they are done.
    """
    waiting: queue.SimpleQueue[T] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[T, R | BaseException]] = queue.SimpleQueue()
    stopped = threading.Event()
    begun = 0
    beginning = threading.Lock()
    for task in tasks:
        waiting.put(task)

    def work() -> None:
        nonlocal begun
        while True:
            with beginning:
                if stopped.is_set() or waiting.empty():
                    return
                task = waiting.get()
                begun += 1
            try:
                done.put((task, ask(task)))
            except BaseException as error:
                done.put((task, error))

    for _ in range(min(threads, len(tasks))):
        # Daemon threads, so that an interrupted program does not wait for a server that hangs.
        threading.Thread(target=work, daemon=True).start()
    came, expecting = 0, len(tasks)
    try:
        while came < expecting:
            task, outcome = done.get()
            came += 1
            if isinstance(outcome, expected):
                if not stopped.is_set() and ends(outcome):
                    with beginning:
                        stopped.set()
                        expecting = begun
            elif isinstance(outcome, BaseException):
                raise outcome
            yield task, outcome
    finally:
        stopped.set()
