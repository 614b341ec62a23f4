"""The command ``sra-fast convert``, which turns the dialogues of others into conversations."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sra_fast.cli import options
from sra_fast.cli.session import session

if TYPE_CHECKING:
    from sra_fast.chat.checked_conversation import Role
    from sra_fast.chat.formats.dialogue_tables import Columns


def convert(
    source: Annotated[Path, options.existing_path("DIALOGUES", options.DIALOGUES)],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            metavar="OUT.jsonl",
            help="The file to write the conversations into, one JSON object per line.",
            dir_okay=False,
            show_default=False,
        ),
    ],
    strategy: Annotated[
        str | None,
        typer.Option(
            "--strategy",
            metavar="NAME",
            help="Make one conversation of each dialogue, all of whose replies are scored against "
            "this strategy; without it, each annotated supporter turn becomes a conversation with "
            "the strategy of its annotation.",
            show_default=False,
        ),
    ] = None,
    whole: Annotated[
        bool,
        typer.Option(
            "--whole",
            help="Make one conversation of each dialogue, each of whose replies is scored against "
            "the strategy of its own annotation.",
        ),
    ] = False,
    renamed: Annotated[
        Path | None,
        typer.Option(
            "--map",
            metavar="FILE.json",
            help="A JSON object with the new name of each strategy by its name in the file, or "
            "null for one that does not count; names that are not in it are kept.",
            exists=True,
            dir_okay=False,
            readable=True,
            show_default=False,
        ),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(
            "--columns",
            metavar="FIELD=COLUMN,…",
            help="What the columns of a table are: id, role and content of an utterance, or user "
            "and response of a conversation; and order, strategy, situation and language where "
            "there are such columns.",
            show_default=False,
        ),
    ] = None,
    roles: Annotated[
        str | None,
        typer.Option(
            "--roles",
            metavar="NAME=ROLE,…",
            help="Which of the file's names of speakers are user and assistant, where they are "
            "not the usual ones.",
            show_default=False,
        ),
    ] = None,
    strategies: options.StrategyFile = None,
    force: options.ForceOption = False,
    as_json: options.JsonOption = False,
    debug: options.DebugOption = False,
) -> None:
    """Convert dialogues in the formats of others to conversations that can be scored."""
    with session(as_json, debug, continues=False) as current:
        from sra_fast.chat import conversion
        from sra_fast.chat.strategies import DEFAULT_STRATEGIES, StrategyError, read_strategies

        if out.exists() and (not force or out.samefile(source)):
            way = "give another --out" if out.samefile(source) else "give another --out, or --force"
            raise FileExistsError(f"{out} is there already; {way}")
        if strategy is not None and (whole or renamed is not None):
            other = "--whole" if whole else "--map"
            raise typer.BadParameter(
                "it holds all replies against one strategy, so the strategies in the file are not "
                f"read; leave out {other}, or this",
                param_hint="'--strategy'",
            )
        known = DEFAULT_STRATEGIES if strategies is None else read_strategies(strategies)
        try:
            how = conversion.Conversion(
                strategy=strategy,
                strategies=known,
                renamed={} if renamed is None else conversion.read_renamed(renamed),
                columns=None if columns is None else _columns(columns),
                roles={} if roles is None else _roles(roles),
                whole=whole,
            )
        except StrategyError as error:
            raise typer.BadParameter(str(error), param_hint="'--strategy'") from error
        out.parent.mkdir(parents=True, exist_ok=True)
        conversations, notes = conversion.convert_file(source, out, how)
        for note in notes:
            current.say(note)
        current.say(f"written to {out}")
        current.result = {
            "command": "convert",
            "out": str(out),
            "conversations": conversations,
            "notes": list(notes),
        }


def _columns(text: str) -> Columns:
    from sra_fast.chat.conversations import ConversationError
    from sra_fast.chat.formats.dialogue_tables import Columns

    try:
        return Columns(_pairs(text, "--columns"))
    except ConversationError as error:
        raise typer.BadParameter(str(error), param_hint="'--columns'") from error


def _roles(text: str) -> dict[str, Role]:
    known: dict[str, Role] = {"user": "user", "assistant": "assistant"}
    found: dict[str, Role] = {}
    for name, role in _pairs(text, "--roles").items():
        if role not in known:
            raise typer.BadParameter(
                f"{name!r} is said to be {role!r}; a speaker is 'user' or 'assistant'",
                param_hint="'--roles'",
            )
        found[name] = known[role]
    return found


def _pairs(text: str, option: str) -> dict[str, str]:
    """Return the names and values of a text such as ``id=call,role=who``; quotes hold commas."""
    found: dict[str, str] = {}
    for part in next(csv.reader([text]), []):
        name, sign, value = (piece.strip() for piece in part.partition("="))
        if not (name and sign and value):
            raise typer.BadParameter(
                f"{part!r} is not of the form NAME=VALUE", param_hint=f"'{option}'"
            )
        if name in found:
            raise typer.BadParameter(f"{name!r} stands there twice", param_hint=f"'{option}'")
        found[name] = value
    return found
