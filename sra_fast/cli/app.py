"""The commands of ``sra-fast``. Nothing here imports torch; each command does when it runs."""

from __future__ import annotations

from typing import Annotated

import typer

from sra_fast import __version__
from sra_fast.cli.annotate import annotate
from sra_fast.cli.classify import classify
from sra_fast.cli.compare import compare
from sra_fast.cli.convert import convert
from sra_fast.cli.demo import demo
from sra_fast.cli.evaluate import evaluate
from sra_fast.cli.extend import extend
from sra_fast.cli.judge import judge
from sra_fast.cli.reproduce import reproduce
from sra_fast.cli.score import score
from sra_fast.cli.train import train

app = typer.Typer(
    name="sra-fast",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="How much the replies of a chat model attend to the strategy they were told to follow "
    "(Strategy Relevant Attention, arXiv 2402.10453).",
    epilog="Exit status: 0 done, 1 failed, 2 wrong use, 130 interrupted.",
)
for command in (score, compare, convert, demo, train, extend, evaluate, judge, reproduce):
    app.command()(command)
app.add_typer(annotate, name="annotate")
app.add_typer(classify, name="classify")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sra-fast {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    pass
