"""The ``roberta`` classifier: a fine-tuned encoder with a classification head, as in the paper.

The paper trains RoBERTa-large for 5 epochs with batches of 128. It gives no learning rate; 2e-5
with a linear decay is usual for this size.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

from sra_fast.measure.compat import use_one_gpu
from sra_fast.names import ClassifierKind
from sra_fast.tools.missing_extra import needed

from .classifier_settings import checked_settings
from .embedding import warn_of_long
from .interface import ClassifierError, check_finite
from .stored import MODEL, begin, write_record


@dataclass(frozen=True)
class EncoderSettings:
    """The settings of the encoder and its fine-tuning.

    Attributes:
        model: the folder or hub name of any encoder with safetensors.
        epochs: how many times to go through the training responses.
        batch_size: how many responses an optimizer step takes.
        device_batch_size: how many of them go through the model at once; bounds the memory.
        learning_rate: the learning rate at the beginning; it falls linearly to 0.
        weight_decay: the weight decay of AdamW.
        max_length: most tokens that are read of a response, if the model's own limit is not lower;
            a longer response is cut, with a warning.
        seed: the seed of the head's first weights, the order of the responses and dropout.
        allow_missing: whether weights that the model's files lack are only told; random numbers
            stand in for them then. A new classification head has none in any case.

    Raises:
        ClassifierError: a value is out of range.
    """

    model: str = "FacebookAI/roberta-large"
    epochs: float = 5.0
    batch_size: int = 128
    device_batch_size: int = 16
    learning_rate: float = 2e-5
    weight_decay: float = 0.0
    max_length: int = 512
    seed: int = 42
    allow_missing: bool = False

    def __post_init__(self) -> None:
        if min(self.batch_size, self.device_batch_size, self.max_length) < 1:
            raise ClassifierError("batch_size, device_batch_size and max_length must be at least 1")
        if self.batch_size % self.device_batch_size and self.batch_size > self.device_batch_size:
            raise ClassifierError(
                f"batch_size ({self.batch_size}) must be a multiple of device_batch_size "
                f"({self.device_batch_size})"
            )
        if self.epochs <= 0 or self.learning_rate <= 0 or self.weight_decay < 0:
            raise ClassifierError(
                "epochs and learning_rate must be above 0, and weight_decay at least 0"
            )


class EncoderClassifier:
    """A classifier that is a fine-tuned encoder; see ``StrategyClassifier``."""

    kind: ClassifierKind = "roberta"

    def __init__(
        self, model: Any, tokenizer: Any, classes: tuple[str, ...], settings: EncoderSettings
    ) -> None:
        self._model = model.eval()
        self._tokenizer = tokenizer
        self._classes = classes
        self._settings = settings
        limit = getattr(model.config, "max_position_embeddings", settings.max_length)
        if model.config.model_type in ("roberta", "xlm-roberta", "camembert"):
            limit -= model.config.pad_token_id + 1  # positions begin after the padding index
        self._longest = min(settings.max_length, tokenizer.model_max_length, limit)

    @classmethod
    def train(
        cls, responses: Sequence[str], strategies: Sequence[str], settings: EncoderSettings
    ) -> EncoderClassifier:
        """Fine-tune the encoder on n responses and their n strategies, on a GPU if there is one.

        Raises:
            ClassifierError: the encoder cannot be loaded.
        """
        import torch

        with needed("pipeline", "accelerate"):
            from transformers import DataCollatorWithPadding, Trainer, TrainingArguments, set_seed

        set_seed(settings.seed)
        classes = tuple(sorted(set(strategies)))
        try:
            model, tokenizer = encoder_model(settings.model, classes, settings, new_head=True)
        except ClassifierError as error:
            raise ClassifierError(str(error), "model") from error
        classifier = cls(model, tokenizer, classes, settings)
        examples = classifier._tokens(responses)
        for example, strategy in zip(examples, strategies, strict=True):
            example["labels"] = classes.index(strategy)
        device_batch = min(settings.batch_size, settings.device_batch_size)
        with tempfile.TemporaryDirectory() as temporary:
            arguments = TrainingArguments(
                output_dir=temporary,
                num_train_epochs=settings.epochs,
                per_device_train_batch_size=device_batch,
                gradient_accumulation_steps=settings.batch_size // device_batch,
                learning_rate=settings.learning_rate,
                weight_decay=settings.weight_decay,
                seed=settings.seed,
                save_strategy="no",
                logging_strategy="no",
                report_to=[],
                dataloader_pin_memory=torch.cuda.is_available(),
                disable_tqdm=True,
            )
            use_one_gpu(arguments)  # several GPUs would multiply the batch
            Trainer(
                model=model,
                args=arguments,
                train_dataset=examples,
                data_collator=DataCollatorWithPadding(tokenizer),
            ).train()
        model.eval()
        return classifier

    @property
    def classes(self) -> tuple[str, ...]:
        """The K strategies that it tells apart, in the order of its probabilities."""
        return self._classes

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that it was trained with, as JSON can hold them."""
        return dataclasses.asdict(self._settings)

    def probabilities(self, responses: Sequence[str]) -> NDArray[numpy.float64]:
        """Return the probability of each strategy for n responses, float64 ``[n, K]``."""
        import torch

        found = numpy.zeros((len(responses), len(self._classes)))
        encoded = self._tokens(responses)
        size = self._settings.device_batch_size
        for first in range(0, len(encoded), size):
            batch = self._tokenizer.pad(encoded[first : first + size], return_tensors="pt")
            with torch.inference_mode():
                logits = self._model(**batch.to(self._model.device)).logits
            found[first : first + size] = logits.double().softmax(dim=1).cpu().numpy()
        check_finite(found, f"encoder {self._model.name_or_path!r}")
        return found

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the fine-tuned model, its tokenizer and ``classifier.json`` into a folder."""
        path = Path(folder)
        begin(path)
        self._model.save_pretrained(path / MODEL)
        self._tokenizer.save_pretrained(path / MODEL)
        write_record(path, self.kind, self._classes, self.settings)

    @classmethod
    def load(cls, folder: Path, record: dict[str, Any]) -> EncoderClassifier:
        """Read the classifier that ``save`` wrote, onto a GPU if there is one.

        Args:
            folder: the folder.
            record: the content of its ``classifier.json``.

        Raises:
            ClassifierError: the files of the folder are damaged.
        """
        from sra_fast.files.models import choose_device
        from sra_fast.files.weights import MissingWeightsError

        settings = checked_settings(EncoderSettings, record["settings"])
        classes = tuple(record["classes"])
        try:
            model, tokenizer = encoder_model(str(folder / MODEL), classes, settings, new_head=False)
        except MissingWeightsError as error:
            raise ClassifierError(f"{error.problem}; train the classifier anew") from error
        return cls(model.to(choose_device("auto")), tokenizer, classes, settings)

    def _tokens(self, responses: Sequence[str]) -> list[dict[str, Any]]:
        if not responses:
            return []
        warn_of_long(self._tokenizer, responses, self._longest)
        encoded = self._tokenizer(list(responses), truncation=True, max_length=self._longest)
        return [
            {"input_ids": ids, "attention_mask": mask}
            for ids, mask in zip(encoded["input_ids"], encoded["attention_mask"], strict=True)
        ]


def encoder_model(
    name: str,
    classes: tuple[str, ...],
    settings: EncoderSettings,
    *,
    new_head: bool,
    **arguments: Any,
) -> tuple[Any, Any]:
    """Load an encoder with a classification head, and its tokenizer.

    Args:
        name: the folder or the name on the hub.
        classes: the strategies that the head tells apart.
        settings: the settings, of which ``allow_missing`` counts here.
        new_head: whether the head is still to be trained, and may be missing.
        arguments: further arguments of ``from_pretrained``.

    Raises:
        ClassifierError: it cannot be loaded.
        MissingWeightsError: the files do not hold all of its weights.
    """
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from sra_fast.files.hub_names import hub_problem
    from sra_fast.files.model_files import DamagedModelError, check_model_files, loading
    from sra_fast.files.weights import load_weights

    way_out = "give a folder or a hub name of an encoder with safetensors"
    problem = None if Path(name).is_dir() else hub_problem(name)
    if problem is not None:
        raise ClassifierError(f"encoder {name!r} is {problem}; {way_out}")
    what = f"encoder {name!r}"
    try:
        if Path(name).is_dir():
            check_model_files(Path(name))
        with loading(f"the tokenizer of {what}", name):
            tokenizer = AutoTokenizer.from_pretrained(name)
        model = load_weights(
            AutoModelForSequenceClassification,
            name,
            what,
            allow_missing=settings.allow_missing and new_head,
            unneeded=_head if new_head else lambda model: (),
            reseeded=False,
            num_labels=len(classes),
            id2label=dict(enumerate(classes)),
            label2id={strategy: index for index, strategy in enumerate(classes)},
            dtype=torch.float32,
            use_safetensors=True,
            **arguments,
        )
    except DamagedModelError as error:
        raise ClassifierError(f"{error}; {way_out}") from error
    return model, tokenizer


def _head(model: Any) -> set[str]:
    """Return the names of the weights that are trained anew: the head, and a pooler below it."""
    from sra_fast.files.weights import weights_of

    encoder = model.base_model
    kept = weights_of(model, encoder)
    pooler = getattr(encoder, "pooler", None)
    if pooler is not None:
        kept -= weights_of(model, pooler)
    return set(model.state_dict()) - kept
