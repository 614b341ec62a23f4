"""Let number options take numbers as people write them, and no ``1_0``, ``nan`` or ``٣``."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable
from typing import Any

import typer

from sra_fast.tools.number_text import finite_number, whole_number

_READERS: dict[type, tuple[Callable[[str], float | None], str]] = {
    int: (whole_number, "a whole number, such as 10"),
    float: (finite_number, "a finite number, such as 0.5 or 1e-4"),
}


def take_plain_numbers(command: Any) -> None:
    """Make every number option and argument of a command refuse texts that only Python reads.

    Args:
        command: a command that typer made of a function; it is changed in place.
    """
    hints = typing.get_type_hints(inspect.unwrap(command.callback))
    for parameter in command.params:
        kind = _number_kind(hints.get(parameter.name))
        if kind is not None:
            parameter.process_value = _checked(parameter, *_READERS[kind])


def _number_kind(hint: Any) -> type | None:
    """Return int or float if values of this type are such numbers, or None beside them."""
    options = [hint]
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        options = [one for one in typing.get_args(hint) if one is not type(None)]
    return options[0] if len(options) == 1 and options[0] in _READERS else None


def _checked(
    parameter: Any, read: Callable[[str], float | None], what: str
) -> Callable[[Any, Any], Any]:
    process = parameter.process_value

    def process_value(ctx: Any, value: Any) -> Any:
        if isinstance(value, str) and read(value) is None:
            raise typer.BadParameter(f"{value!r} is not {what}", ctx=ctx, param=parameter)
        return process(ctx, value)

    return process_value
