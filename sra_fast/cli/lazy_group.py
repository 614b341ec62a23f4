"""Commands that are imported when they are called, so that the command line starts at once.

Wrong use of any of them, also in groups below, passes through the group that stands on top; there
it becomes ``{"error": …}`` on standard output if ``--json`` is among the arguments.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_command, get_group

from sra_fast.cli.number_options import take_plain_numbers
from sra_fast.cli.standard_output import print_result
from sra_fast.tools.printable import printable

_UsageError: Any = typer.BadParameter.__base__  # typer has no public name for all wrong use
_OF_COMMANDS = ("--json", "--debug")  # options that every command has, and no group
_AS_JSON = "sra_fast.as_json"  # the key of a context's "meta" that holds whether --json was given


class LazyCommands(MutableMapping[str, Any]):
    """Commands by name, each imported when it is first looked up.

    Args:
        places: name to ``"module:attribute"``; the attribute is a function, or a ``typer.Typer``
            with commands of its own.
    """

    def __init__(self, places: Mapping[str, str]) -> None:
        self._places = dict(places)
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._loaded:
            self._loaded[name] = _load(name, self._places[name])
        return self._loaded[name]

    def __setitem__(self, name: str, command: Any) -> None:
        self._loaded[name] = command

    def __delitem__(self, name: str) -> None:
        self._places.pop(name, None)
        self._loaded.pop(name, None)

    def __iter__(self) -> Iterator[str]:
        return iter({**self._places, **self._loaded})

    def __len__(self) -> int:
        return len({**self._places, **self._loaded})


def lazy_group(places: Mapping[str, str]) -> type[TyperGroup]:
    """Return a class of groups whose commands are those of :class:`LazyCommands`."""

    class LazyGroup(TyperGroup):
        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings)
            self.commands = LazyCommands(places)

        def list_commands(self, ctx: Any) -> list[str]:
            return list(self.commands)

        def make_context(self, info_name: Any, args: list[str], *more: Any, **extra: Any) -> Any:
            as_json = _asks_for_json(args)
            with _usage_errors(as_json):
                context = super().make_context(info_name, args, *more, **extra)
            context.meta[_AS_JSON] = as_json
            return context

        def invoke(self, ctx: Any) -> Any:
            with _usage_errors(ctx.meta.get(_AS_JSON, False)):
                return super().invoke(ctx)

    return LazyGroup


def _asks_for_json(arguments: Sequence[str]) -> bool:
    """Tell whether ``--json`` stands anywhere among the options, in its place or not."""
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return "--json" in options


@contextmanager
def _usage_errors(as_json: bool) -> Iterator[None]:
    """Print wrong use as one JSON object too, in the first of several processes."""
    try:
        yield
    except _UsageError as error:
        _say_plainly(error)
        if as_json and os.environ.get("RANK", "0") == "0":
            text = "\n".join(printable(line) for line in error.format_message().splitlines())
            print_result(json.dumps({"error": text}))
        raise


def _say_plainly(error: Any) -> None:
    """Say where an option of the commands goes, and leave out the validator's own words."""
    error.message = error.message.removeprefix("Value error, ")
    option = getattr(error, "option_name", None)
    if option in _OF_COMMANDS and hasattr(error, "possibilities"):
        error.message = f"{option} goes after the command, as in 'sra-fast score … {option}'"
        error.possibilities = None


def _load(name: str, place: str) -> Any:
    module, _, attribute = place.partition(":")
    found = getattr(importlib.import_module(module), attribute)
    if isinstance(found, typer.Typer):
        group = get_group(found)
        group.name = name
        for command in (group, *group.commands.values()):
            command.help = _unwrapped(command.help)
        for command in group.commands.values():
            take_plain_numbers(command)
        return group
    alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    alone.command(name, help=_unwrapped(found.__doc__))(found)
    command = get_command(alone)
    take_plain_numbers(command)
    return command


def _unwrapped(text: str | None) -> str:
    """Return a docstring with one line per paragraph, which the terminal wraps at its own width."""
    paragraphs = inspect.cleandoc(text or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
