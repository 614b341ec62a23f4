"""The parameters of the command that is running and its files, for hints in its errors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from typer._click.globals import get_current_context  # typer's own; seen in 0.26 to 0.29


def running_parameters() -> Sequence[Any]:
    """Return the parameters (with ``name`` and ``opts``) of the running command; () outside one."""
    context = get_current_context(silent=True)
    return () if context is None else context.command.params


def running_files() -> list[str]:
    """Return the names of the files that the running command was given to read."""
    context = get_current_context(silent=True)
    values = [] if context is None else list(context.params.values())
    flat = [one for value in values for one in (value if isinstance(value, list) else [value])]
    return [one.name for one in flat if isinstance(one, Path) and one.is_file()]
