"""Arguments and options that several commands share, with their help texts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, get_args

import typer
from typer.models import OptionInfo

from sra_fast.files.remote_files import is_uri, was_uri
from sra_fast.files.shard import Shard, ShardError
from sra_fast.names import Backend, Definition, Device, DType, Engine, TurnLayout, Turns
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


def _file_or_uri(value: str) -> str:
    if not is_uri(value):
        if not Path(value).exists():
            raise typer.BadParameter(f"Path {value!r} does not exist.")
        if not os.access(value, os.R_OK):
            raise typer.BadParameter(f"Path {value!r} is not readable.")
    return value


ConversationPlace = Annotated[
    str,
    typer.Argument(
        metavar="FILE",
        help="The conversations to read, one JSON object per line: a file, or a URI of one such as "
        "s3://bucket/chats.jsonl.",
        callback=_file_or_uri,
        show_default=False,
    ),
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


def _folder_here(value: Path | None) -> Path | None:
    if value is not None and was_uri(Path(value)):
        raise typer.BadParameter(
            f"{value} is a URI, and results are written here; give a folder of this machine, and "
            "copy it from there"
        )
    return value


OutFolder = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="DIR",
        file_okay=False,
        help=OUT,
        callback=_folder_here,
        show_default=False,
    ),
]
EngineOption = Annotated[
    Engine,
    typer.Option(
        "--engine",
        help="Score in the process of this command, or in workers of ray.",
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        "--workers",
        metavar="N",
        min=1,
        help="With --engine ray, the number of workers, each with a model of its own.",
        show_default=False,
    ),
]
AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="HOST:PORT",
        help="With --engine ray, the cluster to use; auto is the one that runs on this machine.",
        show_default="that of RAY_ADDRESS, else this machine alone",
    ),
]


def _shard(text: str) -> Shard:
    try:
        return Shard.parse(text)
    except ShardError as error:
        raise typer.BadParameter(str(error)) from error


ShardOption = Annotated[
    Shard | None,
    typer.Option(
        "--shard",
        metavar="K/N",
        parser=_shard,
        help="Score the K-th of N shards of the file, such as 3/8, into a folder of its own in "
        "that of --out; `sra-fast merge` puts them together.",
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
SharePrefixes = Annotated[
    bool,
    typer.Option(
        "--share-prefixes/--no-share-prefixes",
        help="Compute a beginning that several prompts have in common once for all of them, where "
        "that is exact.",
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
