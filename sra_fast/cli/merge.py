"""The command ``sra-fast merge``, which puts the shards of a scored file together."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sra_fast.cli import options
from sra_fast.cli.scored_output import show_scores
from sra_fast.cli.session import session


def merge(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR",
            help="The folder that `sra-fast score --shard` wrote its shards into.",
            exists=True,
            file_okay=False,
            show_default=False,
        ),
    ],
    as_json: options.JsonOption = False,
    debug: options.DebugOption = False,
) -> None:
    """Merge the shards of a scored file into the results that one run would have written.

    It writes scores.jsonl, scores.parquet and masses.safetensors into DIR, byte for byte those of
    the run without --shard, and removes the folders of the shards. Nothing is written before all
    shards are there, finished and alike; shards that are missing are named. A folder that is merged
    already is left as it is.
    """
    with session(as_json, debug, continues=True) as current:
        from sra_fast.files.shard_merging import merge_shards
        from sra_fast.tools.counted import counted

        merged = merge_shards(folder)
        if merged.shards:
            current.say(f"merged {counted(merged.shards, 'shard')}")
        else:
            current.say(f"{folder} holds the whole run already, so nothing was left to merge")
        settings = merged.settings
        show_scores(
            current,
            "merge",
            folder,
            merged.rows,
            model=settings["model"]["name"],
            template=settings["template"]["name"],
            definition=settings["definition"],
            checked=merged.result.checked,
        )
