"""Run all stages of a reproduction in one folder; a stage that was stopped continues.

The folder holds:

    run.json                      the settings; a reproduction with others is refused here
    commits.json                  the commits of this project that worked on it
    extended/, classifier/, tuned/, evaluation/    the folders of the four stages
    report.md, results.json, *.png                 the results: numbers, no texts and no paths
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sra_fast.files.models import choose_device
from sra_fast.files.provenance import commit
from sra_fast.files.run_date import first_day, start_of
from sra_fast.files.run_folder import RunFolder
from sra_fast.tools.atomic import write_json

from ...data.trained_on import digest, read_trained_on
from ...lora.train import OnLog, train
from ..classifiers import PLAIN, ClassifierError, StrategyClassifier, load_classifier
from ..classifiers.held_out import train_with_report
from ..classifiers.labelled import (
    LabelledResponse,
    read_labelled,
    read_responses,
)
from ..classifiers.stored import RECORD
from ..classifiers.training_folder import REPORT
from ..evaluation.analysis import Analysis
from ..evaluation.conclude import conclude
from ..evaluation.condition_records import records
from ..evaluation.evaluate import (
    Evaluated,
    Evaluation,
    OnProgress,
    collect,
    opened,
)
from ..evaluation.relation import analyse
from ..extension.extend import fill_cuts
from ..generation.replies import LocalReplier, Replier
from .deviations import deviations
from .feasible import check_feasible
from .noise import plain_quality
from .opinions import Opinions, opinions
from .reproduction_report import Reproduced, write_report
from .stages import (
    CLASSIFIER,
    EXTENDED,
    TEST,
    TRAIN,
    Reproduction,
)

_logger = logging.getLogger(__name__)

COMMITS = "commits.json"


@dataclass(frozen=True)
class Progress:
    """How the progress of the stages is shown.

    Each field makes a context that is open while its stage runs, and gives a function to call.

    Attributes:
        replies: shows the first stage; the function takes how many replies a batch brought, and how
            many there are to be.
        steps: shows the fine-tuning; the function takes the step, the last step and what is logged.
        conditions: shows the evaluation; the function takes the name of a condition, how many
            replies a batch brought, and how many the condition needs.
    """

    replies: Callable[[], AbstractContextManager[Callable[[int, int], None]]] = lambda: nullcontext(
        lambda done, total: None
    )
    steps: Callable[[], AbstractContextManager[OnLog]] = lambda: nullcontext(
        lambda step, last, logs: None
    )
    conditions: Callable[[], AbstractContextManager[OnProgress]] = lambda: nullcontext(
        lambda condition, done, total: None
    )


def reproduce(
    reproduction: Reproduction,
    progress: Progress = Progress(),
) -> dict[str, Any]:
    """Extend the data, train the classifier, fine-tune, evaluate and write the report.

    Args:
        reproduction: the settings.
        progress: how the progress of the stages is shown.

    Returns:
        The content of ``results.json``.

    Raises:
        ValueError: a stage cannot do its work; the message says why. What was done is kept.
        OSError: a file cannot be read or written.
    """
    folder = RunFolder(reproduction.out, reproduction.settings())
    folder.check()
    cuts = check_feasible(reproduction)
    with folder.opened():
        commits = _commits(reproduction.out / COMMITS)
        _logger.info("1 of 4: extending the dialogues")
        with progress.replies() as on_reply:
            extended = fill_cuts(reproduction.extension(), cuts, _replier(reproduction), on_reply)
        _logger.info("2 of 4: training the classifier")
        labelled = read_labelled(reproduction.out / EXTENDED / TRAIN, reproduction.strategies)
        classifier, classified = _classify(reproduction, labelled)
        _logger.info("3 of 4: fine-tuning")
        with progress.steps() as on_log:
            tuned = train(reproduction.training_run(on_log))
        _logger.info("4 of 4: evaluating")
        evaluation = _evaluation(reproduction, classifier, extended["parts"]["test"]["replies"])
        with opened(evaluation), progress.conditions() as on_reply:
            found = collect(evaluation, on_reply)
            differences = deviations(
                reproduction,
                dialogues=extended["parts"]["all"]["dialogues"],
                responses=len(found.conditions[0].conversations)
                + len(found.conditions[0].unanswered),
            )
            concluded = conclude(
                evaluation,
                found,
                ablate=reproduction.ablate,
                deviations=differences,
                on_progress=on_reply,
            )
        plain = load_classifier(PLAIN)
        reproduced = Reproduced(
            reproduction=reproduction,
            commits=commits,
            extended=extended,
            classified=classified,
            opinions=_opinions(reproduction, labelled, classifier, plain),
            tuned=tuned,
            evaluation=concluded,
            by_plain=_by_plain(found, plain),
            deviations=differences,
        )
        written = write_report(reproduced)
        folder.finish()
    return written


def _replier(reproduction: Reproduction) -> Callable[[], Replier]:
    def load() -> Replier:
        source = reproduction.base
        model = source.load(reproduction.dtype, choose_device(reproduction.device))
        return LocalReplier(
            model,
            source.tokenizer(),
            reproduction.sampling,
            batch=reproduction.batch,
            thoughts=reproduction.training.tags_of_thoughts,
            now=start_of(first_day(reproduction.out, reproduction.base)),
        )

    return load


def _classify(
    reproduction: Reproduction, labelled: Sequence[LabelledResponse]
) -> tuple[StrategyClassifier, Mapping[str, Any]]:
    """Train the classifier on the training part, unless that is done; return it and its report."""
    folder = reproduction.out / CLASSIFIER
    learnt = read_trained_on(folder)
    if not (folder / RECORD).exists() or learnt != {digest(one.response) for one in labelled}:
        try:
            train_with_report(
                reproduction.classifier,
                labelled,
                folder,
                data="the training part",
                seed=reproduction.sampling.seed,
                settings=reproduction.classifier_settings,
                replace=True,
            )
        except ClassifierError as error:  # its "model" is not the one that is reproduced on
            raise ClassifierError(str(error), "classifier") from error
    report: dict[str, Any] = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    return load_classifier(folder), report


def _evaluation(
    reproduction: Reproduction, classifier: StrategyClassifier, replies: int
) -> Evaluation:
    """Return the evaluation, of all conversations of the test part if more are asked for."""
    evaluation = reproduction.evaluation(classifier)
    if evaluation.items is not None and evaluation.items > replies:
        _logger.info("the test part holds %d conversations, and all are evaluated", replies)
        return replace(evaluation, items=None)
    return evaluation


def _opinions(
    reproduction: Reproduction,
    labelled: Sequence[LabelledResponse],
    classifier: StrategyClassifier,
    plain: StrategyClassifier,
) -> Opinions:
    return opinions(
        labelled,
        read_responses(reproduction.out / EXTENDED / TEST),  # may have a single strategy
        classifier,
        plain,
        plain_quality(reproduction.sampling.seed),
    )


def _by_plain(found: Evaluated, plain: StrategyClassifier) -> Analysis | None:
    """Analyse adherence by the ``plain`` classifier, or return None if it lacks a strategy."""
    if {record.strategy for record in found.records} - set(plain.classes):
        return None
    again = [
        record
        for condition in found.conditions
        for record in records(condition, plain, [None] * len(condition.replies))
    ]
    return analyse(again, base=found.conditions[0].plan.name)


def _commits(file: Path) -> list[str]:
    """Add this commit to those that worked here before, and return them all."""
    known: list[str] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
    if commit() not in known:
        known.append(commit())
        write_json(file, known)
    return known
