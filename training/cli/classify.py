"""The commands ``sra-fast classify``, which tell the strategy that a reply follows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sra_fast.cli import options
from sra_fast.cli.session import session
from sra_fast.names import ClassifierKind

from . import pipeline_options

if TYPE_CHECKING:
    from rich.table import Table

    from ..pipeline.classifiers.quality import Quality

classify = typer.Typer(
    no_args_is_help=True, help="Train and use classifiers that tell which strategy a reply follows."
)


@classify.command()
def train(
    file: Annotated[
        Path,
        options.existing_file(
            "DATA",
            "The replies to learn from: conversations, or one JSON object per line with response, "
            "strategy and, if known, id and dialogue.",
        ),
    ],
    out: pipeline_options.RunOut,
    kind: Annotated[
        ClassifierKind,
        typer.Option(
            "--kind",
            help="The kind of classifier: lexical counts n-grams of words, embedding uses sentence "
            "embeddings, and roberta fine-tunes an encoder.",
        ),
    ] = "lexical",
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="NAME_OR_DIR",
            help="The model, a folder or a name on the hub, that embedding or roberta builds on.",
            show_default="a MiniLM from its package for embedding, RoBERTa-large for roberta",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Another setting of the kind of classifier, its value in JSON, such as "
            "ngrams=[2,3] or epochs=3; the option may be repeated.",
            show_default=False,
        ),
    ] = None,
    strategies: options.StrategyFile = None,
    test_fraction: Annotated[
        float,
        typer.Option(
            "--test-fraction",
            metavar="SHARE",
            help="Hold out this share of the replies for the report, above 0 and at most 0.5.",
        ),
    ] = 0.2,
    folds: Annotated[
        int,
        typer.Option(
            "--folds",
            metavar="N",
            min=0,
            help="How many folds the cross-validation has, at least 2; 0 leaves it out.",
        ),
    ] = 4,
    seed: Annotated[
        int,
        typer.Option(
            "--seed",
            metavar="N",
            min=0,
            help="Seed of every random draw: the splits of the replies and the training.",
        ),
    ] = 42,
    allow_missing: options.AllowMissing = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Replace a classifier that the folder of --out holds."),
    ] = False,
    as_json: options.JsonOption = False,
    debug: options.DebugOption = False,
) -> None:
    """Measure a classifier on held-out replies, then train it on all of them.

    It writes the classifier, report.md, report.json, confusion.png and, for the lexical kind,
    ngrams.csv into the folder of --out. If it is interrupted, the same command continues after the
    last finished split; if it was finished, the same command trains nothing.
    """
    given = _settings(kind, model, settings or [], seed, allow_missing)
    with session(as_json, debug, continues=True) as current:
        from sra_fast.chat.strategies import DEFAULT_STRATEGIES, read_strategies

        from ..pipeline.classifiers import check_model
        from ..pipeline.classifiers.held_out import train_with_report
        from ..pipeline.classifiers.labelled import read_labelled

        known = DEFAULT_STRATEGIES if strategies is None else read_strategies(strategies)
        check_model(kind, given)
        evaluation, report = train_with_report(
            kind,
            read_labelled(file, known),
            out,
            data=file.name,
            test_fraction=test_fraction,
            fold_count=folds,
            seed=seed,
            settings=given,
            replace=force,
        )
        current.show(_by_class(evaluation.all_folds or evaluation.held_out))
        current.say(f"written to {out}")
        current.result = {"command": "classify train", "out": str(out), **report}


@classify.command()
def predict(
    file: Annotated[
        Path,
        options.existing_file(
            "FILE",
            "The replies to classify: conversations, or one JSON object per line with response "
            "and, if known, strategy, id and dialogue.",
        ),
    ],
    classifier: Annotated[
        str,
        typer.Option(
            "--classifier",
            metavar="DIR",
            help=pipeline_options.CLASSIFIER,
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            metavar="OUT.jsonl",
            dir_okay=False,
            help="The file to write the predictions into, one JSON object per line.",
            show_default=False,
        ),
    ],
    force: options.ForceOption = False,
    as_json: options.JsonOption = False,
    debug: options.DebugOption = False,
) -> None:
    """Predict which strategy each reply follows, and compare it with the one in the file."""
    with session(as_json, debug, continues=False) as current:
        from ..pipeline.classifiers import load_classifier
        from ..pipeline.classifiers.labelled import read_responses
        from ..pipeline.classifiers.prediction import (
            count_learnt,
            write_predictions,
        )
        from ..pipeline.classifiers.prediction import predict as predictions_of
        from ..pipeline.classifiers.quality import sentence

        if out.exists() and (not force or out.samefile(file)):
            way = "give another --out" if out.samefile(file) else "give another --out, or --force"
            raise FileExistsError(f"{out} is there already; {way}")
        responses = read_responses(file)
        found = predictions_of(load_classifier(classifier), responses)
        write_predictions(out, found)
        if found.quality is not None:
            current.show(_by_class(found.quality))
            current.show(_confusions(found.quality))
            current.say(sentence(found.quality))
        learnt = count_learnt(classifier, responses)
        if learnt:
            current.say(
                f"{learnt} of {len(responses)} responses are among those that the classifier has "
                "learnt from; what it says of them measures nothing"
            )
        if found.unlabelled:
            current.say(f"{found.unlabelled} of {len(responses)} responses name no strategy")
        for strategy, count in found.outside.items():
            current.say(
                f"{count} responses name {strategy!r}, which the classifier does not know: "
                "predicted, but not measured"
            )
        current.say(f"written to {out}")
        current.result = {
            "command": "classify predict",
            "out": str(out),
            "classifier": classifier,
            "responses": len(responses),
            "unlabelled": found.unlabelled,
            "learnt": learnt,
            "outside": found.outside,
            "quality": found.quality and found.quality.to_json(),
        }


def seeded_settings(kind: ClassifierKind, seed: int) -> dict[str, Any]:
    """Return the settings that a seed gives: only the encoder's training draws at random."""
    return {"seed": seed} if kind == "roberta" else {}


def _settings(
    kind: ClassifierKind, model: str | None, given: list[str], seed: int, allow_missing: bool
) -> dict[str, Any]:
    """Return the settings of the kind by name; wrong ones are reported as wrong use."""
    found = seeded_settings(kind, seed)
    if model is not None and kind == "lexical":
        raise typer.BadParameter("the lexical classifier has none", param_hint="'--model'")
    if allow_missing and kind == "lexical":
        raise typer.BadParameter(
            "the lexical classifier loads no model", param_hint="'--allow-missing'"
        )
    if model is not None:
        found["model"] = model
    if allow_missing:
        found["allow_missing"] = True
    for one in given:
        name, sign, text = one.partition("=")
        if not sign or name.strip() in found:
            problem = "is not of the form NAME=VALUE" if not sign else "is given twice"
            raise typer.BadParameter(f"{one!r} {problem}", param_hint="'--set'")
        try:
            found[name.strip()] = json.loads(text)
        except ValueError:
            found[name.strip()] = text
    return found


def _by_class(measured: Quality) -> Table:
    from rich.table import Table
    from rich.text import Text

    from sra_fast.tools.printable import printable

    from ..pipeline.classifiers.quality import share

    title = f"{measured.accuracy:.1%} of {measured.responses} responses right"
    table = Table(title=title, title_justify="left")
    table.add_column("strategy")
    for column in ("responses", "precision", "recall", "F1"):
        table.add_column(column, justify="right")
    for one in measured.by_class:
        table.add_row(
            Text(printable(one.strategy)),
            str(one.responses),
            *(share(value) for value in (one.precision, one.recall, one.f1)),
        )
    return table


def _confusions(measured: Quality) -> Table:
    """Return the confusion matrix without its diagonal and zeros, the most frequent first."""
    from rich.table import Table
    from rich.text import Text

    from sra_fast.tools.printable import printable

    table = Table(title="Responses taken for another strategy", title_justify="left")
    table.add_column("strategy")
    table.add_column("predicted")
    table.add_column("responses", justify="right")
    found = [
        (count, measured.classes[row], measured.classes[column])
        for row, counts in enumerate(measured.confusion)
        for column, count in enumerate(counts)
        if count and row != column
    ]
    for count, known, predicted in sorted(found, key=lambda one: -one[0]):
        table.add_row(Text(printable(known)), Text(printable(predicted)), str(count))
    return table
