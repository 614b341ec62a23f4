"""Writes the page about the settings of a training from their class, whenever the site is built."""

from __future__ import annotations

import dataclasses
import re
import typing
from inspect import cleandoc
from typing import Any, Literal

from mkdocs.structure.files import File, Files
from typer.main import get_command

from sra_fast.cli.app import app
from sra_fast.training.lora.settings import TrainingConfig

PLACE = "reference/training-settings.md"

_ENTRY = re.compile(r"^ {4}(?P<names>[a-z_0-9, ]+): (?P<text>.+?)(?=^ {0,4}\S|\Z)", re.M | re.S)
_TYPES = {str: "text", int: "whole number", float: "number", bool: "true or false"}


def on_files(files: Files, config: Any) -> Files:
    """Add the page to the files of the site."""
    files.append(File.generated(config, PLACE, content=training_settings_page()))
    return files


def training_settings_page() -> str:
    """Return the page as Markdown.

    Raises:
        ValueError: a setting has no entry in the docstring of its class.
    """
    texts = described_settings()
    hints = typing.get_type_hints(TrainingConfig)
    options = _options()
    lines = [
        "# Training settings",
        "",
        "Every setting of `sra-fast train`, as a YAML file for `--config` names it. The defaults "
        "are those of the paper; an option of the command line, where there is one, overrides the "
        "file.",
        "",
        "```yaml",
        "epochs: 3",
        "accumulation: 4",
        "sra_weight: 0.05",
        "```",
        "",
        "| Setting | Default | Option | Meaning |",
        "|---|---|---|---|",
    ]
    for field in dataclasses.fields(TrainingConfig):
        if field.name not in texts:
            raise ValueError(f"TrainingConfig.{field.name} has no entry in its class's docstring")
        cells = (
            f"`{field.name}`",
            _default(field.default),
            options.get(field.name, "–"),
            f"({_type(hints[field.name])}) {texts[field.name]}",
        )
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def described_settings() -> dict[str, str]:
    """Return the text of each setting, from the class's docstring; several may share one."""
    _, _, entries = cleandoc(TrainingConfig.__doc__ or "").partition("Attributes:\n")
    texts: dict[str, str] = {}
    for entry in _ENTRY.finditer(entries):
        names = [name.strip() for name in entry["names"].split(",")]
        text = " ".join(entry["text"].split()).replace("``", "`")
        text = text[0].upper() + text[1:]
        together = f" (Of {', '.join(f'`{name}`' for name in names)} together.)"
        for name in names:
            texts[name] = text + (together if len(names) > 1 else "")
    return texts


def _options() -> dict[str, str]:
    """Return the option of ``sra-fast train`` that sets a setting, by the setting's name."""
    program: Any = get_command(app)
    return {
        option.name: f"`{option.opts[0]}`"
        for option in program.commands["train"].params
        if option.param_type_name == "option"
    }


def _type(wanted: Any) -> str:
    if typing.get_origin(wanted) is Literal:
        return " or ".join(f"`{one}`" for one in typing.get_args(wanted))
    if typing.get_origin(wanted) is tuple:
        return f"list of {_type(typing.get_args(wanted)[0])}s"
    if wanted is type(None):
        return "null"
    if wanted in _TYPES:
        return _TYPES[wanted]
    return " or ".join(_type(one) for one in typing.get_args(wanted))


def _default(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return f"`{list(value)}`"
    return f"`{value}`"
