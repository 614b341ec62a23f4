"""The command ``sra-fast convert``, which turns dialogues of ESConv into conversations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sra_fast.cli import options
from sra_fast.cli.session import session


def convert(
    source: Annotated[Path, options.existing_file("DIALOGUES", options.DIALOGUES)],
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
    strategies: options.StrategyFile = None,
    force: options.ForceOption = False,
    as_json: options.JsonOption = False,
    debug: options.DebugOption = False,
) -> None:
    """Convert dialogues in the formats of ESConv to conversations that can be scored."""
    with session(as_json, debug, continues=False) as current:
        from sra_fast.chat import esconv
        from sra_fast.chat.conversations import write_conversations
        from sra_fast.chat.strategies import (
            DEFAULT_STRATEGIES,
            StrategyError,
            lookup,
            read_strategies,
        )

        if out.exists() and (not force or out.samefile(source)):
            way = "give another --out" if out.samefile(source) else "give another --out, or --force"
            raise FileExistsError(f"{out} is there already; {way}")
        if strategies is not None and strategy is None:
            raise typer.BadParameter(
                "it names the strategies that --strategy may take; give --strategy too",
                param_hint="'--strategies'",
            )
        known = DEFAULT_STRATEGIES if strategies is None else read_strategies(strategies)
        if strategy is not None:
            try:
                lookup(strategy, known)
            except StrategyError as error:
                raise typer.BadParameter(str(error), param_hint="'--strategy'") from error
        converted = esconv.convert(source, strategy=strategy, strategies=known)
        out.parent.mkdir(parents=True, exist_ok=True)
        write_conversations(out, converted.records)
        for note in converted.notes:
            current.say(note)
        current.say(f"written to {out}")
        current.result = {
            "command": "convert",
            "out": str(out),
            "conversations": len(converted.records),
            "notes": list(converted.notes),
        }
