"""The command ``sra-fast judge``, which has a language model compare two systems' replies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sra_fast.cli import options
from sra_fast.cli.session import session
from sra_fast.tools.printable import printable

from . import pipeline_options, replying

if TYPE_CHECKING:
    from rich.table import Table

    from ..pipeline.judging.judge import JudgingResult
    from ..pipeline.judging.tally import Share, Tally

_NONE = "–"


def judge(
    file_a: pipeline_options.FileA,
    file_b: pipeline_options.FileB,
    endpoint: Annotated[
        str,
        typer.Option(
            "--endpoint",
            metavar="URL",
            help="The URL of the OpenAI-compatible server that the judge runs on, such as "
            "http://localhost:8000/v1; OPENAI_API_KEY holds the key if it wants one.",
            show_default=False,
        ),
    ],
    model: Annotated[
        str,
        typer.Option(
            "--judge",
            metavar="MODEL",
            help="The language model that judges, by the name that the endpoint knows.",
            show_default=False,
        ),
    ],
    out: pipeline_options.RunOut,
    prompt: Annotated[
        Path | None,
        typer.Option(
            "--prompt",
            metavar="FILE.txt",
            help="A text file with a prompt of your own; it contains {strategy}, {description}, "
            "{conversation}, {first} and {second}, and asks for an answer that ends in a line "
            "FIRST, SECOND or TIE.",
            exists=True,
            dir_okay=False,
            readable=True,
            show_default=False,
        ),
    ] = None,
    strategies: options.StrategyFile = None,
    items: pipeline_options.ItemCount = None,
    seed: Annotated[
        int,
        typer.Option(
            "--seed",
            metavar="N",
            help="Seed of the random draw that --items asks for.",
        ),
    ] = 0,
    name_a: pipeline_options.NameA = None,
    name_b: pipeline_options.NameB = None,
    requests_per_minute: Annotated[
        float | None,
        typer.Option(
            "--requests-per-minute",
            metavar="N",
            help="Send at most this many requests per minute, retries included.",
            show_default="no limit",
        ),
    ] = None,
    concurrency: Annotated[
        int,
        typer.Option(
            "--concurrency",
            metavar="N",
            min=1,
            help="How many requests to send at the same time.",
        ),
    ] = 8,
    retries: replying.Retries = 5,
    timeout: replying.Timeout = 120.0,
    temperature: Annotated[
        float,
        typer.Option(
            "--temperature",
            metavar="NUMBER",
            min=0.0,
            help=replying.TEMPERATURE,
        ),
    ] = 0.0,
    max_tokens: Annotated[
        int,
        typer.Option(
            "--max-tokens",
            metavar="N",
            min=1,
            help="Cut an answer of the judge after this many tokens, thoughts included; an answer "
            "that is cut has no verdict.",
        ),
    ] = 2048,
    token_limit: replying.TokenLimitName = "max_tokens",
    as_json: options.JsonOption = False,
    debug: options.DebugOption = False,
) -> None:
    """Let a language model judge which of two systems' replies is better.

    Both files hold the same conversations with different last replies. The judge sees each pair of
    replies in both orders, and answers that disagree count as a tie. The results are written to
    result.json and transcript.jsonl in the folder of --out. If it is interrupted, the same command
    continues, and asks nothing again that was answered.
    """
    with session(as_json, debug, continues=True) as current:
        from sra_fast.chat.strategies import DEFAULT_STRATEGIES, read_strategies

        from ..pipeline.endpoint import Endpoint
        from ..pipeline.judging import judge as judging
        from ..pipeline.judging.judge_prompt import DEFAULT_PROMPT, read_prompt
        from .pipeline_progress import request_progress

        first, second = name_a or file_a.stem, name_b or file_b.stem
        if first == second:
            raise typer.BadParameter(
                f"both systems are called {first!r}; give --name-a and --name-b",
                param_hint="'--name-a'",
            )
        with request_progress(current) as on_answer:
            run = judging.JudgingRun(
                file_a=file_a,
                file_b=file_b,
                endpoint=Endpoint(
                    endpoint,
                    model,
                    timeout=timeout,
                    retries=retries,
                    requests_per_minute=requests_per_minute,
                    concurrency=concurrency,
                    token_limit=token_limit,
                ),
                out=out,
                prompt=DEFAULT_PROMPT if prompt is None else read_prompt(prompt),
                strategies=(
                    DEFAULT_STRATEGIES if strategies is None else read_strategies(strategies)
                ),
                items=items,
                seed=seed,
                temperature=temperature,
                max_tokens=max_tokens,
                name_a=first,
                name_b=second,
                on_answer=on_answer,
            )
            result = judging.judge(run)
        current.show(_table(f"{first} against {second}, judged by {model}", result))
        for gap in _gaps(result.overall):
            current.say(gap)
        if result.left_out:
            current.say(f"the judge's server takes no {', '.join(result.left_out)}")
        current.say(f"written to {out}")
        current.result = judging.result_json(run, result)
        result.check_complete()


def _table(title: str, result: JudgingResult) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(printable(title), style="bold"), title_justify="left")
    table.add_column("strategy")
    table.add_column("items", justify="right")
    for column in ("wins", "ties", "losses"):
        table.add_column(column, justify="right", no_wrap=True)
    for column in ("first\nplace", "orders\ndiffer", "undecided"):
        table.add_column(column, justify="right")
    for name, one in (("all", result.overall), *result.by_strategy.items()):
        table.add_row(Text(printable(name)), *_cells(one))
    return table


def _cells(one: Tally) -> list[str]:
    decided = one.items - len(one.missing)
    return [
        str(one.items) if decided == one.items else f"{decided} of {one.items}",
        *(_share(share) for share in (one.wins, one.ties, one.losses)),
        _NONE if one.first_percent is None else f"{one.first_percent:.0f}%",
        str(one.disagreements),
        str(len(one.undecided)),
    ]


def _share(share: Share) -> str:
    if share.percent is None:
        return _NONE
    between = _NONE if share.low is None else f"{share.low:.1f}, {share.high:.1f}"
    return f"{share.count} = {share.percent:.2f}%\n[{between}]"


def _gaps(overall: Tally) -> Iterator[str]:
    for ids, what in (
        (overall.undecided, "the judge named neither, so it counts for nobody"),
        (overall.missing, "the judge has not answered about it yet"),
        (overall.identical, "both replies are the same, so a preference would be chance"),
    ):
        if ids:
            named = ", ".join(ids[:5]) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")
            yield f"{len(ids)} of {overall.items} items: {what}: {named}"
