"""Score encoded prompts with a model that is loaded once in each process, when it is first needed.

It is what scores in the process of a run, in each worker of an engine and in a
:class:`~sra_fast.files.column_scorer.Scorer`: the same arguments, the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from sra_fast.backends import registered_backends
from sra_fast.chat.encoding import collate, padding_token
from sra_fast.definitions import DEFINITIONS, known_definitions
from sra_fast.files.layerwise_model import open_layerwise
from sra_fast.files.models import ModelSource, choose_device
from sra_fast.files.numbered_batches import Batch
from sra_fast.files.provenance import code_fingerprint, versions
from sra_fast.files.scoring_options import ScoringOptions
from sra_fast.measure.layerwise.layerwise_options import Layerwise
from sra_fast.measure.served import serve
from sra_fast.result import SRAResult
from sra_fast.scoring import score

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class ModelLimits:
    """The bounds of the prompts and profiles of a model.

    Attributes:
        context_length: the longest prompt, in tokens; None for no limit.
        attention_shape: the numbers of attention layers and of heads in each.
    """

    context_length: int | None
    attention_shape: tuple[int, int]


class ScoringWorkers(Protocol):
    """Other processes that score batches, such as those of an engine.

    Attributes:
        device: the device of each worker's model, ``"cpu"`` or ``"cuda"``.
    """

    device: str

    def limits(self) -> ModelLimits:
        """Return what bounds the prompts and profiles of the workers' model."""

    def score(self, missing: Mapping[int, Batch]) -> Iterable[tuple[int, SRAResult]]:
        """Score batches by number, and give each result with its number as it is done.

        Raises:
            WorkerRowError: a prompt cannot be scored; it says which.
        """


class WorkerRowError(ValueError):
    """Raised when a prompt of a batch cannot be scored by a worker.

    Attributes:
        number: the number of the batch.
        row: index of the prompt in the batch.
        problem: what is wrong with it.
    """

    def __init__(self, number: int, row: int, problem: str) -> None:
        super().__init__(f"batch {number}, row {row}: {problem}")
        self.number, self.row, self.problem = number, row, problem

    def __reduce__(self) -> tuple[type[WorkerRowError], tuple[int, int, str]]:
        return type(self), (self.number, self.row, self.problem)


class BatchScorer:
    """A model that scores encoded prompts, loaded when it is first needed.

    It pickles as its source and its options, without model and tokenizer, which are loaded again
    where it arrives.

    Args:
        source: the model.
        options: how to score.
    """

    def __init__(self, source: ModelSource, options: ScoringOptions) -> None:
        self.source, self.options = source, options
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._model: PreTrainedModel | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_tokenizer": None, "_model": None}

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of the model."""
        if self._tokenizer is None:
            self._tokenizer = self.source.tokenizer()
        return self._tokenizer

    def load(self) -> PreTrainedModel:
        """Return the model, which is loaded at the first call.

        Raises:
            ValueError: there is no such model, or it cannot be scored.
        """
        if self._model is None:
            dtype, device = self.options.dtype, choose_device(self.options.device)
            model = (
                open_layerwise(self.source, dtype, device)
                if self.options.layerwise
                else self.source.load(dtype, device, logits=False)
            )
            serve(model)
            self._model = model
        return self._model

    def settings(self, device: str | None = None) -> dict[str, Any]:
        """Return what tells this model and its code from others, without loading its weights.

        These are the settings of a run that depend on the process which scores. Two processes that
        agree on them and on the options give the same scores.

        Args:
            device: the device of the model; that of this process if None.
        """
        own = {
            name: code_fingerprint(function)
            for name, function in known_definitions().items()
            if name not in DEFINITIONS
        }
        backend = registered_backends().get(self.options.backend)
        return {
            "model": self.source.fingerprint(),
            **({"own_definitions": own} if own else {}),
            **({"own_backend": code_fingerprint(backend)} if backend is not None else {}),
            "device": device or choose_device(self.options.device),
            "versions": versions("sra_fast", "torch", "transformers"),
        }

    def limits(self) -> ModelLimits:
        """Return what bounds the model's prompts and profiles; it is loaded for that.

        Raises:
            ValueError: as :meth:`load`.
        """
        served = serve(self.load())
        return ModelLimits(served.context_length, served.attention_shape)

    def score(self, prompts: Batch, layerwise: Layerwise | None = None) -> SRAResult:
        """Return the scores of the replies of some prompts, in order.

        Args:
            prompts: the prompts.
            layerwise: how they run layer by layer, if the options say that they do.

        Raises:
            BatchRowError: one of the prompts cannot be scored; it says which.
            ValueError: as :meth:`load`, or NaN in the hidden states.
        """
        return score(
            self.load(),
            collate(prompts, padding_token(self.tokenizer)),
            definition=self.options.definition,
            backend=self.options.backend,
            forward_tokens=self.options.batch_tokens,
            check=self.options.check,
            profile=self.options.profile,
            profile_bytes=self.options.profile_bytes,
            share_prefixes=self.options.share_prefixes,
            layerwise=(layerwise or True) if self.options.layerwise else False,
        )
