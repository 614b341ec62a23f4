"""``sra-fast train``: LoRA on conversations with strategies, SRA watched or trained towards."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sra_fast.cli import options
from sra_fast.cli.session import session
from sra_fast.names import DType, TooLong

from ..lora import processes

if TYPE_CHECKING:
    from rich.table import Table

_RUN, _SRA, _MEMORY = "The run", "SRA", "Memory and speed"


def _setting(
    name: str, text: str, default: str | bool, panel: str | None = None, **more: Any
) -> Any:
    """An option for a setting that YAML may have set: None if it is not given."""
    return typer.Option(name, help=text, show_default=default, rich_help_panel=panel, **more)


def train(
    file: Annotated[
        Path,
        options.existing_file(
            "DATA", "Conversations, one JSON object a line; the last reply of each is learned."
        ),
    ],
    model: options.ModelName,
    out: options.RunOut,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE.yaml",
            help="Settings by name (sra_fast.training.lora.settings); options override them.",
            exists=True,
            dir_okay=False,
            readable=True,
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier training run in DIR.")
    ] = False,
    merge: Annotated[
        bool, typer.Option("--merge", help="Also write the model with the adapter in it.")
    ] = False,
    template: Annotated[
        str | None,
        _setting(
            "--template", "One of the seven, or your own.", "standard", metavar="NAME_OR_FILE"
        ),
    ] = None,
    strategies: options.StrategyFile = None,
    max_length: Annotated[
        int | None, _setting("--max-length", "Most tokens of a conversation.", "4096", min=1)
    ] = None,
    too_long: Annotated[
        TooLong | None, _setting("--too-long", "What happens to a longer one.", "error")
    ] = None,
    eval_data: Annotated[
        Path | None,
        _setting(
            "--eval-data",
            "Held-out conversations.",
            False,
            metavar="FILE",
            exists=True,
            dir_okay=False,
            readable=True,
        ),
    ] = None,
    eval_fraction: Annotated[
        float | None,
        _setting("--eval-fraction", "Share of the dialogues held out, or 0.", "0.1", min=0.0),
    ] = None,
    epochs: Annotated[float | None, _setting("--epochs", "Passes.", "5", _RUN)] = None,
    max_steps: Annotated[
        int | None, _setting("--max-steps", "Optimizer steps, instead.", False, _RUN, min=1)
    ] = None,
    learning_rate: Annotated[
        float | None, _setting("--learning-rate", "At its highest.", "1e-4", _RUN)
    ] = None,
    batch_size: Annotated[
        int | None, _setting("--batch-size", "Conversations of a pass.", "2", _RUN, min=1)
    ] = None,
    accumulation: Annotated[
        int | None, _setting("--accumulation", "Passes of a step.", "32", _RUN, min=1)
    ] = None,
    rank: Annotated[
        int | None, _setting("--rank", "Of LoRA; alpha is twice that.", "128", _RUN, min=1)
    ] = None,
    eval_steps: Annotated[
        int | None,
        _setting("--eval-steps", "Between evaluations and checkpoints.", "20", _RUN, min=1),
    ] = None,
    seed: Annotated[int | None, _setting("--seed", "Of everything.", "42", _RUN, min=0)] = None,
    report_to: Annotated[
        list[str] | None,
        _setting("--report-to", "tensorboard, wandb, …; may be repeated.", False, _RUN),
    ] = None,
    sra_weight: Annotated[
        float | None,
        _setting("--sra-weight", "Train towards SRA with this weight.", "0", _SRA, min=0.0),
    ] = None,
    sra_target: Annotated[
        float | None, _setting("--sra-target", "No further than this SRA.", False, _SRA)
    ] = None,
    dtype: Annotated[
        DType | None,
        _setting("--dtype", "Of the base model; auto is as stored.", "auto", _MEMORY),
    ] = None,
    device: options.DeviceOption = "auto",
    load_4bit: Annotated[
        bool | None,
        _setting("--load-4bit/--no-load-4bit", "Base model in 4 bits.", False, _MEMORY),
    ] = None,
    gradient_checkpointing: Annotated[
        bool | None,
        _setting(
            "--gradient-checkpointing/--no-gradient-checkpointing",
            "Compute activations twice instead of keeping them.",
            False,
            _MEMORY,
        ),
    ] = None,
    mlp_slices: Annotated[
        int | None,
        _setting("--mlp-slices", "MLPs over so many slices of the row.", "1", _MEMORY, min=1),
    ] = None,
    as_json: options.JsonOption = False,
    debug: options.DebugOption = False,
) -> None:
    """Fine-tune a model with LoRA on conversations, and watch SRA as it trains.

    The defaults are the paper's. Writes adapter/, merged/ (--merge), curves.png, sra_history.jsonl
    and result.json into DIR. Killed at any moment, the same command continues.
    """
    first = processes.is_first()
    with session(as_json and first, debug, quiet=not first) as current:
        from sra_fast.files.models import find_model

        from ..lora.settings import read_config
        from ..lora.train import TrainingRun
        from ..lora.train import train as run
        from .pipeline_progress import step_progress

        settings = read_config(
            config,
            {
                "template": template,
                "strategies": None if strategies is None else str(strategies),
                "max_length": max_length,
                "too_long": None if too_long is None else too_long,
                "eval_data": None if eval_data is None else str(eval_data),
                "eval_fraction": eval_fraction,
                "epochs": epochs,
                "max_steps": max_steps,
                "learning_rate": learning_rate,
                "batch_size": batch_size,
                "accumulation": accumulation,
                "rank": rank,
                "eval_steps": eval_steps,
                "seed": seed,
                "report_to": tuple(report_to) if report_to else None,
                "sra_weight": sra_weight,
                "sra_target": sra_target,
                "dtype": None if dtype is None else dtype,
                "load_4bit": load_4bit,
                "gradient_checkpointing": gradient_checkpointing,
                "mlp_slices": mlp_slices,
            },
        )
        source = find_model(model)
        with step_progress(current) as on_log:
            result = run(
                TrainingRun(
                    data=file,
                    source=source,
                    out=out,
                    config=settings,
                    device=device,
                    overwrite=overwrite,
                    merge=merge,
                    on_log=on_log,
                )
            )
        if not first:
            return
        if result["after"] is not None:
            current.show(_before_and_after(result))
        current.say(f"written to {out}")
        current.result = result


def _before_and_after(result: Mapping[str, Any]) -> Table:
    from rich.table import Table

    title = f"held-out conversations: {result['examples']['eval']}"
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for column in ("loss", "SRA", "log SRA"):
        table.add_column(column, justify="right")
    named = {"base model": result["before"], f"step {result['chosen_step']}": result["after"]}
    for name, measured in named.items():
        values = [measured and measured[key] for key in ("loss", "sra", "log_sra")]
        table.add_row(name, *("–" if value is None else f"{value:.5g}" for value in values))
    return table
