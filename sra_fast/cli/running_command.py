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
    several = [value if isinstance(value, (list, tuple)) else [value] for value in values]
    # Paths are still texts here in typer 0.26.
    paths = [Path(one) for value in several for one in value if isinstance(one, (str, Path))]
    return [path.name for path in paths if path.is_file()]
