"""The commands ``sra-fast annotate``, which make sheets for people and analyse filled-in ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sra_fast.cli import options
from sra_fast.cli.session import session

from . import pipeline_options

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from sra_fast.tools.estimates import Correlation, Estimate

    from ..pipeline.annotation.agreement import Agreement, WinRate

_SHOWN_GAPS = 5

annotate = typer.Typer(
    no_args_is_help=True,
    help="Make blinded sheets on which people compare two systems, and analyse filled-in ones.",
)


def _scores(name: str, system: str) -> typer.models.OptionInfo:
    info: typer.models.OptionInfo = typer.Option(
        name,
        metavar="DIR_OR_FILE",
        help=f"The SRA of the replies of system {system}: the folder that 'score' wrote, or a CSV "
        "or JSONL file with its columns.",
        exists=True,
        show_default=False,
    )
    return info


@annotate.command()
def export(
    file_a: pipeline_options.FileA,
    file_b: pipeline_options.FileB,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            metavar="DIR",
            file_okay=False,
            help="The folder to write the sheets and their key into.",
            show_default=False,
        ),
    ],
    items: pipeline_options.ItemCount = None,
    annotators: Annotated[
        int,
        typer.Option(
            "--annotators",
            metavar="N",
            min=1,
            help="How many sheets to write, one for each annotator.",
        ),
    ] = 2,
    seed: Annotated[
        int,
        typer.Option(
            "--seed",
            metavar="N",
            help="Seed of every random draw: the items, their order, and which reply stands first.",
        ),
    ] = 0,
    name_a: pipeline_options.NameA = None,
    name_b: pipeline_options.NameB = None,
    sra_a: Annotated[Path | None, _scores("--sra-a", "A")] = None,
    sra_b: Annotated[Path | None, _scores("--sra-b", "B")] = None,
    strategies: options.StrategyFile = None,
    as_json: options.JsonOption = False,
    debug: options.DebugOption = False,
) -> None:
    """Write blinded sheets on which people compare the replies of two systems.

    They are CSV files for spreadsheets, and JSON files with a labelling page for Label Studio.
    Nothing in a sheet tells which system wrote which reply. The file key.json does, so keep it from
    the annotators. Each system stands first in half of the items, also within each strategy. A file
    that exists already is never replaced, since it may be filled in.
    """
    with session(as_json, debug, continues=False) as current:
        names = (name_a or file_a.stem, name_b or file_b.stem)
        if names[0] == names[1]:
            raise typer.BadParameter(
                f"both systems would be called {names[0]!r}; give --name-a and --name-b",
                param_hint="'--name-a'",
            )
        if (sra_a is None) != (sra_b is None):
            raise typer.BadParameter(
                "scores of one system alone give no difference; give --sra-a and --sra-b",
                param_hint="'--sra-a'",
            )

        from sra_fast.chat.strategies import DEFAULT_STRATEGIES, read_strategies

        from ..pipeline.annotation.sheet_files import export_files, write_export
        from ..pipeline.annotation.sheets import Systems, make_sheets
        from ..pipeline.annotation.sra_scores import read_scores, same_definition
        from ..pipeline.items import read_items

        known = DEFAULT_STRATEGIES if strategies is None else read_strategies(strategies)
        chosen = read_items(file_a, file_b, known, count=items, seed=seed)
        if sra_a is None or sra_b is None:
            unknown = [None] * len(chosen)
            systems = Systems(*names, unknown, unknown)
        else:
            scores_a, definition_a = read_scores(sra_a, chosen, file_a)
            scores_b, definition_b = read_scores(sra_b, chosen, file_b)
            definition = same_definition(definition_a, definition_b)
            systems = Systems(*names, scores_a, scores_b, definition)
        sheets, key = make_sheets(chosen, annotators, seed, systems)
        files = export_files(sheets, key)
        write_export(out, files)
        current.say(f"written to {out}: {', '.join(files)}")
        current.say("key.json tells which system wrote what; keep it from the annotators")
        current.result = {
            "command": "annotate export",
            "out": str(out),
            "files": list(files),
            "export": key["export"],
            "items": len(chosen),
            "annotators": [sheet.annotator for sheet in sheets],
            "seed": seed,
            "definition": systems.definition,
        }


@annotate.command()
def agree(
    files: Annotated[
        list[Path],
        options.existing_file(
            "FILE...",
            "The judgements to analyse: with --key, filled-in sheets or JSON exports of Label "
            "Studio; without it, CSV or JSONL files with the columns item, annotator, preference, "
            "sra_a, sra_b, system_a, system_b and, if known, dialogue.",
        ),
    ],
    key: Annotated[
        Path | None,
        typer.Option(
            "--key",
            metavar="KEY.json",
            help="The key.json that 'annotate export' wrote beside the sheets.",
            exists=True,
            dir_okay=False,
            readable=True,
            show_default=False,
        ),
    ] = None,
    as_json: options.JsonOption = False,
    debug: options.DebugOption = False,
) -> None:
    """Analyse how people judged: preference against SRA, agreement, and win rates.

    A preference from 1 to 4 says that system B is better, one from -1 to -4 that system A is. The
    difference of SRA is that of B minus that of A. Trimmed figures leave out values below the 1st
    or above the 99th percentile. Missing preferences are counted and named, and never taken for 0.
    The intervals are over dialogues if the key or a column 'dialogue' names them, else over items.
    Beside r stands what the comparison alone explains. Any number of systems may be compared.
    """
    with session(as_json, debug, continues=False) as current:
        from ..pipeline.annotation.agreement import analyse, to_json
        from ..pipeline.annotation.key import read_key
        from ..pipeline.annotation.ratings import read_judgements

        judgements = read_judgements(files, None if key is None else read_key(key))
        agreement = analyse(judgements)
        for table in _tables(agreement):
            current.show(table)
        for note in _notes(agreement):
            current.say(note)
        current.result = {"command": "annotate agree", **to_json(agreement)}


def _tables(agreement: Agreement) -> list[Table]:
    names = ("annotator", "sides")
    correlations = _table("Preference against SRA difference (Pearson)", names, "r")
    explained = _table("What the comparison alone explains (Pearson)", ("annotator", "of"), "r")
    found = agreement.explained
    for annotator in agreement.judgements.annotators:
        for name, sides, one in (
            (annotator, "turned alike", agreement.pearson[annotator]),
            (annotator, "as shown", found.as_shown[annotator]),
            (f"{annotator}, trimmed", "turned alike", agreement.pearson_trimmed[annotator]),
            (f"{annotator}, trimmed", "as shown", found.as_shown_trimmed[annotator]),
        ):
            correlations.add_row(_text(name), sides, *_cells(one, one.r))
        for what, one in (
            ("the systems alone, as shown", found.systems_alone[annotator]),
            ("SRA within a comparison", found.within[annotator]),
        ):
            explained.add_row(_text(annotator), what, *_cells(one, one.r))
    alphas = _table("Agreement of the annotators (Krippendorff, interval)", ("items",), "alpha")
    for name, estimate in (
        ("all", agreement.alpha),
        ("all, as shown", found.alpha_as_shown),
        ("trimmed", agreement.alpha_trimmed),
    ):
        alphas.add_row(name, *_cells(estimate, estimate.value))
    wins = _win_table("Win rates", agreement.win_rates)
    if len(agreement.pairs) < 2:
        return [correlations, explained, alphas, wins]
    pairs = [_win_table(" against ".join(pair), won) for pair, won in agreement.pairs.items()]
    return [correlations, explained, alphas, wins, *pairs]


def _win_table(title: str, won_by: Mapping[str, WinRate]) -> Table:
    wins = _table(title, ("system", "wins / ties / losses", "ties count"), "rate")
    for system, won in won_by.items():
        counts = f"{won.wins} / {won.ties} / {won.losses}"
        for how, rate in won.rates.items():
            words = how.removeprefix("rate_ties_").replace("_", " ")
            wins.add_row(_text(system), counts, words, *_cells(rate, rate.value))
    return wins


def _notes(agreement: Agreement) -> list[str]:
    """Say what is missing, why figures are missing, and what the intervals are over."""
    figures: list[tuple[str, Correlation | Estimate]] = [
        *((f"r of {name}", one) for name, one in agreement.pearson.items()),
        *((f"trimmed r of {name}", one) for name, one in agreement.pearson_trimmed.items()),
        *((f"r of {name} as shown", one) for name, one in agreement.explained.as_shown.items()),
        *(
            (f"r of the systems alone, {n}", r)
            for n, r in agreement.explained.systems_alone.items()
        ),
        *((f"r within a comparison, {n}", r) for n, r in agreement.explained.within.items()),
        ("alpha", agreement.alpha),
        ("alpha as shown", agreement.explained.alpha_as_shown),
        ("trimmed alpha", agreement.alpha_trimmed),
        *(
            (f"{how.removeprefix('rate_').replace('_', ' ')}, rate of {system}", rate)
            for system, one in agreement.win_rates.items()
            for how, rate in one.rates.items()
        ),
    ]
    notes = [f"{what}: {one.why}" for what, one in figures if one.why]
    gaps = [f"{item} by {annotator}" for item, annotator in agreement.judgements.gaps]
    for title, places in (
        ("preferences that are missing", gaps),
        ("items whose SRA is unknown", agreement.without_sra),
    ):
        if places:
            more = "" if len(places) <= _SHOWN_GAPS else ", …; --json has all"
            notes.append(f"{title}: {len(places)} ({', '.join(places[:_SHOWN_GAPS])}{more})")
    notes.append(f"the intervals count whole {agreement.over} as one observation")
    return notes


def _table(title: str, names: tuple[str, ...], figure: str) -> Table:
    from rich.table import Table

    table = Table(title=_text(title), title_justify="left")
    for name in names:
        table.add_column(name)
    for column in ("n", figure, "95% interval"):
        table.add_column(column, justify="right")
    return table


def _text(text: str) -> Text:
    from rich.text import Text

    from sra_fast.tools.printable import printable

    return Text(printable(text))


def _cells(one: Correlation | Estimate, value: float | None) -> tuple[str, str, str]:
    interval = "–" if one.low is None else f"{one.low:.3f} … {one.high:.3f}"
    return f"{one.n:,}", "–" if value is None else f"{value:.3f}", interval
