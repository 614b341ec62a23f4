"""The command ``sra-fast extend``, which writes replies under strategies drawn at random."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sra_fast.cli import options
from sra_fast.cli.inputs import choose_template
from sra_fast.cli.session import session
from sra_fast.names import TEST_SHARE, VALIDATION_SHARE

from . import pipeline_options, replying

if TYPE_CHECKING:
    from rich.table import Table


def extend(
    file: pipeline_options.DialogueFile,
    model: options.ModelName,
    out: pipeline_options.RunOut,
    template: options.TemplateName = "c1_hf",
    strategies: options.StrategyFile = None,
    thoughts: options.ThoughtsOption = None,
    dialogues: pipeline_options.MostDialogues = None,
    cuts: pipeline_options.MostCuts = None,
    probability: Annotated[
        float,
        typer.Option(
            "--probability",
            metavar="SHARE",
            max=1.0,
            help="Draw each strategy at each cut with this probability, above 0; 1 takes them all.",
        ),
    ] = 0.3,
    test: pipeline_options.TestShare = TEST_SHARE,
    validation: pipeline_options.ValidationShare = VALIDATION_SHARE,
    endpoint: replying.EndpointURL = None,
    retries: replying.Retries = 5,
    timeout: replying.Timeout = 120.0,
    token_limit: replying.TokenLimitName = "max_tokens",
    temperature: replying.Temperature = 0.7,
    top_p: replying.TopP = 0.9,
    max_new_tokens: replying.MaxNewTokens = 512,
    batch_size: replying.BatchSize = 32,
    seed: replying.Seed = 42,
    dtype: options.DTypeOption = "auto",
    device: options.DeviceOption = "auto",
    allow_missing: options.AllowMissing = False,
    as_json: options.JsonOption = False,
    debug: options.DebugOption = False,
) -> None:
    """Cut dialogues, draw strategies, and have a model write the next replies.

    It writes train.jsonl, test.jsonl and validation.jsonl, between which whole dialogues are
    divided, and statistics about them. The defaults are the paper's. If it is interrupted, the same
    command continues.
    """
    with session(as_json, debug, continues=True) as current:
        chosen = choose_template(template, "--template")

        from sra_fast.chat.strategies import STRATEGIES, read_strategies

        from ..pipeline.extension.cuts import Cutting
        from ..pipeline.extension.extend import PARTS, STATISTICS, Extension
        from ..pipeline.extension.extend import extend as run
        from ..pipeline.generation.sampling import Sampling
        from .pipeline_progress import reply_progress

        sampling = Sampling(temperature, top_p, max_new_tokens, seed)
        named, make, source = replying.replier(
            model,
            endpoint,
            sampling,
            batch_size,
            dtype,
            device,
            retries=retries,
            timeout=timeout,
            allow_missing=allow_missing,
            thoughts=thoughts,
            out=out,
            token_limit=token_limit,
        )
        extension = Extension(
            file=file,
            out=out,
            template=chosen,
            strategies=STRATEGIES if strategies is None else read_strategies(strategies),
            cutting=Cutting(probability=probability, cuts=cuts, dialogues=dialogues, seed=seed),
            sampling=sampling,
            replier=named,
            test=test,
            validation=validation,
            thoughts=thoughts,
            source=source,
        )
        with reply_progress(current) as on_progress:
            described = run(extension, make, on_progress)
        for table in _tables(described):
            current.show(table)
        current.say(f"written to {out}")
        current.result = {
            "command": "extend",
            "out": str(out),
            "files": [*(f"{part}.jsonl" for part in PARTS), f"{STATISTICS}.json"],
            "model": named["name"],
            "template": chosen.name,
            **described,
        }


def _tables(described: Mapping[str, Any]) -> list[Table]:
    from rich.table import Table

    from sra_fast.tools.printable import printable

    parts = Table(title="the data set", title_justify="left")
    columns = ("dialogues", "replies", "turns", "turn_words", "reply_words")
    heads = ("dialogues", "replies", "turns before", "words of a turn", "words of a reply")
    parts.add_column("")
    for head in heads:
        parts.add_column(head, justify="right")
    for name, part in described["parts"].items():
        parts.add_row(name, *(_number(part[column]) for column in columns))
    by_strategy = Table(title="replies by strategy", title_justify="left")
    by_strategy.add_column("strategy")
    names = list(described["parts"])
    for head in (*names, "words of a reply"):
        by_strategy.add_column(head, justify="right")
    for name, row in described["strategies"].items():
        cells = (_number(row[key]) for key in (*names, "words"))
        by_strategy.add_row(printable(name), *cells)
    return [parts, by_strategy]


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return str(value) if isinstance(value, int) else f"{value:.1f}"
