"""``sra-fast classify``: which strategy a reply follows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sra_fast.cli import options
from sra_fast.cli.session import session
from sra_fast.names import ClassifierKind

if TYPE_CHECKING:
    from rich.table import Table

    from ..pipeline.classifiers.quality import Quality

classify = typer.Typer(
    no_args_is_help=True, help="Train and use classifiers of the strategy that a reply follows."
)


@classify.command()
def train(
    file: Annotated[
        Path,
        options.existing_file(
            "DATA", "Conversations, or lines of {response, strategy, id?, dialogue?}."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            metavar="DIR",
            file_okay=False,
            help="The folder for the classifier and its report.",
            show_default=False,
        ),
    ],
    kind: Annotated[
        ClassifierKind,
        typer.Option("--kind", help="n-grams of words, sentence embeddings, or any encoder."),
    ] = "lexical",
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="NAME_OR_DIR",
            help="Of embedding (a MiniLM from its package) or roberta (RoBERTa-large).",
            show_default=False,
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Another setting of the kind, as JSON: ngrams=[2,3], epochs=3; may be repeated.",
            show_default=False,
        ),
    ] = None,
    strategies: options.StrategyFile = None,
    test_fraction: Annotated[
        float, typer.Option("--test-fraction", help="Held out for the report.")
    ] = 0.2,
    folds: Annotated[
        int, typer.Option("--folds", min=0, help="Of the cross-validation, or 0 for none.")
    ] = 4,
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="Of the splits and the training.")
    ] = 42,
    force: Annotated[bool, typer.Option("--force", help="Replace a classifier in DIR.")] = False,
    as_json: options.JsonOption = False,
    debug: options.DebugOption = False,
) -> None:
    """Measure a classifier on held-out replies, then train it on all of them.

    Writes the classifier, report.md, report.json, confusion.png and, for lexical, ngrams.csv into
    DIR. Killed at any moment, the same command continues after the last finished split.
    """
    given = _settings(kind, model, settings or [], seed)
    with session(as_json, debug) as current:
        from sra_fast.chat.strategies import DEFAULT_STRATEGIES, read_strategies

        from ..pipeline.classifiers.held_out import train_with_report
        from ..pipeline.classifiers.labelled import read_labelled

        known = DEFAULT_STRATEGIES if strategies is None else read_strategies(strategies)
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
            "FILE", "Conversations, or lines of {response, strategy?, id?, dialogue?}."
        ),
    ],
    classifier: Annotated[
        str,
        typer.Option(
            "--classifier",
            metavar="DIR",
            help="What 'classify train' wrote, or 'plain' for the library's own.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            metavar="OUT.jsonl",
            dir_okay=False,
            help="Where the predictions go.",
            show_default=False,
        ),
    ],
    force: Annotated[bool, typer.Option("--force", help="Replace OUT if it is there.")] = False,
    as_json: options.JsonOption = False,
    debug: options.DebugOption = False,
) -> None:
    """Predict the strategy of each reply, and say how often it is the one that the file names."""
    with session(as_json, debug) as current:
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


def settings_of(kind: ClassifierKind, seed: int) -> dict[str, Any]:
    """Those that a seed gives: only the encoder's training draws."""
    return {"seed": seed} if kind == "roberta" else {}


def _settings(
    kind: ClassifierKind, model: str | None, given: list[str], seed: int
) -> dict[str, Any]:
    """The settings of the kind by name; wrong ones are a wrong use."""
    found = settings_of(kind, seed)
    if model is not None and kind == "lexical":
        raise typer.BadParameter("the lexical classifier has none", param_hint="'--model'")
    if model is not None:
        found["model"] = model
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
    """The confusion matrix without its diagonal and its zeros, the most frequent first."""
    from rich.table import Table
    from rich.text import Text

    from sra_fast.tools.printable import printable

    table = Table(title="taken for another strategy", title_justify="left")
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
