"""Arguments and options that several commands of training and the pipeline share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sra_fast.cli import options

DialogueFile = Annotated[Path, options.existing_path("DIALOGUES", options.DIALOGUES)]
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
    options.existing_file(
        "A.jsonl", "A file of conversations whose last replies are those of system A."
    ),
]
FileB = Annotated[
    Path,
    options.existing_file(
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
RunOut = Annotated[
    Path,
    typer.Option(
        "--out",
        metavar="DIR",
        file_okay=False,
        help=options.OUT,
        show_default=False,
    ),
]
