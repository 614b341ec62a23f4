"""Arguments and options that several commands share, with their help texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, get_args

import typer
from typer.models import OptionInfo

from sra_fast.names import Backend, Definition, Device, DType, TurnLayout, Turns
from sra_fast.tools.registry import BACKENDS_GROUP, DEFINITIONS_GROUP, known_names, why_refused
from sra_fast.tools.suggestions import did_you_mean


def existing_file(metavar: str, text: str) -> typer.models.ArgumentInfo:
    """Return an argument of a command that takes a readable file, with its help text."""
    info: typer.models.ArgumentInfo = typer.Argument(
        metavar=metavar, help=text, exists=True, dir_okay=False, readable=True, show_default=False
    )
    return info


def named_option(flag: str, built_in: Sequence[str], group: str, text: str) -> OptionInfo:
    """Return an option for a built-in name or a user's own, which is checked without torch.

    Args:
        flag: the option.
        built_in: the built-in names.
        group: the group of entry points that may add more (:mod:`sra_fast.tools.registry`).
        text: its help text, which ends where the built-in names are to follow.
    """

    def check(value: str) -> str:
        if value not in built_in:
            known = known_names(built_in, group)
            if problem := why_refused(value, built_in, group):
                raise typer.BadParameter(problem)
            if value not in known:
                raise typer.BadParameter(
                    f"{value!r} is not one of {', '.join(known)}{did_you_mean(value, known)}"
                )
        return value

    def complete(beginning: str) -> list[str]:
        return [name for name in known_names(built_in, group) if name.startswith(beginning)]

    option: OptionInfo = typer.Option(
        flag,
        metavar="NAME",
        help=f"{text} {', '.join(built_in)}, or one that an installed package adds.",
        callback=check,
        autocompletion=complete,
    )
    return option


def existing_path(metavar: str, text: str) -> typer.models.ArgumentInfo:
    """Return an argument of a command that takes a readable file or folder, with its help text."""
    info: typer.models.ArgumentInfo = typer.Argument(
        metavar=metavar, help=text, exists=True, readable=True, show_default=False
    )
    return info


ConversationFile = Annotated[
    Path, existing_path("FILE", "The conversations to read, one JSON object per line.")
]
DIALOGUES = (
    "The dialogues to read: ESConv's and files made from it, AnnoMI's table, chats as OpenAI's "
    "interface or ShareGPT has them, or any other table; in JSON, JSON by lines, CSV, Parquet or a "
    "folder of the datasets library, also packed by gzip."
)
MODEL = (
    "The model to run: a folder of a model, a folder with a single .gguf file, a name on the hub, "
    "or smollm2, which is SmolLM2-135M-Instruct from a package."
)
ModelName = Annotated[
    str,
    typer.Option(
        "--model",
        metavar="NAME_OR_DIR",
        help=MODEL,
        show_default=False,
    ),
]
StrategyFile = Annotated[
    Path | None,
    typer.Option(
        "--strategies",
        metavar="FILE.json",
        help="A JSON file with strategies of your own, each name with its description, which "
        "replace the library's.",
        exists=True,
        dir_okay=False,
        readable=True,
        show_default=False,
    ),
]
TEMPLATE = (
    "The prompt template: standard, c1_hf, c3_hf, c5_hf, c1_hl, c3_hl, c5_hl, or a JSON file with "
    "one of your own."
)
TemplateName = Annotated[
    str,
    typer.Option(
        "--template",
        metavar="NAME_OR_FILE",
        help=TEMPLATE,
    ),
]
TemplateNames = Annotated[
    str,
    typer.Option(
        "--templates",
        metavar="NAMES",
        help="The prompt templates, separated by commas: names of the library's seven, or JSON "
        "files with templates of your own.",
    ),
]
ForceOption = Annotated[
    bool, typer.Option("--force", help="Replace the file of --out if there is one already.")
]
DefinitionOption = Annotated[
    str,
    named_option(
        "--definition",
        get_args(Definition),
        DEFINITIONS_GROUP,
        "Report SRA by this definition:",
    ),
]
TurnsOption = Annotated[
    Turns,
    typer.Option("--turns", help="Score all replies of each conversation, or its last one only."),
]
LayoutOption = Annotated[
    TurnLayout,
    typer.Option(
        "--layout",
        help="Lay out earlier turns as when each reply was generated, with a prompt of its own "
        "where the chat template writes it differently later, or as they are written in the whole "
        "conversation.",
    ),
]
THOUGHTS = (
    "The opening and the closing tag of a thought, such as '<think>' '</think>': what follows it "
    "is the reply."
)
ThoughtsOption = Annotated[
    tuple[str, str] | None,
    typer.Option(
        "--thoughts",
        metavar="OPEN CLOSE",
        help=THOUGHTS,
        show_default="those of the chat template",
    ),
]
OUT = (
    "The folder to write into: a new one, or that of an earlier run with the same settings, which "
    "then continues."
)
OutFolder = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="DIR",
        file_okay=False,
        help=OUT,
        show_default=False,
    ),
]
BatchTokens = Annotated[
    int,
    typer.Option(
        "--batch-tokens",
        metavar="N",
        min=1,
        help="The most tokens of one forward pass, which bounds the memory; a longer prompt gets a "
        "pass of its own.",
    ),
]
AllowMissing = Annotated[
    bool,
    typer.Option(
        "--allow-missing",
        help="Load a model whose files lack weights, or an adapter that does not fit its base "
        "model, with random numbers in their place; without this option it is an error.",
    ),
]
DTYPE = "The number format to load the weights in; auto is the format they are stored in."
DTypeOption = Annotated[DType, typer.Option("--dtype", help=DTYPE)]
DeviceOption = Annotated[
    Device,
    typer.Option(
        "--device", help="The device to run the model on; auto is a CUDA GPU, or else the CPU."
    ),
]
BackendOption = Annotated[
    str,
    named_option(
        "--backend",
        get_args(Backend),
        BACKENDS_GROUP,
        "Compute the attention by this backend:",
    ),
]
CheckOption = Annotated[
    bool,
    typer.Option(
        "--check/--no-check",
        help="Compare a few tokens' attention with the model's own eager attention before the "
        "first score.",
    ),
]
LayerwiseOption = Annotated[
    bool,
    typer.Option(
        "--layerwise",
        help="Hold the weights of one layer in memory at a time, read from the model's safetensors "
        "files, so that the model may be larger than memory. --batch-tokens then says how many "
        "tokens go through a layer before the next one is read.",
    ),
]
JsonOption = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print the result as one JSON object to standard output, and everything else to "
        "standard error.",
    ),
]
_DEBUG = "Show the traceback of an error, and what other libraries print."
DebugOption = Annotated[bool, typer.Option("--debug", help=_DEBUG)]
