"""Arguments and options that several commands share, with their help texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, get_args

import typer
from typer.models import OptionInfo

from sra_fast.names import Backend, Definition, Device, DType, Turns
from sra_fast.tools.registry import BACKENDS_GROUP, DEFINITIONS_GROUP, known_names
from sra_fast.tools.suggestions import did_you_mean


def existing_file(metavar: str, text: str) -> typer.models.ArgumentInfo:
    """An argument that must be a file, with its help text."""
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


ConversationFile = Annotated[Path, existing_file("FILE", "Conversations, one JSON object a line.")]
DIALOGUES = "ESConv.json, FailedESConv.json, or lines of JSON with usr/sys speakers."
DialogueFile = Annotated[Path, existing_file("DIALOGUES", DIALOGUES)]
ModelName = Annotated[
    str,
    typer.Option(
        "--model",
        metavar="NAME_OR_DIR",
        help="A model folder, a folder with a single .gguf, a name on the hub, or 'smollm2'.",
        show_default=False,
    ),
]
StrategyFile = Annotated[
    Path | None,
    typer.Option(
        "--strategies",
        metavar="FILE.json",
        help="Your own strategies, name to description, instead of the library's.",
        exists=True,
        dir_okay=False,
        readable=True,
        show_default=False,
    ),
]
TemplateName = Annotated[
    str,
    typer.Option(
        "--template",
        metavar="NAME_OR_FILE",
        help="standard, c1_hf, c3_hf, c5_hf, c1_hl, c3_hl, c5_hl, or your own JSON file.",
    ),
]
TemplateNames = Annotated[
    str,
    typer.Option(
        "--templates",
        metavar="NAMES",
        help="Names or JSON files of templates, separated by commas.",
    ),
]
MostDialogues = Annotated[
    int | None, typer.Option("--dialogues", min=1, help="Most dialogues.", show_default="all")
]
MostCuts = Annotated[
    int | None, typer.Option("--cuts", min=1, help="Most cuts of a dialogue.", show_default="all")
]
TestShare = Annotated[
    float,
    typer.Option("--test", min=0.0, help="Share of the dialogues.", show_default="100 of 1,297"),
]
ValidationShare = Annotated[
    float,
    typer.Option(
        "--validation", min=0.0, help="Share of the dialogues.", show_default="50 of 1,297"
    ),
]
AblatedHeads = Annotated[
    int, typer.Option("--ablate", min=0, help="Best heads to take away, as a test.")
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
    Turns, typer.Option("--turns", help="Score every reply, or the last of each conversation.")
]
OutFolder = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="DIR",
        file_okay=False,
        help="The folder for the results, new or of this very run.",
        show_default=False,
    ),
]
RunOut = Annotated[
    Path,
    typer.Option(
        "--out",
        metavar="DIR",
        file_okay=False,
        help="The run's folder, new or of this very run, which then goes on.",
        show_default=False,
    ),
]
BatchTokens = Annotated[
    int,
    typer.Option(
        "--batch-tokens",
        metavar="N",
        min=1,
        help="Most tokens of one forward pass, or one prompt if it is longer; bounds memory.",
    ),
]
DTypeOption = Annotated[
    DType, typer.Option("--dtype", help="Of the weights; auto is what they are stored in.")
]
DeviceOption = Annotated[Device, typer.Option("--device", help="auto is CUDA where there is one.")]
BackendOption = Annotated[
    str,
    named_option(
        "--backend",
        get_args(Backend),
        BACKENDS_GROUP,
        "Compute the attention by this backend:",
    ),
]
JsonOption = Annotated[
    bool,
    typer.Option(
        "--json", help="Print the result as one JSON object, and everything else to stderr."
    ),
]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
