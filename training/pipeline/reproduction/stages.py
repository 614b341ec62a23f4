"""The settings of a reproduction, and the settings of each stage that follow from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sra_fast import __version__
from sra_fast.chat.templates import TEMPLATES
from sra_fast.chat.thoughts import Thoughts
from sra_fast.files.models import ModelSource, choose_device, find_model
from sra_fast.files.run_date import DATE, first_day
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
"""The names of the folders of the stages, in their order."""

TRAIN, TEST, VALIDATION = (f"{part}.jsonl" for part in ("train", "test", "validation"))

_NOT_ASKED = ("template", "strategies", "eval_data")
"""Settings that the fine-tuning of a reproduction may not change, as other stages rely on them."""


class ReproductionError(ArgumentError):
    """Raised when a reproduction is not possible; the message says why and what to do."""


def read_training(
    path: Path | None,
    *,
    strategies: Path | None,
    seed: int | None,
    dtype: DType | None,
    thoughts: Thoughts | None = None,
) -> TrainingConfig:
    """Read the settings of the fine-tuning.

    The paper's settings are overridden by those of the file, and these by the other arguments.

    Args:
        path: a YAML file of settings, or None.
        strategies: a file of strategies and their descriptions, or None for the paper's.
        seed: the seed of the fine-tuning, or None.
        dtype: the number format of the model, or None.
        thoughts: the tags around a thought before a reply, or None.

    Raises:
        ReproductionError: the file sets something that the reproduction itself decides.
        TrainingConfigError: :func:`read_config` raises it.
        OSError: the file cannot be read.
    """
    config = read_config(path, {"seed": seed, "dtype": dtype, "thoughts": thoughts})
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
    """The settings of a reproduction: a model, dialogues, and how each stage works.

    Attributes:
        file: the file of dialogues, in one of the formats that ``convert`` tells apart.
        out: the folder of the run.
        base: the model.
        strategies: the description of each strategy, by its name.
        cutting: how dialogues are cut into conversations.
        sampling: how replies are drawn, in the extended data and in the evaluation.
        test, validation: the shares of the dialogues that are the test part and the validation
            part.
        training: the settings of the fine-tuning, which is evaluated on the validation part, if
            there is one.
        classifier: the kind of classifier that is trained on the extended data and says which
            strategy a reply follows.
        classifier_settings: the settings of that kind.
        items: most conversations of the test part that are evaluated; None for all.
        ablate: how many of the best heads to switch off in a further experiment; 0 for none.
        dtype, device: the number format of the model and the device it runs on.
        batch: how many prompts go through the model at once.
        check: whether a model is checked before its first score (no score depends on it).
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
    check: bool = True

    def settings(self) -> dict[str, Any]:
        """Return everything that the report depends on, as ``run.json`` holds it.

        Things that a stage checks in its own folder are left out.
        """
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
            DATE: first_day(self.out, self.base),
        }

    def extension(self) -> Extension:
        """Return the settings of the first stage: replies under strategies drawn at random."""
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
            thoughts=self.training.tags_of_thoughts,
            source=self.base,
            part_of=self.out,
        )

    def training_run(self, on_log: Callable[[int, int, Mapping[str, Any]], None]) -> TrainingRun:
        """Return the settings of the third stage: LoRA on the training part, standard template.

        Args:
            on_log: called with the step, the last step and what is logged.
        """
        held_out = self.out / EXTENDED / VALIDATION
        config = replace(self.training, eval_data=str(held_out)) if self.validation else None
        return TrainingRun(
            data=self.out / EXTENDED / TRAIN,
            source=self.base,
            out=self.out / TUNED,
            config=config or self.training,
            device=self.device,
            part_of=self.out,
            on_log=on_log,
        )

    def evaluation(self, classifier: StrategyClassifier) -> Evaluation:
        """Return the settings of the last stage: the test part under all templates.

        The base model is evaluated under every template, the fine-tuned one under the standard
        template.

        Args:
            classifier: says which strategy a reply follows.

        Raises:
            ValueError: the folder holds no adapter.
        """
        return Evaluation(
            file=self.out / EXTENDED / TEST,
            out=self.out / EVALUATION,
            base=self.base,
            tuned=find_model(
                str(self.out / TUNED / ADAPTER), allow_missing=self.base.allow_missing
            ),
            templates=list(TEMPLATES.values()),
            strategies=self.strategies,
            classifier=classifier,
            classifier_name=f"{self.classifier}, trained on the extended data",
            sampling=self.sampling,
            items=self.items,
            dtype=self.dtype,
            device=self.device,
            batch=self.batch,
            thoughts=self.training.tags_of_thoughts,
            part_of=self.out,
            check=self.check,
        )
