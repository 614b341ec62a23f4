"""The command ``sra-fast steer-study``, which asks what attention on the strategy does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sra_fast.cli import options
from sra_fast.cli.session import session

from . import pipeline_options

if TYPE_CHECKING:
    from rich.table import Table

_ALL_PARTS = "strategy,control,groups"


def steer_study(
    file: pipeline_options.DialogueFile,
    model: options.ModelName,
    out: pipeline_options.RunOut,
    strategies: options.StrategyFile = None,
    thoughts: options.ThoughtsOption = None,
    dialogues: pipeline_options.MostDialogues = None,
    parts: Annotated[
        str,
        typer.Option(
            "--parts",
            metavar="NAMES",
            help="The parts of the study to compute now, separated by commas: strategy, control, "
            "groups; those computed earlier stay.",
        ),
    ] = _ALL_PARTS,
    batch_tokens: options.BatchTokens = 4096,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the order of the dialogues.")] = 42,
    dtype: options.DTypeOption = "auto",
    device: options.DeviceOption = "auto",
    allow_missing: options.AllowMissing = False,
    as_json: options.JsonOption = False,
    debug: options.DebugOption = False,
) -> None:
    """Measure whether attention on the strategy makes replies that follow it more probable.

    The dialogues' own annotated replies are read under a prompt with each strategy, while the
    model's attention on the strategy's name is raised, lowered or knocked out. The file report.md
    has tables and figures of what this does, against the same steering of the situation. If it is
    interrupted, the same command continues, also with more dialogues or other parts.
    """
    with session(as_json, debug, continues=True) as current:
        from ..pipeline.steering.study_settings import PARTS

        names = [name.strip() for name in parts.split(",")]
        chosen = tuple(part for part in PARTS if part in names)
        if unknown := [name for name in names if name not in PARTS]:
            raise typer.BadParameter(
                f"{unknown[0]!r} is not one of {', '.join(PARTS)}", param_hint="'--parts'"
            )

        from sra_fast.chat.strategies import DEFAULT_STRATEGIES, read_strategies
        from sra_fast.files.models import find_model

        from ..pipeline.steering.steer_study import SteerStudy, run_study
        from .pipeline_progress import condition_progress

        study = SteerStudy(
            file=file,
            out=out,
            model=find_model(model, allow_missing=allow_missing),
            strategies=DEFAULT_STRATEGIES if strategies is None else read_strategies(strategies),
            dtype=dtype,
            device=device,
            thoughts=thoughts,
            seed=seed,
            dialogues=dialogues,
            parts=chosen,
            batch_tokens=batch_tokens,
        )
        with condition_progress(current) as on_progress:
            results = run_study(study, on_progress)
        current.show(_table(results))
        current.say(f"written to {out}")
        current.result = {"command": "steer-study", "out": str(out), **results}


def _table(results: Mapping[str, Any]) -> Table:
    from rich.table import Table

    table = Table(title="advantage of the own strategy, log p per token", title_justify="left")
    for column in ("setting", "replies", "advantage", "shuffled", "own first"):
        table.add_column(column, justify="left" if column == "setting" else "right")
    for one in results["settings"]:
        figures = one["figures"]
        table.add_row(
            one["setting"],
            str(one["replies"]),
            *(
                _number(figures[name]["value"])
                for name in ("per_token", "shuffled_per_token", "first")
            ),
        )
    return table


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
