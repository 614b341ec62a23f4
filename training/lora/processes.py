"""Which of several processes this is, before there is a process group (``accelerate launch``)."""

from __future__ import annotations

import os


def is_first() -> bool:
    """Whether this process writes and prints; the only one does."""
    return os.environ.get("RANK", "0") == "0"


def count() -> int:
    """How many there are."""
    return int(os.environ.get("WORLD_SIZE", "1"))
