"""What a reproduction is asked to do, and what each of its stages is then asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sra_fast import __version__
from sra_fast.chat.templates import TEMPLATES
from sra_fast.files.models import ModelSource, choose_device, find_model
from sra_fast.names import ClassifierKind, Device, DType
from sra_fast.tools.argument_error import ArgumentError

from ...lora.outcome import ADAPTER
from ...lora.settings import TrainingConfig, read_config, settings_of
from ...lora.train import TrainingRun
from ..classifiers import StrategyClassifier
from ..evaluation.evaluate import Evaluation
from ..extension.cuts import Cutting
from ..extension.extend import Extension
from ..generation.sampling import Sampling

EXTENDED, CLASSIFIER, TUNED, EVALUATION = "extended", "classifier", "tuned", "evaluation"
"""Folders of the stages, in their order."""

TRAIN, TEST, VALIDATION = (f"{part}.jsonl" for part in ("train", "test", "validation"))

_NOT_ASKED = ("template", "strategies", "eval_data")
"""Settings of a fine-tuning that the other stages would not share."""


class ReproductionError(ArgumentError):
    """What is asked for cannot be reproduced; the message says why and the way out."""


def read_training(
    path: Path | None, *, strategies: Path | None, seed: int | None, dtype: DType | None
) -> TrainingConfig:
    """The fine-tuning of a reproduction: the paper's, under a YAML file, under what is given.

    Raises:
        ReproductionError: the file sets what is the reproduction's own.
        TrainingConfigError: as :func:`read_config`.
        OSError: the file cannot be read.
    """
    config = read_config(path, {"seed": seed, "dtype": dtype})
    for name in _NOT_ASKED:
        if path is not None and getattr(config, name) != getattr(TrainingConfig(), name):
            raise ReproductionError(
                f"{path.name}: {name}: the reproduction trains under the standard template on its "
                "own data; leave the setting out"
                + (", and give the strategies themselves" if name == "strategies" else ""),
                *(("strategies",) if name == "strategies" else ()),
            )
    return replace(config, strategies=None if strategies is None else str(strategies))


@dataclass(frozen=True)
class Reproduction:
    """A model, dialogues, and everything that is drawn or chosen.

    Attributes:
        file: of dialogues, in one of ESConv's forms.
        out: the run's folder.
        base: the model.
        strategies: name to description.
        cutting, sampling: of the extended data; the evaluation draws replies the same way.
        test, validation: shares of the dialogues.
        training: of the fine-tuning; its evaluation data are the validation part, if there is one.
        classifier: the kind that is trained on the extended data and judges adherence.
        classifier_settings: of that kind.
        items: most conversations of the test part that are evaluated; None for all.
        ablate: heads to take away.
        dtype, device: of the model.
        batch: prompts of a forward pass.
    """

    file: Path
    out: Path
    base: ModelSource
    strategies: Mapping[str, str]
    cutting: Cutting
    sampling: Sampling
    test: float
    validation: float
    training: TrainingConfig
    classifier: ClassifierKind = "lexical"
    classifier_settings: Mapping[str, Any] = field(default_factory=dict)
    items: int | None = None
    ablate: int = 0
    dtype: DType = "auto"
    device: Device = "auto"
    batch: int = 32

    def settings(self) -> dict[str, Any]:
        """Everything the report depends on that its stages do not check themselves."""
        training = settings_of(self.training)
        for name in ("report_to", "eval_data", "template", "strategies"):
            del training[name]
        return {
            "kind": "reproduce",
            "model": self.base.fingerprint(),
            "strategies": dict(self.strategies),
            "extension": self.extension().settings(),
            "training": training,
            "classifier": {"kind": self.classifier, **self.classifier_settings},
            "items": self.items,
            "ablate": self.ablate,
            "version": __version__,
        }

    def extension(self) -> Extension:
        """The first stage: replies under drawn strategies."""
        return Extension(
            file=self.file,
            out=self.out / EXTENDED,
            template=TEMPLATES["c1_hf"],
            strategies=self.strategies,
            cutting=self.cutting,
            sampling=self.sampling,
            replier=self.base.as_run(self.dtype, choose_device(self.device)),
            test=self.test,
            validation=self.validation,
        )

    def training_run(self, on_log: Callable[[int, int, Mapping[str, Any]], None]) -> TrainingRun:
        """The third stage: LoRA on the training part, under the standard template."""
        held_out = self.out / EXTENDED / VALIDATION
        config = replace(self.training, eval_data=str(held_out)) if self.validation else None
        return TrainingRun(
            data=self.out / EXTENDED / TRAIN,
            source=self.base,
            out=self.out / TUNED,
            config=config or self.training,
            device=self.device,
            on_log=on_log,
        )

    def evaluation(self, classifier: StrategyClassifier) -> Evaluation:
        """The last stage: the test part under all templates, and the fine-tuned model."""
        return Evaluation(
            file=self.out / EXTENDED / TEST,
            out=self.out / EVALUATION,
            base=self.base,
            tuned=find_model(str(self.out / TUNED / ADAPTER)),
            templates=list(TEMPLATES.values()),
            strategies=self.strategies,
            classifier=classifier,
            classifier_name=f"{self.classifier}, trained on the extended data",
            sampling=self.sampling,
            items=self.items,
            dtype=self.dtype,
            device=self.device,
            batch=self.batch,
        )
