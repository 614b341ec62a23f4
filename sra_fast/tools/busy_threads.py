"""Find the threads that are in the middle of a method of some object."""

from __future__ import annotations

import sys
import threading
from types import FrameType


def threads_inside(owner: object) -> list[str]:
    """Return the names of the other threads that are running a method of an object now.

    CPython documents ``sys._current_frames``, which tells the frames of every thread; a method is
    known by its local variable ``self``.
    """
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    found = []
    for ident, frame in sys._current_frames().items():
        at: FrameType | None = frame if ident != threading.get_ident() else None
        while at is not None:
            if at.f_locals.get("self") is owner:
                found.append(names.get(ident, str(ident)))
                break
            at = at.f_back
    return found
