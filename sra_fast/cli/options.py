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


ConversationFile = Annotated[
    Path, existing_file("FILE", "The conversations to read, one JSON object per line.")
]
DIALOGUES = (
    "The dialogues to read: ESConv.json, FailedESConv.json, or a file of one JSON object per line "
    "whose speakers are usr and sys."
)
DialogueFile = Annotated[Path, existing_file("DIALOGUES", DIALOGUES)]
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
MostDialogues = Annotated[
    int | None,
    typer.Option(
        "--dialogues",
        metavar="N",
        min=1,
        help="Use at most this many dialogues, drawn at random.",
        show_default="all",
    ),
]
MostCuts = Annotated[
    int | None,
    typer.Option(
        "--cuts",
        metavar="N",
        min=1,
        help="Cut each dialogue in at most this many places, drawn at random.",
        show_default="all",
    ),
]
TestShare = Annotated[
    float,
    typer.Option(
        "--test",
        metavar="SHARE",
        min=0.0,
        help="Hold out this share of the dialogues for the test part, such as 0.1.",
        show_default="100 of 1,297",
    ),
]
ValidationShare = Annotated[
    float,
    typer.Option(
        "--validation",
        metavar="SHARE",
        min=0.0,
        help="Hold out this share of the dialogues for the validation part, such as 0.05.",
        show_default="50 of 1,297",
    ),
]
AblatedHeads = Annotated[
    int,
    typer.Option(
        "--ablate",
        metavar="N",
        min=0,
        help="Also answer without this many attention heads, those that predict adherence best, "
        "to test what they do; 0 leaves this test out.",
    ),
]
ItemCount = Annotated[
    int | None,
    typer.Option(
        "--items",
        metavar="N",
        min=1,
        help="Take only this many of the conversations, drawn at random.",
        show_default="all",
    ),
]
FileA = Annotated[
    Path,
    existing_file("A.jsonl", "A file of conversations whose last replies are those of system A."),
]
FileB = Annotated[
    Path,
    existing_file(
        "B.jsonl", "A file of the same conversations whose last replies are those of system B."
    ),
]
NameA = Annotated[
    str | None,
    typer.Option(
        "--name-a",
        metavar="NAME",
        help="What to call system A in the results.",
        show_default="its file's name",
    ),
]
NameB = Annotated[
    str | None,
    typer.Option(
        "--name-b",
        metavar="NAME",
        help="What to call system B in the results.",
        show_default="its file's name",
    ),
]
CLASSIFIER = (
    "The classifier to use: a folder that 'classify train' wrote, or plain for the one that comes "
    "with the library."
)
SEED = "Seed of every random draw, from the choice of conversations to each sampled token."
TrainingSettings = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE.yaml",
        help="A YAML file of training settings by name, as the page 'Training settings' of the "
        "documentation lists them; options of the command line override it.",
        exists=True,
        dir_okay=False,
        readable=True,
        show_default="the paper's settings",
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
_OUT = (
    "The folder to write into: a new one, or that of an earlier run with the same settings, which "
    "then continues."
)
OutFolder = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="DIR",
        file_okay=False,
        help=_OUT,
        show_default=False,
    ),
]
RunOut = Annotated[
    Path,
    typer.Option(
        "--out",
        metavar="DIR",
        file_okay=False,
        help=_OUT,
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
