"""``sra-fast judge``: two systems' replies head-to-head, by a language model as judge."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sra_fast.cli import options
from sra_fast.cli.session import session
from sra_fast.tools.printable import printable

from . import replying

if TYPE_CHECKING:
    from rich.table import Table

    from ..pipeline.judging.judge import JudgingResult
    from ..pipeline.judging.tally import Share, Tally

_NONE = "–"


def _file(which: str) -> typer.models.ArgumentInfo:
    return options.existing_file(
        f"{which}.jsonl", f"Conversations whose last reply is system {which}'s."
    )


def judge(
    file_a: Annotated[Path, _file("A")],
    file_b: Annotated[Path, _file("B")],
    endpoint: Annotated[
        str,
        typer.Option(
            "--endpoint",
            metavar="URL",
            help="OpenAI-compatible, e.g. http://localhost:8000/v1; the key, if it wants one, is "
            "read from OPENAI_API_KEY.",
            show_default=False,
        ),
    ],
    model: Annotated[
        str,
        typer.Option(
            "--judge",
            metavar="MODEL",
            help="The judge, as the endpoint calls it.",
            show_default=False,
        ),
    ],
    out: options.RunOut,
    prompt: Annotated[
        Path | None,
        typer.Option(
            "--prompt",
            metavar="FILE",
            help="Your own prompt, with {strategy}, {description}, {conversation}, {first} and "
            "{second}; its answer must end in a line FIRST, SECOND or TIE.",
            exists=True,
            dir_okay=False,
            readable=True,
            show_default=False,
        ),
    ] = None,
    strategies: options.StrategyFile = None,
    items: Annotated[
        int | None,
        typer.Option("--items", metavar="N", help="Judge so many, drawn at random.", min=1),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of what --items draws.")] = 0,
    name_a: Annotated[
        str | None, typer.Option("--name-a", help="Of A in the result; else the file's name.")
    ] = None,
    name_b: Annotated[str | None, typer.Option("--name-b", help="Of B, likewise.")] = None,
    requests_per_minute: Annotated[
        float | None,
        typer.Option("--requests-per-minute", metavar="N", help="At most, retries included."),
    ] = None,
    concurrency: Annotated[
        int, typer.Option("--concurrency", help="Requests at the same time.", min=1)
    ] = 8,
    retries: replying.Retries = 5,
    timeout: replying.Timeout = 120.0,
    as_json: options.JsonOption = False,
    debug: options.DebugOption = False,
) -> None:
    """Let a language model judge which of two systems' replies is better.

    Both files hold the same conversations with different last replies. Each item is asked in both
    orders; if they disagree it is a tie. Writes result.json and transcript.jsonl into DIR. Killed
    at any moment, the same command goes on, and asks nothing twice that was answered.
    """
    with session(as_json, debug) as current:
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
                ),
                out=out,
                prompt=DEFAULT_PROMPT if prompt is None else read_prompt(prompt),
                strategies=(
                    DEFAULT_STRATEGIES if strategies is None else read_strategies(strategies)
                ),
                items=items,
                seed=seed,
                name_a=first,
                name_b=second,
                on_answer=on_answer,
            )
            result = judging.judge(run)
        current.show(_table(f"{first} against {second}, judged by {model}", result))
        for gap in _gaps(result.overall):
            current.say(gap)
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
    between = "" if share.low is None else f"\n[{share.low:.1f}, {share.high:.1f}]"
    return f"{share.count} = {share.percent:.2f}%{between}"


def _gaps(overall: Tally) -> Iterator[str]:
    for ids, what in (
        (overall.undecided, "the judge named neither, so it counts for nobody"),
        (overall.missing, "no answer yet"),
        (overall.identical, "both replies are the same, so a preference would be chance"),
    ):
        if ids:
            named = ", ".join(ids[:5]) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")
            yield f"{len(ids)} of {overall.items} items: {what}: {named}"
