"""Measure a kind of classifier on responses it has not seen, then train it on all of them.

It is measured on a held-out part and in folds. Each of these leaves its predictions in the run's
folder until the end, so a run that was interrupted continues after the last one that was finished.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from sra_fast.names import ClassifierKind
from sra_fast.tools.atomic import replaced_atomically, write_json, write_text

from ...data.trained_on import digest, write_trained_on
from . import load_classifier, train_classifier
from .confusion_figure import write_confusion
from .interface import ClassifierError, StrategyClassifier, most_probable
from .labelled import LabelledResponse
from .lexical import LexicalClassifier
from .quality import (
    Quality,
    by_class_table,
    quality,
    sentence,
)
from .splits import Indices, dialogue_of, folds, holdout
from .training_folder import (
    CONFUSION,
    FILES,
    NGRAMS,
    REPORT,
    REPORT_TEXT,
    HeldOutQuality,
    TrainingFolder,
    settings_of_run,
)

TEST_FRACTION, FOLDS = 0.2, 4
"""The share of responses that is held out, and the number of folds, unless others are given."""

_logger = logging.getLogger(__name__)

_FORMAT = "sra_fast.classifier_report/1"


def train_with_report(
    kind: ClassifierKind,
    labelled: Sequence[LabelledResponse],
    folder: Path,
    *,
    data: str,
    test_fraction: float = TEST_FRACTION,
    fold_count: int = FOLDS,
    seed: int = 42,
    settings: Mapping[str, Any],
    replace: bool = False,
) -> tuple[HeldOutQuality, dict[str, Any]]:
    """Measure a kind of classifier, train it on all responses, and write it with a report.

    Args:
        kind: "lexical", "embedding" or "roberta".
        labelled: the responses, all with a strategy.
        folder: the folder of the run, which is new, or holds this very run.
        data: what the report calls the responses.
        test_fraction: the share of responses that is held out, in (0, 0.5].
        fold_count: the number of folds of the cross-validation; 0 for none.
        seed: the seed of the splits.
        settings: the settings of the kind.
        replace: whether another classifier that the folder holds may be replaced.

    Returns:
        The measurements, and the content of ``report.json``; those of an earlier call if the folder
        holds this very run, finished and whole.

    Raises:
        ClassifierError: there are too few responses for the splits, or ``train_classifier`` raises
            it.
        RunFolderError: the folder holds something else, or another process works in it.
        OSError: the folder cannot be written.
    """
    if fold_count == 1 or fold_count < 0:
        raise ClassifierError(
            f"folds must be 2 or more, or 0 for none, found {fold_count}", "folds"
        )
    pairs = [holdout(labelled, test_fraction, seed)]
    pairs += folds(labelled, fold_count, seed) if fold_count else []
    run = TrainingFolder(
        folder,
        settings_of_run(
            kind,
            labelled,
            test_fraction=test_fraction,
            fold_count=fold_count,
            seed=seed,
            settings=settings,
        ),
    )
    with run.taken(replace=replace) as to_be_done:
        if not to_be_done:
            _logger.info("this classifier was trained before; nothing is trained")
            evaluation, report = run.report()
            if run.damaged():
                _write_what_follows(folder, labelled, report, evaluation, load_classifier(folder))
                run.finish(FILES)
            return evaluation, report
        kept = run.parts(sorted({one.label for one in labelled}))
        predictions = []
        for index, (train, test) in enumerate(pairs):
            predicted = kept.get_or_compute(
                f"{index:02}",
                partial(_is_of, test),
                partial(_split, kind, labelled, train, test, settings),
            )
            predictions.append(predicted)
            name = f"fold {index} of {fold_count}" if index else "held-out part"
            hits = sum(labelled[i].label == p for i, p in zip(test, predicted, strict=True))
            _logger.info("%s: %.1f%% of %d right", name, 100 * hits / len(test), len(test))
        evaluation = _evaluation(labelled, [test for _, test in pairs], predictions)
        classifier = train_classifier(
            kind, [one.response for one in labelled], [one.label for one in labelled], **settings
        )
        report = {
            "format": _FORMAT,
            "kind": kind,
            "data": data,
            "responses": len(labelled),
            "settings": _without_paths(classifier.settings),
            "seed": seed,
            "test_fraction": test_fraction,
            "held_out": evaluation.held_out.to_json(),
            "folds": [one.to_json() for one in evaluation.folds],
            "all_folds": evaluation.all_folds and evaluation.all_folds.to_json(),
        }
        write_json(folder / REPORT, report)
        evaluation, report = run.report()  # as they are read when the run is found finished
        classifier.save(folder)
        _write_what_follows(folder, labelled, report, evaluation, classifier)
        run.finish(FILES)
    return evaluation, report


def _is_of(test: Indices, predicted: Sequence[str]) -> bool:
    return len(predicted) == len(test)


def _split(
    kind: ClassifierKind,
    labelled: Sequence[LabelledResponse],
    train: Indices,
    test: Indices,
    settings: Mapping[str, Any],
) -> list[str]:
    classifier = train_classifier(
        kind,
        [labelled[index].response for index in train],
        [labelled[index].label for index in train],
        **settings,
    )
    found = classifier.probabilities([labelled[index].response for index in test])
    return most_probable(classifier.classes, found)


def _evaluation(
    labelled: Sequence[LabelledResponse],
    tests: Sequence[Indices],
    predictions: Sequence[Sequence[str]],
) -> HeldOutQuality:
    classes = sorted({one.label for one in labelled})
    dialogues = dialogue_of(labelled)

    def measured(indices: Sequence[int], predicted: Sequence[str]) -> Quality:
        known = [labelled[index].label for index in indices]
        return quality(known, predicted, classes, [dialogues[index] for index in indices])

    each = [measured(test.tolist(), one) for test, one in zip(tests, predictions, strict=True)]
    if len(each) == 1:
        return HeldOutQuality(each[0], (), None)
    together = measured(
        [int(index) for test in tests[1:] for index in test],
        [strategy for one in predictions[1:] for strategy in one],
    )
    return HeldOutQuality(each[0], tuple(each[1:]), together)


def _write_what_follows(
    folder: Path,
    labelled: Sequence[LabelledResponse],
    report: dict[str, Any],
    evaluation: HeldOutQuality,
    classifier: StrategyClassifier,
) -> None:
    """Write the files that follow from the classifier, its report and what it has learnt from."""
    write_trained_on(folder, (digest(one.response) for one in labelled))
    shown = evaluation.all_folds or evaluation.held_out
    what = "all folds" if evaluation.all_folds else "held-out part"
    write_confusion(shown, folder / CONFUSION, f"{report['kind']}, {what}")
    write_text(folder / REPORT_TEXT, _text(report, evaluation, what))
    (folder / NGRAMS).unlink(missing_ok=True)
    if isinstance(classifier, LexicalClassifier):
        with (
            replaced_atomically(folder / NGRAMS) as temporary,
            temporary.open("w", encoding="utf-8", newline="") as file,
        ):
            writer = csv.writer(file)
            writer.writerow(("strategy", "ngram", "coefficient"))
            writer.writerows(classifier.telling_ngrams())


def _without_paths(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Shorten the path of a model's folder to its name, because reports are shown to others."""
    kept = dict(settings)
    if "model" in kept and Path(kept["model"]).is_dir():
        kept["model"] = Path(kept["model"]).resolve().name
    return kept


def _text(report: Mapping[str, Any], evaluation: HeldOutQuality, what: str) -> str:
    shown = evaluation.all_folds or evaluation.held_out
    settings = ", ".join(f"{name} {value}" for name, value in report["settings"].items())
    held_out = report["held_out"]["responses"] / report["responses"]
    lines = [
        f"# Strategy classifier: {report['kind']}",
        "",
        f"{report['responses']} responses of {report['data']}. Settings: {settings}.",
        "",
        f"- Held-out part ({held_out:.0%}): {sentence(evaluation.held_out)}.",
    ]
    if evaluation.all_folds is not None:
        each = ", ".join(f"{one.accuracy:.1%}" for one in evaluation.folds)
        lines.append(
            f"- {len(evaluation.folds)} folds ({each}), together: {sentence(evaluation.all_folds)}."
        )
    lines += [
        "- The classifier in this folder was trained on all responses, after these measurements.",
        "",
        f"## By strategy ({what})",
        "",
        *by_class_table(shown),
        f"![confusion matrix]({CONFUSION})",
        "",
    ]
    return "\n".join(lines)
