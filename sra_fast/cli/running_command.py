"""The parameters of the command that is running, for hints in its errors."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

_PLACES = ("typer._click.globals", "click.globals")
"""Where the context lives: newer versions of typer carry a click of their own."""


def running_parameters() -> Sequence[Any]:
    """Return the parameters (with ``name`` and ``opts``) of the running command; () outside one."""
    for place in _PLACES:
        try:
            context = importlib.import_module(place).get_current_context(silent=True)
        except (ImportError, AttributeError):
            continue
        if context is not None:
            parameters: Sequence[Any] = context.command.params
            return parameters
    return ()
