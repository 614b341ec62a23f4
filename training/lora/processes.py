"""Tell which process of ``accelerate launch`` this is, before there is a process group."""

from __future__ import annotations

import os


def rank() -> int:
    """Return the number of this process among those that train together, from 0."""
    return int(os.environ.get("RANK", "0"))


def is_first() -> bool:
    """Tell whether this is the first process, which writes and prints, or the only one."""
    return rank() == 0


def count() -> int:
    """Return the number of processes that train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))
