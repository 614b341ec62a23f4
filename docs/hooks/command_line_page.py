"""Writes the page about the command line from the commands themselves, whenever the site is built.

Every command, argument and option stands there with its help text, so the page cannot go stale.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from mkdocs.structure.files import File, Files
from typer.main import get_command

from sra_fast.cli.app import app

PLACE = "reference/command-line.md"

_METAVARS = {int: "INTEGER", float: "NUMBER", str: "TEXT", Path: "PATH"}


def on_files(files: Files, config: Any) -> Files:
    """Add the page to the files of the site."""
    files.append(File.generated(config, PLACE, content=command_line_page()))
    return files


def command_line_page() -> str:
    """Return the page as Markdown."""
    program: Any = get_command(app)
    lines = [
        "# Command line",
        "",
        program.help,
        "",
        "`sra-fast COMMAND --help` shows the same on the terminal.",
        "",
        program.epilog,
        "",
        *_options(program, "Before the command"),
    ]
    for path, command in _commands(program, "sra-fast"):
        lines += ["", *_section(path, command)]
    return "\n".join(lines) + "\n"


def _commands(group: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Return the commands of a group and of the groups in it, with their full names."""
    for name in group.commands:
        command = group.commands[name]
        yield f"{path} {name}", command
        if getattr(command, "commands", None):
            yield from _commands(command, f"{path} {name}")


def _section(path: str, command: Any) -> list[str]:
    if getattr(command, "commands", None):
        return [f"## {path}", "", command.help or ""]
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    usage = " ".join([path, "[OPTIONS]", *(_metavar(command, p) for p in arguments)])
    lines = [f"## {path}", "", "```text", usage, "```", "", _escaped(command.help or "")]
    if arguments:
        lines += ["", "| Argument | Meaning |", "|---|---|"]
        lines += [f"| `{_metavar(command, p)}` | {_cell(p.help or '')} |" for p in arguments]
    return [*lines, *_options(command)]


def _options(command: Any, title: str = "") -> list[str]:
    options = [p for p in command.params if p.param_type_name == "option" and not p.hidden]
    panels: dict[str, list[Any]] = {}
    for option in options:
        panels.setdefault(option.rich_help_panel or title or "", []).append(option)
    lines: list[str] = []
    for panel, members in panels.items():
        if panel:
            lines += ["", f"**{panel}**"]
        lines += ["", "| Option | Default | Meaning |", "|---|---|---|"]
        for option in members:
            lines.append(
                f"| {_names(command, option)} | {_default(option)} | {_cell(option.help or '')} |"
            )
    return lines


def _names(command: Any, option: Any) -> str:
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    if option.is_flag:
        return names
    values = _metavar(command, option).split("|")
    return f"{names} " + " \\| ".join(f"`{value}`" for value in values)


def _metavar(command: Any, param: Any) -> str:
    """Return what stands for the value: the command's own word, the choices, or the type."""
    if param.metavar:
        return str(param.metavar)
    if param.param_type_name == "argument":
        return str(param.name).upper()
    wanted = _type(command, param.name)
    if typing.get_origin(wanted) is Literal:
        return "|".join(map(str, typing.get_args(wanted)))
    return _METAVARS.get(wanted, "VALUE")


def _type(command: Any, name: str) -> Any:
    """Return the type of a parameter, without ``Annotated``, ``None`` and lists around it."""
    wanted = typing.get_type_hints(command.callback).get(name)
    while typing.get_origin(wanted) in (typing.Union, types.UnionType, list):
        wanted = next(one for one in typing.get_args(wanted) if one is not type(None))
    return wanted


def _default(option: Any) -> str:
    if option.required:
        return "required"
    if isinstance(option.show_default, str):
        return _cell(option.show_default)
    if option.show_default is False or option.default is None or option.is_eager:
        return "–"
    if isinstance(option.default, bool):
        return "on" if option.default else "off"
    return f"`{option.default}`"


def _cell(text: str) -> str:
    return _escaped(" ".join(text.split())).replace("|", "\\|")


def _escaped(text: str) -> str:
    """Help texts are plain text: signs that Markdown reads are kept as they are."""
    for sign in "\\`*_<[":
        text = text.replace(sign, f"\\{sign}" if sign != "<" else "&lt;")
    return text
