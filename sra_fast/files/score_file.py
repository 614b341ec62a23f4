"""Score conversations into run folders; all is read and checked before any forward pass."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sra_fast.backends import check_backend, registered_backends
from sra_fast.chat.conversations import Conversation
from sra_fast.chat.encoding import EncodedPrompt, collate, encode_prompts, padding_token
from sra_fast.chat.strategies import DEFAULT_STRATEGIES
from sra_fast.chat.templates import PromptTemplate
from sra_fast.chat.thoughts import Thoughts
from sra_fast.definitions import DEFINITIONS, check_definition, known_definitions
from sra_fast.files.layer_progress import LayerProgress
from sra_fast.files.layerwise_model import open_layerwise
from sra_fast.files.models import ModelSource, choose_device
from sra_fast.files.provenance import code_fingerprint, file_sha256, versions
from sra_fast.files.run_date import DATE, first_day, start_of
from sra_fast.files.score_folder import LAYERS, ScoreFolder
from sra_fast.files.score_tables import (
    SCORES_JSONL,
    SCORES_PARQUET,
    ScoreRow,
    score_rows,
    write_tables,
)
from sra_fast.measure.layerwise.layerwise_options import Layerwise
from sra_fast.measure.profiles import check_profile_size
from sra_fast.measure.served import serve
from sra_fast.measure.spans import BatchRowError
from sra_fast.names import (
    FORWARD_TOKENS,
    PROFILE_BYTES,
    Device,
    DType,
    ProfileKind,
    SourceUnit,
    TurnLayout,
    Turns,
)
from sra_fast.result import SRAResult
from sra_fast.scoring import score
from sra_fast.tools.argument_error import ArgumentError
from sra_fast.tools.missing_extra import needed

if TYPE_CHECKING:
    from transformers import PreTrainedModel


TOKENIZER = "tokenizer"
"""The folder, in that of a run with profiles, of the tokenizer that made their tokens."""


class ScoringError(ArgumentError):
    """Raised when something cannot be scored.

    The message names the conversation, its place and the way out.
    """


@dataclass(frozen=True)
class ScoringOptions:
    """The options that scores depend on besides conversations, model and template.

    Attributes:
        definition: the definition that the column ``sra`` gives.
        strategies: mapping of strategy names to descriptions.
        batch_tokens: the most tokens of one forward pass, unless one prompt is longer.
        dtype, device: number format and place of the model's weights.
        backend: backend of the op.
        layout, thoughts: the arguments of those names of :func:`sra_fast.encode`.
        profile: what is kept of the attention on every token; None for nothing.
        profile_bytes: the most bytes that the profiles of all replies may take.
        sources: what the messages are cut into to tell the attention on each, with a profile; None
            without one.
        check: whether the model is checked before its first score (no score depends on it).
        layerwise: whether the model runs layer by layer, with the weights of one layer in memory;
            ``batch_tokens`` are then those that go through each layer before the next is read.

    Raises:
        KeyError: there is no such definition.
        ValueError: there is no such backend.
    """

    definition: str = "paper"
    strategies: Mapping[str, str] = field(default_factory=lambda: DEFAULT_STRATEGIES)
    batch_tokens: int = FORWARD_TOKENS
    dtype: DType = "auto"
    device: Device = "auto"
    backend: str = "auto"
    layout: TurnLayout = "as_generated"
    thoughts: Thoughts | None = None
    profile: ProfileKind | None = None
    profile_bytes: int = PROFILE_BYTES
    sources: SourceUnit | None = None
    check: bool = True
    layerwise: bool = False

    def __post_init__(self) -> None:
        check_definition(self.definition)
        check_backend(self.backend)


@dataclass(frozen=True)
class Job:
    """Conversations encoded under one template, and the folder that their scores go to.

    Attributes:
        folder: the run folder.
        template: the prompt template.
        conversations: the conversations, in order.
        prompts: the encoded prompts of all conversations, in order.
    """

    folder: ScoreFolder
    template: PromptTemplate
    conversations: Sequence[Conversation]
    prompts: Sequence[EncodedPrompt]

    @property
    def tokens(self) -> int:
        """The number of tokens of all prompts together."""
        return sum(len(prompt.input_ids) for prompt in self.prompts)


@dataclass(frozen=True)
class ScoredJob:
    """A job that is done, with its results.

    Attributes:
        job: the job.
        result: the scores and masses of all responses.
        rows: what the tables say of each response, in the order of the conversations.
    """

    job: Job
    result: SRAResult
    rows: list[ScoreRow]


class FileScorer:
    """A scorer that prepares jobs for one model and does them; it loads the model when it must.

    Args:
        source: the model.
        input_file: where the conversations were read from; its bytes are part of the settings.
        options: how to score.
    """

    def __init__(self, source: ModelSource, input_file: Path, options: ScoringOptions) -> None:
        needed("cli", "pandas", "pyarrow")  # not found out after hours of scoring
        self.source = source
        self.options = options
        self.tokenizer = source.tokenizer()
        self._settings = self._shared_settings(input_file)
        self._model: PreTrainedModel | None = None

    def settings(self, kind: str, **more: Any) -> dict[str, Any]:
        """Return the settings of a run folder: those that all jobs share, and ``more``."""
        return {"kind": kind, **more, **self._settings}

    def prepare(
        self,
        kind: str,
        folder: Path,
        conversations: Sequence[Conversation],
        template: PromptTemplate,
        turns: Turns,
        part_of: Path | None = None,
    ) -> Job:
        """Encode conversations for scoring, and check that the folder can take them.

        Args:
            kind: kind of the run, as its settings name it.
            folder: the run folder.
            conversations: the conversations.
            template: the prompt template.
            turns: "all" to score every reply, "last" to score the last one of each conversation.
            part_of: the folder of the run that this one is a part of, whose date counts; None for
                one that stands alone.

        Raises:
            ValueError: a conversation cannot be encoded, or the folder holds something else.
        """
        day = first_day(part_of or folder, self.source)
        prompts = encode_prompts(
            self.tokenizer,
            conversations,
            template,
            strategies=self.options.strategies,
            turns=turns,
            layout=self.options.layout,
            thoughts=self.options.thoughts,
            now=start_of(day),
            sources=self.options.sources,
        )
        for prompt in prompts:
            self._check_definable(prompt, conversations)
        dated = {} if day is None else {DATE: day}
        settings = self.settings(kind, template=asdict(template), turns=turns, **dated)
        settings["prompts_sha256"] = _digest(prompts)  # last: the other settings say more
        run = ScoreFolder(folder, settings)
        run.check()
        return Job(run, template, conversations, prompts)

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

    def check(self, jobs: Sequence[Job]) -> None:
        """Load the model if a job is not done yet, and check that the model can take every job.

        Raises:
            ValueError: a prompt is longer than the model's context, or as :meth:`load`.
        """
        if any(job.folder.result() is None for job in jobs):
            served = serve(self.load())
            for job in jobs:
                self._check_lengths(job, served.context_length)
                if self.options.profile is not None:
                    kept = [at for prompt in job.prompts for at in _reply_ends(prompt)]
                    most = self.options.profile_bytes
                    check_profile_size(kept, self.options.profile, served.attention_shape, most)

    def run(
        self,
        jobs: Sequence[Job],
        on_progress: Callable[[Job, int], None] = lambda job, tokens: None,
    ) -> list[ScoredJob]:
        """Do the jobs that are not done yet, and continue those that were begun.

        Args:
            jobs: the jobs that :meth:`prepare` returned.
            on_progress: called with a job and the number of its tokens that are done now.

        Returns:
            The jobs with their results, in order.

        Raises:
            ValueError: as :meth:`check`, before anything is written; or NaN in the hidden states.
        """
        self.check(jobs)
        return [self._run(job, on_progress) for job in jobs]

    def _run(self, job: Job, on_progress: Callable[[Job, int], None]) -> ScoredJob:
        folder = job.folder.path
        progress = LayerProgress(lambda tokens: on_progress(job, tokens))

        def score_batch(batch: Sequence[EncodedPrompt]) -> SRAResult:
            return self._score(job, batch, progress)

        def rows_of(result: SRAResult) -> list[ScoreRow]:
            return score_rows(
                result, job.prompts, job.conversations, job.template.name, self.options.definition
            )

        done = job.folder.complete(
            job.prompts,
            self.options.batch_tokens,
            score_batch,
            lambda result: write_tables(folder, rows_of(result)),
            progress.on_batch,
            (SCORES_JSONL, SCORES_PARQUET),
        )
        if self.options.profile is not None and not (folder / TOKENIZER).is_dir():
            self.tokenizer.save_pretrained(folder / TOKENIZER)
        return ScoredJob(job, done, rows_of(done))

    def _score(
        self, job: Job, batch: Sequence[EncodedPrompt], progress: LayerProgress
    ) -> SRAResult:
        tokens = sum(len(prompt.input_ids) for prompt in batch)
        layerwise = Layerwise(
            on_layer=partial(progress.on_layer, tokens), keep=job.folder.path / LAYERS
        )
        try:
            return score(
                self.load(),
                collate(batch, padding_token(self.tokenizer)),
                definition=self.options.definition,
                backend=self.options.backend,
                forward_tokens=self.options.batch_tokens,
                check=self.options.check,
                profile=self.options.profile,
                profile_bytes=self.options.profile_bytes,
                layerwise=layerwise if self.options.layerwise else False,
            )
        except BatchRowError as error:
            label = job.conversations[batch[error.row].conversation].label
            raise ScoringError(f"{label}: {error.problem}") from error

    def _check_definable(
        self, prompt: EncodedPrompt, conversations: Sequence[Conversation]
    ) -> None:
        if self.options.definition in ("reference", "table1") and prompt.strategy_mask.sum() < 2:
            conversation = conversations[prompt.conversation]
            strategy = conversation.strategy_of(prompt.turns[0])
            raise ScoringError(
                f"{conversation.label}: definition {self.options.definition!r} leaves out the last "
                f"token of the strategy, and {strategy!r} is a single one here; take "
                "the definition 'paper'",
                "definition",
            )

    def _check_lengths(self, job: Job, limit: int | None) -> None:
        for prompt in job.prompts:
            if limit is not None and len(prompt.input_ids) > limit:
                raise ScoringError(
                    f"{job.conversations[prompt.conversation].label}: "
                    f"{len(prompt.input_ids)} tokens under template {job.template.name!r}, and the "
                    f"model {self.source.name!r} reaches to {limit}; shorten the conversation or "
                    "take a model with a longer context"
                )

    def _shared_settings(self, input_file: Path) -> dict[str, Any]:
        without_effect = ("check", "profile_bytes")
        names = [f.name for f in fields(self.options) if f.name not in without_effect]
        options = {name: getattr(self.options, name) for name in names}
        # Runs of earlier versions do not have these settings, and go on if they are the usual ones.
        usual: dict[str, Any] = {
            "layout": "as_generated",
            "thoughts": None,
            "profile": None,
            "sources": None,
            "layerwise": False,
        }
        own = {
            name: code_fingerprint(function)
            for name, function in known_definitions().items()
            if name not in DEFINITIONS
        }
        backend = registered_backends().get(self.options.backend)
        return {
            "input_sha256": file_sha256(input_file),
            "model": self.source.fingerprint(),
            **{n: value for n, value in options.items() if n not in usual or value != usual[n]},
            "strategies": dict(self.options.strategies),
            **({"own_definitions": own} if own else {}),
            **({"own_backend": code_fingerprint(backend)} if backend is not None else {}),
            "device": choose_device(self.options.device),
            "versions": versions("sra_fast", "torch", "transformers"),
        }


def _reply_ends(prompt: EncodedPrompt) -> list[int]:
    """Return the position after each scored reply's last token."""
    replies = range(1, len(prompt.turns) + 1)
    return [int((prompt.response_mask == k).nonzero()[-1]) + 1 for k in replies]


def _digest(prompts: Sequence[EncodedPrompt]) -> str:
    """Return a SHA-256 of the tokens and their marks, which a new tokenizer version may change."""
    digest = hashlib.sha256()
    for prompt in prompts:
        for tensor in (prompt.input_ids, prompt.strategy_mask, prompt.response_mask):
            digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
