"""Keep the training of a classifier in a run folder, so that it can be killed and continued.

The folder holds:

    run.json          everything that the classifier depends on; other settings are refused
    splits/           while it runs: the predictions on each split that is finished
    classifier.json   the classifier, with weights.safetensors and what else its kind needs
    trained_on.json   digests of the responses that it has learnt from
    report.json, report.md, confusion.png, ngrams.csv    how well it predicts
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sra_fast.files.kept_parts import KeptParts
from sra_fast.files.provenance import versions
from sra_fast.files.run_folder import RUN, RunFolder, RunFolderError
from sra_fast.names import ClassifierKind
from sra_fast.tools.atomic import write_json
from sra_fast.tools.strict_json import decode_utf8, parse_json

from ...data.trained_on import NAME as TRAINED_ON
from .interface import ClassifierError
from .kinds import settings_of_kind
from .labelled import LabelledResponse
from .quality import ClassQuality, Quality
from .stored import CLASSIFIER_FILES, RECORD

REPORT, REPORT_TEXT = "report.json", "report.md"
CONFUSION, NGRAMS = "confusion.png", "ngrams.csv"
FILES = (*CLASSIFIER_FILES, TRAINED_ON, REPORT, REPORT_TEXT, CONFUSION, NGRAMS)
"""What a training run leaves; the kinds of classifier do without some of them."""

FOLLOWING = (TRAINED_ON, REPORT_TEXT, CONFUSION, NGRAMS)
"""Those of the files that can be made from the others."""

SPLITS = "splits"

_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class HeldOutQuality:
    """How well a kind of classifier predicts the strategies of responses it has not seen.

    Attributes:
        held_out: its quality on the held-out part.
        folds: its quality on each fold; empty if there are no folds.
        all_folds: its quality on all folds together, where each response is predicted once; None
            if there are no folds.
    """

    held_out: Quality
    folds: tuple[Quality, ...]
    all_folds: Quality | None


class TrainingFolder(RunFolder):
    """The run folder of one classifier.

    Args:
        path: the folder.
        settings: everything that the classifier depends on, as :func:`settings_of_run` gives it.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        super().__init__(path, settings, temporary=(SPLITS,))

    @contextmanager
    def taken(self, *, replace: bool) -> Iterator[bool]:
        """Make the folder this run's, and tell whether the run is still to be done.

        If the classifier of a finished run or its report.json is missing or damaged, this is said,
        and the run is done again.

        Args:
            replace: whether another classifier that the folder holds may be replaced.

        Yields:
            False if this very run was finished here and is whole; but files that follow from the
            others may be damaged.

        Raises:
            RunFolderError: the folder holds something else, or another process works in it.
        """
        self._check_replaceable(replace)
        other = self._holds_another()
        damaged = [] if other else [name for name in self.damaged() if name not in FOLLOWING]
        for name in damaged:
            _logger.warning(
                "%s is missing, or not as it was written; the classifier is trained again",
                self.path / name,
            )
        with self.opened(replacing=[*FILES, SPLITS] if other or damaged else None):
            yield not self.is_finished()

    def parts(self, classes: Sequence[str]) -> KeptParts[list[str]]:
        """Return the predictions on the splits that are finished, by the number of the split.

        Args:
            classes: the strategies that may be predicted.
        """

        def read(path: Path) -> list[str]:
            text = decode_utf8(path.read_bytes(), path.name, raises=ValueError)
            found = parse_json(text, path.name, raises=ValueError)
            predicted = found["predicted"] if isinstance(found, dict) else None
            if not isinstance(predicted, list) or not set(map(str, predicted)) <= set(classes):
                raise ValueError("it holds no predictions")
            return predicted

        return KeptParts(
            self.path / SPLITS,
            ".json",
            read,
            lambda path, predicted: write_json(path, {"predicted": predicted}),
        )

    def report(self) -> tuple[HeldOutQuality, dict[str, Any]]:
        """Return what the report of a finished run says.

        Raises:
            OSError: the file cannot be read.
        """
        found: dict[str, Any] = json.loads((self.path / REPORT).read_text(encoding="utf-8"))
        together = found["all_folds"]
        measured = HeldOutQuality(
            _quality(found["held_out"]),
            tuple(map(_quality, found["folds"])),
            None if together is None else _quality(together),
        )
        return measured, found

    def _holds_another(self) -> bool:
        try:
            self.check()
        except RunFolderError:
            return True
        return False

    def _check_replaceable(self, replace: bool) -> None:
        """Check that the folder is free, this run's, or may be replaced; clear an old classifier.

        Raises:
            RunFolderError: it is not.
        """
        if (self.path / RECORD).exists() and not (self.path / RUN).exists():
            if not replace:
                raise RunFolderError(
                    f"{self.path} already holds a classifier; give another folder, or replace it",
                    "out",
                    "force",
                )
            if {entry.name for entry in self.path.iterdir()} <= {*FILES, SPLITS}:
                self._remove([*FILES, SPLITS])  # of an earlier version, which had no run folders
        try:
            self.check()
        except RunFolderError as error:
            if not replace:
                raise RunFolderError(
                    f"{error}; a classifier can also be replaced", *error.arguments, "force"
                ) from error


def settings_of_run(
    kind: ClassifierKind,
    labelled: Sequence[LabelledResponse],
    *,
    test_fraction: float,
    fold_count: int,
    seed: int,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Return everything that a classifier and its report depend on, as values of JSON.

    Args:
        kind: the kind of classifier.
        labelled: the responses, all with a strategy.
        test_fraction: the share of responses that is held out.
        fold_count: the number of folds.
        seed: the seed of the splits.
        settings: the settings of the kind.

    Raises:
        ClassifierError: a setting cannot be, or there is no such model.
    """
    given = dataclasses.asdict(settings_of_kind(kind, settings))
    model = given.pop("model", None)
    packages = ("sra_fast", "sklearn") if model is None else ("sra_fast", "torch", "transformers")
    return {
        "kind": "classify train",
        "classifier": kind,
        "settings": given,
        **({} if model is None else {"model": _fingerprint(kind, model)}),
        "test_fraction": test_fraction,
        "folds": fold_count,
        "seed": seed,
        "versions": versions(*packages),
        "responses_sha256": _digest(labelled),
    }


def _fingerprint(kind: ClassifierKind, model: str) -> dict[str, Any]:
    """Return what tells the model under a classifier from another of its name.

    Raises:
        ClassifierError: there is no such model.
    """
    from sra_fast.files.hub_names import hub_problem
    from sra_fast.files.models import ModelSource

    from .embedding import PACKAGED, packaged_model

    place = str(packaged_model()) if (kind, model) == ("embedding", PACKAGED) else model
    way_out = "give a folder or a hub name of an encoder with safetensors"
    problem = None if Path(place).is_dir() else hub_problem(place)
    if problem is not None:
        raise ClassifierError(f"model {model!r} is {problem}; {way_out}", "model")
    name = Path(place).resolve().name if Path(place).is_dir() else model
    try:
        return dict(ModelSource(name, place).fingerprint())
    except (OSError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise ClassifierError(f"model {model!r}: {first}; {way_out}", "model") from error


def _digest(labelled: Sequence[LabelledResponse]) -> str:
    lines = [json.dumps([one.response, one.label, one.dialogue]) for one in labelled]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _quality(value: Mapping[str, Any]) -> Quality:
    """Return the figures that :meth:`Quality.to_json` wrote."""
    names = {field.name for field in dataclasses.fields(Quality)}
    given = {name: one for name, one in value.items() if name in names}
    given |= {
        "classes": tuple(value["classes"]),
        "by_class": tuple(ClassQuality(**one) for one in value["by_class"]),
        "confusion": tuple(map(tuple, value["confusion"])),
    }
    return Quality(**given)
