"""Tell which of several processes of one launch this is, before there is a process group.

``torchrun`` and ``accelerate launch`` set the environment variables that are read here.
"""

from __future__ import annotations

import os

from sra_fast.tools.argument_error import ArgumentError


class LaunchError(ArgumentError):
    """Raised when the environment names no process of a launch; the message says which variable."""


def rank() -> int:
    """Return the number of this process among those that work together, from 0.

    Raises:
        LaunchError: the environment variable RANK holds no such number.
    """
    return _number("RANK", 0)


def is_first() -> bool:
    """Tell whether this is the first process, which writes and prints, or the only one."""
    return rank() == 0


def count() -> int:
    """Return the number of processes that work together.

    Raises:
        LaunchError: the environment variable WORLD_SIZE holds no such number, or only one of RANK
            and WORLD_SIZE says that there are several: all would take themselves for the same one.
    """
    found = _number("WORLD_SIZE", 1)
    for name, lacking, several in (
        ("WORLD_SIZE", "RANK", found > 1),
        ("RANK", "WORLD_SIZE", rank() > 0),
    ):
        if several and lacking not in os.environ:
            raise LaunchError(
                f"the environment variable {name} is {os.environ[name]!r} and {lacking} is not "
                "set; launchers of several processes set both, so start this by one of them, or "
                f"unset {name}"
            )
    return found


def rank_here() -> int:
    """Return the number of this process among those on this machine, from 0.

    Raises:
        LaunchError: the environment variable LOCAL_RANK holds no such number.
    """
    return _number("LOCAL_RANK", 0)


def _number(name: str, alone: int) -> int:
    text = os.environ.get(name, str(alone))
    if not text.isascii() or not text.isdigit() or int(text) < alone:
        raise LaunchError(
            f"the environment variable {name} is {text!r} and no whole number from {alone} on; "
            "launchers of several processes set it, so start this by one of them or unset it"
        )
    return int(text)
