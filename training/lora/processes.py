"""Tell which process of ``accelerate launch`` this is, before there is a process group."""

from __future__ import annotations

import os


def is_first() -> bool:
    """Tell whether this is the first process, which writes and prints, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def count() -> int:
    """Return the number of processes that train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))
