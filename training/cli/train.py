"""The command ``sra-fast train``, which fine-tunes with LoRA and watches or raises SRA."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sra_fast.cli import options
from sra_fast.cli.session import session
from sra_fast.names import DType, TooLong
from sra_fast.tools import launched_processes
from sra_fast.tools.argument_error import ArgumentError

from . import pipeline_options

if TYPE_CHECKING:
    from rich.table import Table

_RUN, _SRA, _MEMORY = "Training", "Training towards SRA", "Memory and speed"


def _setting(
    name: str, text: str, default: str | bool, panel: str | None = None, **more: Any
) -> Any:
    """Return an option for a setting that YAML may have set: None if it is not given."""
    return typer.Option(name, help=text, show_default=default, rich_help_panel=panel, **more)


def train(
    file: Annotated[
        Path,
        options.existing_file(
            "DATA",
            "The conversations to train on, one JSON object per line; the last reply of each is "
            "learned.",
        ),
    ],
    model: options.ModelName,
    out: pipeline_options.RunOut,
    config: pipeline_options.TrainingSettings = None,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace an earlier training run in the folder of --out."),
    ] = False,
    merge: Annotated[
        bool,
        typer.Option("--merge", help="Also write the whole model with the adapter merged into it."),
    ] = False,
    template: Annotated[
        str | None,
        _setting("--template", options.TEMPLATE, "standard", metavar="NAME_OR_FILE"),
    ] = None,
    strategies: options.StrategyFile = None,
    thoughts: Annotated[
        tuple[str, str] | None,
        _setting(
            "--thoughts", options.THOUGHTS, "those of the chat template", metavar="OPEN CLOSE"
        ),
    ] = None,
    max_length: Annotated[
        int | None,
        _setting(
            "--max-length", "The most tokens a conversation may have.", "4096", metavar="N", min=1
        ),
    ] = None,
    too_long: Annotated[
        TooLong | None,
        _setting(
            "--too-long",
            "What to do with a conversation of more than --max-length tokens: error stops, drop "
            "leaves it out, and cut_oldest_turns shortens it.",
            "error",
        ),
    ] = None,
    eval_data: Annotated[
        Path | None,
        _setting(
            "--eval-data",
            "A file of held-out conversations to evaluate on, one JSON object per line.",
            False,
            metavar="FILE",
            exists=True,
            dir_okay=False,
            readable=True,
        ),
    ] = None,
    eval_fraction: Annotated[
        float | None,
        _setting(
            "--eval-fraction",
            "Hold out this share of the dialogues for evaluation, unless --eval-data is given; 0 "
            "trains without evaluation and early stopping.",
            "0.1",
            metavar="SHARE",
            min=0.0,
        ),
    ] = None,
    epochs: Annotated[
        float | None,
        _setting(
            "--epochs",
            "How many times to go through the training conversations.",
            "5",
            _RUN,
            metavar="NUMBER",
        ),
    ] = None,
    max_steps: Annotated[
        int | None,
        _setting(
            "--max-steps",
            "Stop after this many optimizer steps, whatever --epochs says.",
            False,
            _RUN,
            metavar="N",
            min=1,
        ),
    ] = None,
    learning_rate: Annotated[
        float | None,
        _setting(
            "--learning-rate",
            "The learning rate at the peak of its schedule.",
            "1e-4",
            _RUN,
            metavar="NUMBER",
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        _setting(
            "--batch-size",
            "How many conversations each process packs into one forward pass.",
            "2",
            _RUN,
            metavar="N",
            min=1,
        ),
    ] = None,
    accumulation: Annotated[
        int | None,
        _setting(
            "--accumulation",
            "How many forward passes to accumulate for one optimizer step.",
            "32",
            _RUN,
            metavar="N",
            min=1,
        ),
    ] = None,
    rank: Annotated[
        int | None,
        _setting(
            "--rank",
            "The rank of the LoRA adapters; alpha is twice the rank unless --config sets it.",
            "128",
            _RUN,
            metavar="N",
            min=1,
        ),
    ] = None,
    eval_steps: Annotated[
        int | None,
        _setting(
            "--eval-steps",
            "How many optimizer steps lie between two evaluations, and two checkpoints.",
            "20",
            _RUN,
            metavar="N",
            min=1,
        ),
    ] = None,
    seed: Annotated[
        int | None,
        _setting(
            "--seed",
            "Seed of every random draw: adapters, order of the data, dropout and split.",
            "42",
            _RUN,
            metavar="N",
            min=0,
        ),
    ] = None,
    report_to: Annotated[
        list[str] | None,
        _setting(
            "--report-to",
            "A tracker to report to, such as tensorboard or wandb; the option may be repeated.",
            False,
            _RUN,
            metavar="TRACKER",
        ),
    ] = None,
    sra_weight: Annotated[
        float | None,
        _setting(
            "--sra-weight",
            "The weight of SRA in the training loss; 0 trains on the language-model loss alone and "
            "only watches SRA.",
            "0",
            _SRA,
            metavar="NUMBER",
            min=0.0,
        ),
    ] = None,
    sra_target: Annotated[
        float | None,
        _setting(
            "--sra-target",
            "Raise SRA up to this value and no further, above 0.",
            "no limit",
            _SRA,
            metavar="NUMBER",
        ),
    ] = None,
    dtype: Annotated[
        DType | None,
        _setting("--dtype", options.DTYPE, "auto", _MEMORY),
    ] = None,
    device: options.DeviceOption = "auto",
    allow_missing: options.AllowMissing = False,
    load_4bit: Annotated[
        bool | None,
        _setting(
            "--load-4bit/--no-load-4bit",
            "Load the base model with 4 bits per weight (bitsandbytes), which saves memory.",
            False,
            _MEMORY,
        ),
    ] = None,
    gradient_checkpointing: Annotated[
        bool | None,
        _setting(
            "--gradient-checkpointing/--no-gradient-checkpointing",
            "Compute activations a second time instead of keeping them, which saves memory and "
            "costs time.",
            False,
            _MEMORY,
        ),
    ] = None,
    mlp_slices: Annotated[
        int | None,
        _setting(
            "--mlp-slices",
            "Run the MLPs over this many slices of the sequence in turn, which saves memory; 1 "
            "runs them over all of it at once.",
            "1",
            _MEMORY,
            metavar="N",
            min=1,
        ),
    ] = None,
    as_json: options.JsonOption = False,
    debug: options.DebugOption = False,
) -> None:
    """Fine-tune a model with LoRA on conversations, and watch SRA as it trains.

    It writes adapter/, curves.png, sra_history.jsonl, result.json and, with --merge, merged/ into
    the folder of --out. The defaults are the paper's. If it is interrupted, the same command
    continues.
    """
    try:
        first = launched_processes.is_first()
        own_rank = launched_processes.rank()  # `rank` is that of the adapter
    except ArgumentError as error:
        raise typer.BadParameter(str(error), param_hint="the environment") from error
    with session(as_json and first, debug, continues=True, rank=own_rank) as current:
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
                "thoughts": thoughts,
                "max_length": max_length,
                "too_long": too_long,
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
                "dtype": dtype,
                "load_4bit": load_4bit,
                "gradient_checkpointing": gradient_checkpointing,
                "mlp_slices": mlp_slices,
            },
        )
        source = find_model(model, allow_missing=allow_missing)
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
