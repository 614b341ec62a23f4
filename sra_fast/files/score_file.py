"""Score conversations into run folders; all is read and checked before any forward pass."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sra_fast.chat.conversations import Conversation
from sra_fast.chat.encoding import EncodedPrompt, encode_prompts
from sra_fast.chat.templates import PromptTemplate
from sra_fast.files.batch_scorer import BatchScorer, ScoringWorkers, WorkerRowError
from sra_fast.files.layer_progress import LayerProgress
from sra_fast.files.models import ModelSource
from sra_fast.files.numbered_batches import Batch, ScoreBatches, one_by_one, token_count
from sra_fast.files.provenance import file_sha256
from sra_fast.files.run_date import DATE, first_day, start_of
from sra_fast.files.score_folder import LAYERS, ScoreFolder
from sra_fast.files.score_jobs import Job, ScoredJob, ShardJob, dealt, refuse_shards
from sra_fast.files.score_tables import (
    SCORES_JSONL,
    SCORES_PARQUET,
    ScoreRow,
    score_rows,
    write_tables,
)
from sra_fast.files.scoring_options import ScoringError, ScoringOptions
from sra_fast.files.shard import Shard, shards_in
from sra_fast.measure.layerwise.layerwise_options import Layerwise
from sra_fast.measure.profiles import check_profile_size
from sra_fast.measure.spans import BatchRowError
from sra_fast.names import Turns
from sra_fast.result import SRAResult
from sra_fast.tools.missing_extra import needed

if TYPE_CHECKING:
    from transformers import PreTrainedModel


TOKENIZER = "tokenizer"
"""The folder, in that of a run with profiles, of the tokenizer that made their tokens."""


class FileScorer:
    """A scorer that prepares jobs for one model and does them; it loads the model when it must.

    Args:
        source: the model.
        input_file: where the conversations were read from; its bytes are part of the settings.
        options: how to score.
        workers: the processes that score instead of this one; None to score in this one.
    """

    def __init__(
        self,
        source: ModelSource,
        input_file: Path,
        options: ScoringOptions,
        workers: ScoringWorkers | None = None,
    ) -> None:
        needed("cli", "pandas", "pyarrow")  # not found out after hours of scoring
        self.source = source
        self.options = options
        self._own, self._workers = BatchScorer(source, options), workers
        self.tokenizer = self._own.tokenizer
        self._settings = self._shared_settings(input_file)

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
        shard: Shard | None = None,
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
            shard: the shard of the run that is to be scored, in a folder of its own inside; None
                for the whole run.

        Returns:
            The job; a :class:`~sra_fast.files.score_jobs.ShardJob` for a shard of a run that is not
            merged yet.

        Raises:
            ValueError: a conversation cannot be encoded, or the folder holds something else.
        """
        shards = [one.folder for one in shards_in(folder)]
        day = first_day([part_of or folder, *(folder / one for one in shards)], self.source)
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
        # Processes that take the other shards may make their folders at any moment.
        every = [] if shard is None else [one.folder for one in shard.all_of_run()]
        run = ScoreFolder(folder, settings, sorted({*shards, *every}))
        run.check()
        job = Job(run, template, conversations, prompts)
        if shard is not None:
            return dealt(job, shard, self.options.batch_tokens)
        refuse_shards(job)
        return job

    def load(self) -> PreTrainedModel:
        """Return the model of this process, which is loaded at the first call.

        Raises:
            ValueError: there is no such model, or it cannot be scored.
        """
        return self._own.load()

    def check(self, jobs: Sequence[Job]) -> None:
        """Load the model if a job is not done yet, and check that the model can take every job.

        Raises:
            ValueError: a prompt is longer than the model's context, or as :meth:`load`.
        """
        if any(not job.is_done() for job in jobs):
            limits = (self._workers or self._own).limits()
            for job in jobs:
                self._check_lengths(job, limits.context_length)
                if self.options.profile is not None:
                    kept = [at for prompt in job.prompts for at in _reply_ends(prompt)]
                    most = self.options.profile_bytes
                    check_profile_size(kept, self.options.profile, limits.attention_shape, most)

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

    def run_shard(
        self, job: ShardJob, on_progress: Callable[[Job, int], None] = lambda job, tokens: None
    ) -> list[ScoreRow]:
        """Do one shard of a job, or continue it.

        Args:
            job: the shard that :meth:`prepare` returned.
            on_progress: called with the job and the number of its tokens that are done now.

        Returns:
            What the tables say of the responses of the shard, one batch after another.

        Raises:
            ValueError: as :meth:`run`.
        """
        self.check([job])
        progress = LayerProgress(lambda tokens: on_progress(job, tokens))
        rows = job.place.complete(
            job.numbered,
            self._score_batches(job, job.place.path, progress),
            lambda result, batch: self._rows(job, result, batch),
            progress.on_batch,
        )
        self._keep_tokenizer(job.place.path)
        return rows

    def _run(self, job: Job, on_progress: Callable[[Job, int], None]) -> ScoredJob:
        folder = job.folder.path
        progress = LayerProgress(lambda tokens: on_progress(job, tokens))
        done = job.folder.complete(
            job.prompts,
            self.options.batch_tokens,
            self._score_batches(job, folder, progress),
            lambda result: write_tables(folder, self._rows(job, result, job.prompts)),
            progress.on_batch,
            (SCORES_JSONL, SCORES_PARQUET),
        )
        self._keep_tokenizer(folder)
        return ScoredJob(job, done, self._rows(job, done, job.prompts))

    def _rows(self, job: Job, result: SRAResult, prompts: Batch) -> list[ScoreRow]:
        name, definition = job.template.name, self.options.definition
        return score_rows(result, prompts, job.conversations, name, definition)

    def _keep_tokenizer(self, folder: Path) -> None:
        """Keep the tokenizer that made the tokens of profiles, in the folder of a run or shard."""
        if self.options.profile is not None and not (folder / TOKENIZER).is_dir():
            self.tokenizer.save_pretrained(folder / TOKENIZER)

    def _score_batches(self, job: Job, folder: Path, progress: LayerProgress) -> ScoreBatches:
        """Return what scores batches of a job: the workers, or else this process, one by one.

        Args:
            job: the job.
            folder: where layers that are done are kept while a batch runs layer by layer.
            progress: is told of them.
        """
        workers = self._workers
        if workers is None:
            return one_by_one(lambda batch: self._score(job, batch, folder, progress))

        def score_by_workers(missing: Mapping[int, Batch]) -> Iterable[tuple[int, SRAResult]]:
            try:
                yield from workers.score(missing)
            except WorkerRowError as error:
                raise _unscorable(job, missing[error.number][error.row], error.problem) from error

        return score_by_workers

    def _score(self, job: Job, batch: Batch, folder: Path, progress: LayerProgress) -> SRAResult:
        on_layer = partial(progress.on_layer, token_count(batch))
        try:
            return self._own.score(batch, Layerwise(on_layer=on_layer, keep=folder / LAYERS))
        except BatchRowError as error:
            raise _unscorable(job, batch[error.row], error.problem) from error

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
        device = None if self._workers is None else self._workers.device
        of_model = self._own.settings(device)
        return {
            "input_sha256": file_sha256(input_file),
            "model": of_model["model"],
            **self.options.settings(),
            **of_model,
        }


def _unscorable(job: Job, prompt: EncodedPrompt, problem: str) -> ScoringError:
    return ScoringError(f"{job.conversations[prompt.conversation].label}: {problem}")


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
