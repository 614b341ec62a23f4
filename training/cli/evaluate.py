"""The command ``sra-fast evaluate``, which relates SRA to the adherence to strategies."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sra_fast.cli import options
from sra_fast.cli.inputs import choose_templates
from sra_fast.cli.session import session

from . import pipeline_options, replying

if TYPE_CHECKING:
    from rich.table import Table


_ALL = "standard,c1_hf,c3_hf,c5_hf,c1_hl,c3_hl,c5_hl"


def evaluate(
    file: options.ConversationFile,
    model: options.ModelName,
    out: pipeline_options.RunOut,
    tuned: Annotated[
        str | None,
        typer.Option(
            "--tuned",
            metavar="NAME_OR_DIR",
            help="A fine-tuned model to evaluate as well, under the standard template: a folder or "
            "a name on the hub.",
            show_default=False,
        ),
    ] = None,
    templates: options.TemplateNames = _ALL,
    classifier: Annotated[
        str,
        typer.Option(
            "--classifier",
            metavar="DIR",
            help=pipeline_options.CLASSIFIER,
        ),
    ] = "plain",
    strategies: options.StrategyFile = None,
    thoughts: options.ThoughtsOption = None,
    items: pipeline_options.ItemCount = None,
    ablate: pipeline_options.AblatedHeads = 0,
    perplexity: Annotated[
        bool,
        typer.Option(
            "--perplexity/--no-perplexity",
            help="Measure the perplexity of every reply under the base model, which shows broken "
            "language.",
        ),
    ] = True,
    temperature: replying.Temperature = 0.7,
    top_p: replying.TopP = 0.9,
    max_new_tokens: replying.MaxNewTokens = 512,
    batch_size: replying.BatchSize = 32,
    seed: replying.Seed = 42,
    dtype: options.DTypeOption = "auto",
    device: options.DeviceOption = "auto",
    allow_missing: options.AllowMissing = False,
    check: options.CheckOption = True,
    as_json: options.JsonOption = False,
    debug: options.DebugOption = False,
) -> None:
    """Have a model reply under several templates, and relate SRA to the strategies followed.

    The last reply of each conversation is written anew, scored under every definition of SRA, and
    classified by the strategy that it follows. The file report.md has the paper's tables and
    figures, and the results by attention head, strategy and turn. If it is interrupted, the same
    command continues.
    """
    with session(as_json, debug, continues=True) as current:
        chosen = choose_templates(templates, "--templates")

        from sra_fast.chat.strategies import DEFAULT_STRATEGIES, read_strategies
        from sra_fast.files.models import find_model

        from ..pipeline.classifiers import load_classifier
        from ..pipeline.evaluation.conclude import conclude
        from ..pipeline.evaluation.evaluate import Evaluation, collect, opened
        from ..pipeline.generation.sampling import Sampling
        from .pipeline_progress import condition_progress

        evaluation = Evaluation(
            file=file,
            out=out,
            base=find_model(model, allow_missing=allow_missing),
            tuned=None if tuned is None else find_model(tuned, allow_missing=allow_missing),
            templates=chosen,
            strategies=DEFAULT_STRATEGIES if strategies is None else read_strategies(strategies),
            classifier=load_classifier(classifier),
            classifier_name=classifier if classifier == "plain" else Path(classifier).name,
            sampling=Sampling(temperature, top_p, max_new_tokens, seed),
            items=items,
            dtype=dtype,
            device=device,
            batch=batch_size,
            perplexity=perplexity,
            thoughts=thoughts,
            check=check,
        )
        with opened(evaluation), condition_progress(current) as on_progress:
            found = collect(evaluation, on_progress)
            results = conclude(evaluation, found, ablate=ablate, on_progress=on_progress)
        current.show(_table(results))
        current.say(f"written to {out}")
        current.result = {"command": "evaluate", "out": str(out), **results}


def _table(results: Mapping[str, Any]) -> Table:
    from rich.table import Table

    table = Table(title="adherence and SRA", title_justify="left")
    for column in ("condition", "replies", "accuracy", "SRA", "log SRA"):
        table.add_column(column, justify="left" if column == "condition" else "right")
    definition = results["definition"]
    for condition in results["analysis"]["rows"]:
        sra, log = condition["scores"][definition], condition["log_scores"][definition]
        table.add_row(
            condition["row"],
            str(condition["n"]),
            _number(condition["accuracy"]["value"], ".3f"),
            _number(sra["value"], ".3e"),
            _number(log["value"], ".3f"),
        )
    return table


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
