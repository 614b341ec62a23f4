"""The commands of ``sra-fast`` by name, each of which is imported only when it is called."""

from __future__ import annotations

from typing import Annotated

import typer

from sra_fast import __version__
from sra_fast.cli.lazy_group import lazy_group

COMMANDS = {
    "score": "sra_fast.cli.score:score",
    "merge": "sra_fast.cli.merge:merge",
    "compare": "sra_fast.cli.compare:compare",
    "view": "sra_fast.cli.view:view",
    "convert": "sra_fast.cli.convert:convert",
    "demo": "sra_fast.cli.demo:demo",
    "train": "sra_fast.training.cli.train:train",
    "extend": "sra_fast.training.cli.extend:extend",
    "evaluate": "sra_fast.training.cli.evaluate:evaluate",
    "judge": "sra_fast.training.cli.judge:judge",
    "reproduce": "sra_fast.training.cli.reproduce:reproduce",
    "steer-study": "sra_fast.training.cli.steer_study:steer_study",
    "annotate": "sra_fast.training.cli.annotate:annotate",
    "classify": "sra_fast.training.cli.classify:classify",
}
"""Where each command is. Strings, not imports: the training package stands above this one."""

app = typer.Typer(
    name="sra-fast",
    cls=lazy_group(COMMANDS),
    no_args_is_help=True,
    context_settings={"help_option_names": ["--help", "-h"]},  # of every command below, too
    pretty_exceptions_enable=False,
    help="Measure how much the replies of a chat model attend to the strategy that they were told "
    "to follow (Strategy Relevant Attention, SRA, arXiv 2402.10453).",
    epilog="The exit status is 0 after success, 1 after a failure, 2 after wrong use, and 130 "
    "after an interruption.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sra-fast {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            "-V",
            help="Print the version of the library and exit.",
            callback=_print_version,
            is_eager=True,
        ),
    ] = False,
) -> None:
    pass
