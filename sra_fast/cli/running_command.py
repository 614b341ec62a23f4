"""The parameters of the command that is running, for hints in its errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from typer._click.globals import get_current_context  # typer's own; seen in 0.26 to 0.29


def running_parameters() -> Sequence[Any]:
    """Return the parameters (with ``name`` and ``opts``) of the running command; () outside one."""
    context = get_current_context(silent=True)
    return () if context is None else context.command.params
